//! Projects: teams inside an organization.

use std::collections::BTreeMap;
use std::sync::Arc;

use admission::tenancy::{self, NewProject, ProjectDeletion, ProjectUpdate};
use axum::Json;
use axum::extract::State;
use domain::{OrganizationId, ProjectId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::answer::{Answer, Page};
use super::asked::{Body, Caller, Changing, Filter, Known, Making, Subject};
use super::policy::{Policy, PolicyPatch};
use super::refusal::Refusal;
use super::words::{Moment, given};
use super::{AdminApi, Routes, records};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list, create)).routes(routes!(read, update, delete))
}

/// A product team: the border that data never crosses.
#[derive(Serialize, ToSchema)]
pub(super) struct Project {
    /// Names it.
    #[schema(value_type = String)]
    id: ProjectId,
    /// Grows with every change.
    version: u64,
    /// Whose it is.
    #[schema(value_type = String)]
    organization: OrganizationId,
    /// Its name, for people; unique in the organization.
    name: String,
    /// What stands there.
    policy: Policy,
    /// What stands at each end user that has no record of its own.
    each_end_user: Policy,
    /// Words about it; never interpreted.
    metadata: BTreeMap<String, String>,
    /// When it was made.
    created_at: Moment,
}

/// A project that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectDraft {
    /// In which organization.
    #[schema(value_type = String)]
    organization: OrganizationId,
    /// Its name, for people; unique in the organization.
    name: String,
    /// What stands there.
    #[serde(default)]
    policy: PolicyPatch,
    /// What stands at each end user that has no record of its own.
    #[serde(default)]
    each_end_user: PolicyPatch,
    /// Words about it.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// What is to change. What is not named stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectPatch {
    /// Its new name.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    name: Option<String>,
    /// What is to stand there.
    #[serde(default)]
    policy: PolicyPatch,
    /// What is to stand at each end user that has no record of its own.
    #[serde(default)]
    each_end_user: PolicyPatch,
    /// Words about it; `null` removes one.
    #[serde(default)]
    metadata: BTreeMap<String, Option<String>>,
}

/// Which projects are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Projects {
    /// Only those of this organization.
    #[param(value_type = Option<String>)]
    organization: Option<OrganizationId>,
    /// Only those with this name.
    name: Option<String>,
    /// Only those after this id: `next` of the page before.
    after: Option<String>,
    /// At most so many, from 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists projects.
#[utoipa::path(
    get, path = "/projects", operation_id = "list_projects", tag = "projects",
    params(Projects),
    responses((status = 200, description = "A page of them.", body = Page<Project>)),
)]
async fn list(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Filter(Projects { organization, name, after, limit }): Filter<Projects>,
) -> Result<Json<Page<Project>>, Refusal> {
    let within = records::parent(organization, None)?;
    let listing = records::listing(limit, after, name, within);
    records::list::<tenancy::Project, _>(&api, &caller, &listing).await
}

/// Makes a project.
#[utoipa::path(
    post, path = "/projects", operation_id = "create_project", tag = "projects",
    params(Making),
    request_body = ProjectDraft,
    responses((status = 201, description = "The new one.", body = Project)),
)]
async fn create(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Making(terms): Making,
    Body(draft): Body<ProjectDraft>,
) -> Result<Answer<Project>, Refusal> {
    let ProjectDraft { organization, name, policy, each_end_user, metadata } = draft;
    let (policy, each_end_user) = (policy.into(), each_end_user.into());
    let request = NewProject { organization, name, policy, each_end_user, metadata };
    records::make(&api, &caller, &request, &terms, "projects").await
}

/// Reads one project.
#[utoipa::path(
    get, path = "/projects/{id}", operation_id = "read_project", tag = "projects",
    params(("id" = String, Path, description = "Which one."), Known),
    responses((status = 200, description = "The project.", body = Project)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(id): Subject<tenancy::Project>,
    known: Known,
) -> Result<Answer<Project>, Refusal> {
    records::read::<tenancy::Project, _>(&api, &caller, id, &known).await
}

/// Changes a project.
#[utoipa::path(
    patch, path = "/projects/{id}", operation_id = "update_project", tag = "projects",
    params(("id" = String, Path, description = "Which one."), Changing),
    request_body = ProjectPatch,
    responses((status = 200, description = "As it is now.", body = Project)),
)]
async fn update(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(project): Subject<tenancy::Project>,
    Changing(terms): Changing,
    Body(patch): Body<ProjectPatch>,
) -> Result<Answer<Project>, Refusal> {
    let ProjectPatch { name, policy, each_end_user, metadata } = patch;
    let (policy, each_end_user) = (policy.into(), each_end_user.into());
    let request = ProjectUpdate { project, name, policy, each_end_user, metadata };
    records::update(&api, &caller, &request, &terms).await
}

/// Removes a project that has nothing in it.
#[utoipa::path(
    delete, path = "/projects/{id}", operation_id = "delete_project", tag = "projects",
    params(("id" = String, Path, description = "Which one."), Changing),
    responses((status = 200, description = "As it was.", body = Project)),
)]
async fn delete(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(project): Subject<tenancy::Project>,
    Changing(terms): Changing,
) -> Result<Answer<Project>, Refusal> {
    records::remove(&api, &caller, &ProjectDeletion { project }, &terms).await
}

impl From<tenancy::Project> for Project {
    fn from(record: tenancy::Project) -> Self {
        let tenancy::Project {
            id,
            version,
            organization,
            name,
            policy,
            each_end_user,
            metadata,
            created_at,
        } = record;
        Self {
            id,
            version,
            organization,
            name,
            policy: policy.into(),
            each_end_user: each_end_user.into(),
            metadata,
            created_at: Moment(created_at),
        }
    }
}
