//! Administrators: tokens of this API, each with one role for good.
//!
//! A token is shown by the answer that made it and by no other, except to whoever repeats that very request
//! under its idempotency key within a day.

use std::sync::Arc;

use admission::tenancy::{self, AdminRevocation, AdminRotation, AdminUpdate, Changed, NewAdmin};
use axum::Json;
use axum::extract::State;
use domain::{AdminId, OrganizationId, ProjectId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::answer::{Answer, Page};
use super::asked::{Body, Caller, Changing, Filter, Known, Making, Subject};
use super::refusal::Refusal;
use super::words::{Moment, given};
use super::{AdminApi, Routes, records};

pub(super) fn routes() -> Routes {
    Routes::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update))
        .routes(routes!(rotate))
        .routes(routes!(revoke))
}

/// An administrator, without the token.
#[derive(Serialize, ToSchema)]
pub(super) struct Admin {
    /// Names it.
    #[schema(value_type = String)]
    id: AdminId,
    /// Grows with every change.
    version: u64,
    /// Its name, for people.
    name: String,
    /// What it may do.
    role: RoleName,
    /// In which organization, if it is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    organization: Option<OrganizationId>,
    /// In which project, if it is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    project: Option<ProjectId>,
    /// When it was made.
    created_at: Moment,
    /// When it was revoked, if it was. Final.
    revoked_at: Option<Moment>,
}

/// An administrator, with the token if that is new.
#[derive(Serialize, ToSchema)]
pub(super) struct AdminWithToken {
    #[serde(flatten)]
    admin: Admin,
    /// The token. It is shown here and never again. Absent if none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token: Option<String>,
}

/// An administrator that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminDraft {
    /// Its name, for people.
    name: String,
    /// What it may do.
    role: RoleName,
    /// In which organization: for `organization_admin`, and for `finance` of one organization.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    organization: Option<OrganizationId>,
    /// In which project: for `project_member`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    project: Option<ProjectId>,
}

/// What is to change. What is not named stays; a role is for good.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminPatch {
    /// Its new name.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    name: Option<String>,
}

/// What an administrator may do.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RoleName {
    /// Everything, everywhere.
    PlatformAdmin,
    /// Everything inside one organization, but its own limits, budgets and prices.
    OrganizationAdmin,
    /// Reads everything about money and changes nothing, everywhere or in one organization.
    Finance,
    /// Makes and revokes keys of one project, and reads its usage.
    ProjectMember,
}

/// Which administrators are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Admins {
    /// Only those of this organization.
    #[param(value_type = Option<String>)]
    organization: Option<OrganizationId>,
    /// Only those of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Only those with this name.
    name: Option<String>,
    /// Only those after this id: `next` of the page before.
    after: Option<String>,
    /// At most so many, from 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists administrators.
#[utoipa::path(
    get, path = "/admins", operation_id = "list_admins", tag = "admins",
    params(Admins),
    responses((status = 200, description = "A page of them.", body = Page<Admin>)),
)]
async fn list(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Filter(Admins { organization, project, name, after, limit }): Filter<Admins>,
) -> Result<Json<Page<Admin>>, Refusal> {
    let within = records::parent(organization, project)?;
    let listing = records::listing(limit, after, name, within);
    records::list::<tenancy::Admin, _>(&api, &caller, &listing).await
}

/// Makes an administrator, and shows the token.
#[utoipa::path(
    post, path = "/admins", operation_id = "create_admin", tag = "admins",
    params(Making),
    request_body = AdminDraft,
    responses((status = 201, description = "The new one.", body = AdminWithToken)),
)]
async fn create(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Making(terms): Making,
    Body(draft): Body<AdminDraft>,
) -> Result<Answer<AdminWithToken>, Refusal> {
    let role = draft.role()?;
    let request = NewAdmin { name: draft.name, role };
    let changed = records::change(&api, &caller, &request, &terms).await?;
    Ok(Answer::made(&changed, "admins", AdminWithToken::of(&changed)))
}

/// Reads one administrator.
#[utoipa::path(
    get, path = "/admins/{id}", operation_id = "read_admin", tag = "admins",
    params(("id" = String, Path, description = "Which one."), Known),
    responses((status = 200, description = "The administrator.", body = Admin)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(id): Subject<tenancy::Admin>,
    known: Known,
) -> Result<Answer<Admin>, Refusal> {
    records::read::<tenancy::Admin, _>(&api, &caller, id, &known).await
}

