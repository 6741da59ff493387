//! End users for whom something else holds than for every other of their project.

use std::collections::BTreeMap;
use std::sync::Arc;

use admission::tenancy::{self, EndUserDeletion, EndUserUpdate, NewEndUser};
use axum::Json;
use axum::extract::State;
use domain::{EndUserId, OrganizationId, ProjectId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::answer::{Answer, Page};
use super::asked::{Body, Caller, Changing, Filter, Known, Making, Subject};
use super::policy::{Policy, PolicyPatch};
use super::refusal::Refusal;
use super::words::Moment;
use super::{AdminApi, Routes, records};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list, create)).routes(routes!(read, update, delete))
}

/// An end user with a policy of its own.
#[derive(Serialize, ToSchema)]
pub(super) struct EndUser {
    /// Names the user; derived from project and subject.
    #[schema(value_type = String)]
    id: EndUserId,
    /// Grows with every change.
    version: u64,
    /// Whose user.
    #[schema(value_type = String)]
    project: ProjectId,
    /// What credentials call the user.
    subject: String,
    /// What stands there, instead of the project's policy for each end user.
    policy: Policy,
    /// Words about the user.
    metadata: BTreeMap<String, String>,
    /// When the record was made.
    created_at: Moment,
}

/// A record of an end user that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndUserDraft {
    /// Of which project.
    #[schema(value_type = String)]
    project: ProjectId,
    /// What credentials call the user; never changed.
    subject: String,
    /// What stands there, instead of the project's policy for each end user.
    #[serde(default)]
    policy: PolicyPatch,
    /// Words about the user.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// What is to change. What is not named stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndUserPatch {
    /// What is to stand there.
    #[serde(default)]
    policy: PolicyPatch,
    /// Words about the user; `null` removes one.
    #[serde(default)]
    metadata: BTreeMap<String, Option<String>>,
}

/// Which end users are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EndUsers {
    /// Only those of this organization.
    #[param(value_type = Option<String>)]
    organization: Option<OrganizationId>,
    /// Only those of this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Only those whom credentials call so.
    subject: Option<String>,
    /// Only those after this id: `next` of the page before.
    after: Option<String>,
    /// At most so many, from 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists end users that have a record.
#[utoipa::path(
    get, path = "/end_users", operation_id = "list_end_users", tag = "end users",
    params(EndUsers),
    responses((status = 200, description = "A page of them.", body = Page<EndUser>)),
)]
async fn list(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Filter(EndUsers { organization, project, subject, after, limit }): Filter<EndUsers>,
) -> Result<Json<Page<EndUser>>, Refusal> {
    let within = records::parent(organization, project)?;
    let listing = records::listing(limit, after, subject, within);
    records::list::<tenancy::EndUser, _>(&api, &caller, &listing).await
}

/// Makes a record of an end user.
#[utoipa::path(
    post, path = "/end_users", operation_id = "create_end_user", tag = "end users",
    params(Making),
    request_body = EndUserDraft,
    responses((status = 201, description = "The new one.", body = EndUser)),
)]
async fn create(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Making(terms): Making,
    Body(draft): Body<EndUserDraft>,
) -> Result<Answer<EndUser>, Refusal> {
    let EndUserDraft { project, subject, policy, metadata } = draft;
    let request = NewEndUser { project, subject, policy: policy.into(), metadata };
    records::make(&api, &caller, &request, &terms, "end_users").await
}

/// Reads the record of one end user.
#[utoipa::path(
    get, path = "/end_users/{id}", operation_id = "read_end_user", tag = "end users",
    params(("id" = String, Path, description = "Which one."), Known),
    responses((status = 200, description = "The end user.", body = EndUser)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(id): Subject<tenancy::EndUser>,
    known: Known,
) -> Result<Answer<EndUser>, Refusal> {
    records::read::<tenancy::EndUser, _>(&api, &caller, id, &known).await
}

/// Changes the record of an end user.
#[utoipa::path(
    patch, path = "/end_users/{id}", operation_id = "update_end_user", tag = "end users",
    params(("id" = String, Path, description = "Which one."), Changing),
    request_body = EndUserPatch,
    responses((status = 200, description = "As it is now.", body = EndUser)),
)]
async fn update(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(end_user): Subject<tenancy::EndUser>,
    Changing(terms): Changing,
    Body(EndUserPatch { policy, metadata }): Body<EndUserPatch>,
) -> Result<Answer<EndUser>, Refusal> {
    let request = EndUserUpdate { end_user, policy: policy.into(), metadata };
    records::update(&api, &caller, &request, &terms).await
}

/// Removes the record of an end user: what holds for every other holds for this one again.
#[utoipa::path(
    delete, path = "/end_users/{id}", operation_id = "delete_end_user", tag = "end users",
    params(("id" = String, Path, description = "Which one."), Changing),
    responses((status = 200, description = "As it was.", body = EndUser)),
)]
async fn delete(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(end_user): Subject<tenancy::EndUser>,
    Changing(terms): Changing,
) -> Result<Answer<EndUser>, Refusal> {
    records::remove(&api, &caller, &EndUserDeletion { end_user }, &terms).await
}

impl From<tenancy::EndUser> for EndUser {
    fn from(record: tenancy::EndUser) -> Self {
        let tenancy::EndUser { id, version, project, subject, policy, metadata, created_at } =
            record;
        let (policy, created_at) = (policy.into(), Moment(created_at));
        Self { id, version, project, subject, policy, metadata, created_at }
    }
}
