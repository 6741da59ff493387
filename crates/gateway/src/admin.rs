//! The admin listener: probes and metrics for machines, keys for administrators.
//!
//! Probes and metrics need no token; everything under `/admin` needs the admin token. The listener
//! is meant for loopback or a private network.

use std::sync::Arc;

use admission::tenancy::{Action, Registry, Resource};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use domain::ErrorKind;
use serde_json::{Value, json};
use store::Database;

use crate::failure::{Failure, appearance};
use crate::gateway::Gateway;

/// What the admin listener shows and changes.
pub(crate) struct Admin {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) registry: Registry,
    pub(crate) database: Database,
}

/// The admin listener's routes.
pub(crate) fn routes(admin: Admin) -> Router {
    let admin = Arc::new(admin);
    let guarded = Router::new()
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
    let actor = match token {
        Some(token) => admin.registry.recognize(token).await,
        None => Ok(None),
    };
    if let Ok(Some(actor)) = actor
        && admin.registry.authorize(actor, Action::Read, Resource::Status).await.is_ok()
    {
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

fn refuse(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(appearance(failure.kind()).status);
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(failure.body(domain::RequestId::generate()))).into_response()
}