/// Changes the name of an administrator.
#[utoipa::path(
    patch, path = "/admins/{id}", operation_id = "update_admin", tag = "admins",
    params(("id" = String, Path, description = "Which one."), Changing),
    request_body = AdminPatch,
    responses((status = 200, description = "As it is now.", body = Admin)),
)]
async fn update(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(admin): Subject<tenancy::Admin>,
    Changing(terms): Changing,
    Body(AdminPatch { name }): Body<AdminPatch>,
) -> Result<Answer<Admin>, Refusal> {
    records::update(&api, &caller, &AdminUpdate { admin, name }, &terms).await
}

/// Replaces an administrator's own token, and shows the new one. The old one is worth nothing at once.
#[utoipa::path(
    post, path = "/admins/{id}/rotate", operation_id = "rotate_admin", tag = "admins",
    params(("id" = String, Path, description = "Which one."), Changing),
    responses((status = 200, description = "As it is now.", body = AdminWithToken)),
)]
async fn rotate(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(admin): Subject<tenancy::Admin>,
    Changing(terms): Changing,
) -> Result<Answer<AdminWithToken>, Refusal> {
    let changed = records::change(&api, &caller, &AdminRotation { admin }, &terms).await?;
    Ok(Answer::changed(&changed, AdminWithToken::of(&changed)))
}

/// Ends an administrator for good.
#[utoipa::path(
    post, path = "/admins/{id}/revoke", operation_id = "revoke_admin", tag = "admins",
    params(("id" = String, Path, description = "Which one."), Changing),
    responses((status = 200, description = "As it is now.", body = Admin)),
)]
async fn revoke(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(admin): Subject<tenancy::Admin>,
    Changing(terms): Changing,
) -> Result<Answer<Admin>, Refusal> {
    records::update(&api, &caller, &AdminRevocation { admin }, &terms).await
}

impl AdminDraft {
    /// The role, if it is told where it is at home and nothing else.
    fn role(&self) -> Result<tenancy::Role, Refusal> {
        let missing =
            |field| Refusal::invalid_field(field, "is missing; this role is at home in one");
        let surplus =
            |field| Refusal::invalid_field(field, "does not go with this role; leave it out");
        match (self.role, self.organization, self.project) {
            (RoleName::PlatformAdmin, None, None) => Ok(tenancy::Role::PlatformAdmin),
            (RoleName::OrganizationAdmin, Some(organization), None) => {
                Ok(tenancy::Role::OrganizationAdmin { organization })
            }
            (RoleName::Finance, organization, None) => Ok(tenancy::Role::Finance { organization }),
            (RoleName::ProjectMember, None, Some(project)) => {
                Ok(tenancy::Role::ProjectMember { project })
            }
            (RoleName::ProjectMember, None, None) => Err(missing("project")),
            (RoleName::OrganizationAdmin, None, None) => Err(missing("organization")),
            (RoleName::PlatformAdmin | RoleName::ProjectMember, Some(_), _) => {
                Err(surplus("organization"))
            }
            (_, _, Some(_)) => Err(surplus("project")),
        }
    }
}

impl From<tenancy::Admin> for Admin {
    fn from(record: tenancy::Admin) -> Self {
        let tenancy::Admin { id, version, name, digest: _, role, created_at, revoked_at } = record;
        let (role, organization, project) = match role {
            tenancy::Role::PlatformAdmin => (RoleName::PlatformAdmin, None, None),
            tenancy::Role::OrganizationAdmin { organization } => {
                (RoleName::OrganizationAdmin, Some(organization), None)
            }
            tenancy::Role::Finance { organization } => (RoleName::Finance, organization, None),
            tenancy::Role::ProjectMember { project } => {
                (RoleName::ProjectMember, None, Some(project))
            }
        };
        let (created_at, revoked_at) = (Moment(created_at), revoked_at.map(Moment));
        Self { id, version, name, role, organization, project, created_at, revoked_at }
    }
}

impl AdminWithToken {
    fn of(changed: &Changed<tenancy::Admin>) -> Self {
        let token = changed.secret.as_ref().map(|secret| secret.expose().to_owned());
        Self { admin: changed.record.clone().into(), token }
    }
}
