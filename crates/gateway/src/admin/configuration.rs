//! The configuration of this gateway, read again while it runs.

use std::sync::Arc;

use admission::tenancy::{Action, Resource};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::asked::{Caller, Making};
use super::refusal::Refusal;
use super::{AdminApi, Routes};
use crate::reload::ReloadError;

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(reload))
}

/// The configuration was read again.
#[derive(Serialize, ToSchema)]
struct Reloaded {
    /// Whether it holds now; `false` for a dry run, which only says that it could.
    reloaded: bool,
}

/// Reads the configuration of this gateway again, and does what it says now.
///
/// All of it holds when this is answered, or nothing of it and every problem is told. Addresses, stores, the response cache and certificates change with a restart or an upgrade in place only. The signal SIGHUP does the same.
#[utoipa::path(
    post, path = "/configuration/reload", operation_id = "reload_configuration", tag = "operation",
    params(Making),
    responses((status = 200, description = "It holds now.", body = Reloaded)),
)]
async fn reload(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Making(terms): Making,
) -> Result<Json<Reloaded>, Refusal> {
    let deed = (Action::Govern, Resource::Configuration);
    api.registry.authorize(actor, deed.0, deed.1).await?;
    if terms.dry_run {
        api.reloads.check().await?;
        return Ok(Json(Reloaded { reloaded: false }));
    }
    api.reloads.reload().await?;
    api.registry.tell(actor, deed, "gateway", json!({ "reloaded": true })).await?;
    Ok(Json(Reloaded { reloaded: true }))
}

impl From<ReloadError> for Refusal {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Wrong(problems) => Self::invalid(&problems),
            ReloadError::NoFile => {
                let remedy = "start it with `tollgate gateway --config FILE`";
                Self::not_reloaded(error.to_string(), remedy)
            }
            ReloadError::Unreadable(_) => {
                Self::not_reloaded(error.to_string(), "correct the file, and ask again")
            }
        }
    }
}
