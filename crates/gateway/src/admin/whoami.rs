//! Who the caller is, and where its role is at home.

use std::sync::Arc;

use admission::tenancy::{self, Actor, RegistryError};
use axum::Json;
use axum::extract::State;
use utoipa_axum::routes;

use super::admins::Admin;
use super::asked::Caller;
use super::refusal::Refusal;
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(read))
}

/// Tells whose token this is: its role, and the organization or project where the role is at home.
#[utoipa::path(
    get, path = "/whoami", operation_id = "whoami", tag = "admins",
    responses((status = 200, description = "The administrator.", body = Admin)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
) -> Result<Json<Admin>, Refusal> {
    let Actor::Admin(id) = actor else {
        return Err(RegistryError::UnknownActor { actor }.into());
    };
    let admin = api.registry.read::<tenancy::Admin>(actor, id).await?;
    Ok(Json(admin.into()))
}
