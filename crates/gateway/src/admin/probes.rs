//! Whether the process lives, whether it can serve, and its figures. Nobody needs a token to ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{AdminApi, Routes};
use crate::metrics::fleet;

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(alive)).routes(routes!(ready)).routes(routes!(metrics))
}

/// How a process is.
#[derive(Serialize, ToSchema)]
struct Health {
    /// In a word.
    status: &'static str,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'static str>,
}

/// Tells that the process lives.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "operation",
    responses((status = 200, description = "It lives.", body = Health)),
)]
async fn alive() -> Json<Health> {
    Json(Health { status: "ok", reason: None })
}

/// Tells whether a request sent now would find a model.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "operation",
    responses(
        (status = 200, description = "It would.", body = Health),
        (status = 503, description = "It would not, and why.", body = Health),
    ),
)]
async fn ready(State(api): State<Arc<AdminApi>>) -> (StatusCode, Json<Health>) {
    match api.gateway.readiness() {
        Ok(()) => (StatusCode::OK, Json(Health { status: "ready", reason: None })),
        Err(reason) => {
            let health = Health { status: "not ready", reason: Some(reason) };
            (StatusCode::SERVICE_UNAVAILABLE, Json(health))
        }
    }
}

/// Tells the figures of this gateway, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operation",
    responses((status = 200, description = "Figures.", body = String, content_type = "text/plain")),
)]
async fn metrics(State(api): State<Arc<AdminApi>>) -> Response {
    count_holds(&api).await;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, api.gateway.metrics().text() + &fleet::text(api.gateway.router())).into_response()
}

/// How many holds are not settled yet.
pub(super) async fn count_holds(api: &AdminApi) -> Option<usize> {
    let holds = api.gateway.admission().open_holds().await.ok()?;
    api.gateway.metrics().open_holds.set(i64::try_from(holds).unwrap_or(i64::MAX));
    Some(holds)
}
