//! The admin listener: probes and metrics for machines, keys for administrators.
//!
//! Probes and metrics need no token; everything under `/admin` needs the admin token. The listener
//! is meant for loopback or a private network.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use axum::{Json, Router};
use domain::ErrorKind;
use serde_json::{Value, json};

use crate::admin_token::AdminToken;
use crate::failure::{Failure, appearance};
use crate::gateway::Gateway;
use crate::keys::{KeyRequest, Keys, KeysError, LimitsRequest, describe, describe_new};

/// What the admin listener shows and changes.
pub(crate) struct Admin {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) keys: Keys,
    pub(crate) token: AdminToken,
}

/// The admin listener's routes.
pub(crate) fn routes(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    let guarded = Router::new()
        .route("/keys", get(list_keys).post(create_key))
        .route("/keys/{id}", delete(revoke_key))
        .route("/limits/{scope}", put(set_limits))
        .route("/status", get(status))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), check_token));
    Router::new()
        .nest("/admin/v1", guarded)
        .route("/healthz", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn check_token(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = shown.and_then(|value| value.strip_prefix("Bearer "));
    if token.is_some_and(|token| admin.token.is(token)) {
        return next.run(request).await;
    }
    let message = "the admin token is missing or wrong; send it as `Authorization: Bearer ...`";
    refuse(&Failure::of(ErrorKind::Unauthenticated, message))
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    match admin.gateway.readiness() {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(reason) => {
            let body = Json(json!({ "status": "not ready", "reason": reason }));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    count_holds(&admin).await;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, admin.gateway.metrics().text()).into_response()
}

async fn count_holds(admin: &Admin) -> Option<usize> {
    let holds = admin.gateway.admission().open_holds().await.ok()?;
    admin.gateway.metrics().open_holds.set(i64::try_from(holds).unwrap_or(i64::MAX));
    Some(holds)
}

/// What runs now: workers, holds, requests.
async fn status(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let workers = admin.gateway.router().workers();
    let workers: Vec<Value> = workers
        .iter()
        .map(|(name, state)| match state {
            None => json!({ "name": name, "reachable": false }),
            Some(state) => json!({
                "name": name,
                "reachable": true,
                "draining": state.draining,
                "running": state.running,
                "waiting": state.waiting,
                "free_blocks": state.free_blocks,
                "total_blocks": state.total_blocks,
                "gpu_nanos": {
                    "requests": state.accounts.requests.nanos(),
                    "platform.idle": state.accounts.idle.nanos(),
                    "platform.overhead": state.accounts.overhead.nanos(),
                    "wall": state.accounts.wall.nanos(),
                },
            }),
        })
        .collect();
    Json(json!({
        "workers": workers,
        "open_holds": count_holds(&admin).await,
        "requests_in_flight": admin.gateway.in_flight(),
    }))
}

async fn list_keys(State(admin): State<Arc<Admin>>) -> Result<Json<Value>, Refused> {
    let keys = admin.keys.list().await?;
    Ok(Json(json!({ "data": keys.iter().map(describe).collect::<Vec<_>>() })))
}

async fn create_key(
    State(admin): State<Arc<Admin>>,
    body: Result<Json<KeyRequest>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, Refused> {
    let Json(request) = body.map_err(|error| KeysError::Invalid(error.body_text()))?;
    let (key, record) = admin.keys.create(request).await?;
    Ok((StatusCode::CREATED, Json(describe_new(&key, &record))).into_response())
}

async fn revoke_key(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    let id = admin.keys.revoke(&id).await?;
    Ok(Json(json!({ "id": id, "revoked": true })))
}

async fn set_limits(
    State(admin): State<Arc<Admin>>,
    Path(scope): Path<String>,
    body: Result<Json<LimitsRequest>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(limits) = body.map_err(|error| KeysError::Invalid(error.body_text()))?;
    let shown = json!(limits);
    let scope = admin.keys.set_limits(&scope, limits).await?;
    Ok(Json(json!({ "scope": scope.to_string(), "limits": shown })))
}

/// A refusal of the admin API.
struct Refused(KeysError);

impl From<KeysError> for Refused {
    fn from(error: KeysError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        refuse(&match self.0 {
            KeysError::Invalid(message) => Failure::of(ErrorKind::InvalidRequest, message),
            KeysError::NotFound(what) => {
                Failure::of(ErrorKind::NotFound, format!("there is no {what}"))
            }
            KeysError::Store(error) => {
                let failure = Failure::internal(error);
                tracing::error!(error = failure.cause(), "admin request failed");
                failure
            }
        })
    }
}

fn refuse(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(appearance(failure.kind()).status);
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(failure.body(domain::RequestId::generate()))).into_response()
}
