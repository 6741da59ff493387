//! Who the caller is, and where its role is at home.

use std::sync::Arc;

use admission::tenancy::{self, Actor, Place, RegistryError};
use axum::Json;
use axum::extract::State;
use domain::{OrganizationId, ProjectId};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::admins::Admin;
use super::refusal::Refusal;
use super::{AdminApi, Routes, asked};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(read))
}

/// An administrator, and where it is at home.
#[derive(Serialize, ToSchema)]
pub(super) struct Caller {
    #[serde(flatten)]
    admin: Admin,
    /// Where its role is at home.
    home: Home,
}

/// A place in the tenant tree; both are `null` for the platform.
#[derive(Default, Serialize, ToSchema)]
struct Home {
    /// The organization.
    #[schema(value_type = Option<String>)]
    organization: Option<OrganizationId>,
    /// The project.
    #[schema(value_type = Option<String>)]
    project: Option<ProjectId>,
}

/// Tells whose token this is: its role, and the organization or project where the role is at home.
#[utoipa::path(
    get, path = "/whoami", operation_id = "whoami", tag = "admins",
    responses((status = 200, description = "The administrator.", body = Caller)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    asked::Caller(actor): asked::Caller,
) -> Result<Json<Caller>, Refusal> {
    let Actor::Admin(id) = actor else {
        return Err(RegistryError::UnknownActor { actor }.into());
    };
    let admin = api.registry.read::<tenancy::Admin>(actor, id).await?;
    let (_, place) = api.registry.role(actor).await?;
    Ok(Json(Caller { admin: admin.into(), home: place.into() }))
}

impl From<Place> for Home {
    fn from(place: Place) -> Self {
        match place {
            Place::Platform => Self::default(),
            Place::Organization(organization) => {
                Self { organization: Some(organization), project: None }
            }
            Place::Project { organization, project } => {
                Self { organization: Some(organization), project: Some(project) }
            }
        }
    }
}
