//! Organizations: the top of the tenant tree, made and bounded by the platform.

use std::collections::BTreeMap;
use std::sync::Arc;

use admission::tenancy::{
    self, NewOrganization, OrganizationDeletion, OrganizationUpdate, Patched,
};
use axum::Json;
use axum::extract::State;
use domain::{OrganizationId, Secret};
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

/// A customer or company.
#[derive(Serialize, ToSchema)]
pub(super) struct Organization {
    /// Names it.
    #[schema(value_type = String)]
    id: OrganizationId,
    /// Grows with every change.
    version: u64,
    /// Its name, for people; unique.
    name: String,
    /// The zone of its calendar windows, by its name in the IANA database.
    #[schema(example = "Europe/Berlin")]
    time_zone: String,
    /// What stands there.
    policy: Policy,
    /// Where alerts go, if they go anywhere.
    webhook: Option<Webhook>,
    /// Words about it; never interpreted.
    metadata: BTreeMap<String, String>,
    /// When it was made.
    created_at: Moment,
}

/// Where alerts go. The secret that signs them is not shown.
#[derive(Serialize, ToSchema)]
pub(super) struct Webhook {
    /// The address.
    url: String,
}

/// An organization that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrganizationDraft {
    /// Its name, for people; unique.
    name: String,
    /// The zone of its calendar windows, by its name in the IANA database; UTC if absent.
    #[serde(default)]
    time_zone: Option<String>,
    /// What stands there.
    #[serde(default)]
    policy: PolicyPatch,
    /// Where alerts go.
    #[serde(default)]
    webhook: Option<WebhookDraft>,
    /// Words about it.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// What is to change. What is not named stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrganizationPatch {
    /// Its new name.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    name: Option<String>,
    /// The new zone of its calendar windows.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    time_zone: Option<String>,
    /// What is to stand there.
    #[serde(default)]
    policy: PolicyPatch,
    /// Where alerts are to go; `null` for nowhere.
    #[serde(default)]
    #[schema(value_type = Option<WebhookDraft>)]
    webhook: Patched<WebhookDraft>,
    /// Words about it; `null` removes one.
    #[serde(default)]
    metadata: BTreeMap<String, Option<String>>,
}

/// Where alerts are to go.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WebhookDraft {
    /// An `https://` address, or `http://` on loopback.
    url: String,
    /// Keys the signature of what is sent; the one before stays if absent.
    #[serde(default)]
    secret: Option<String>,
}

/// Which organizations are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Organizations {
    /// Only the one with this name.
    name: Option<String>,
    /// Only those after this id: `next` of the page before.
    after: Option<String>,
    /// At most so many, from 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists organizations.
#[utoipa::path(
    get, path = "/organizations", operation_id = "list_organizations", tag = "organizations",
    params(Organizations),
    responses((status = 200, description = "A page of them.", body = Page<Organization>)),
)]
async fn list(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Filter(Organizations { name, after, limit }): Filter<Organizations>,
) -> Result<Json<Page<Organization>>, Refusal> {
    records::list::<tenancy::Organization, _>(
        &api,
        &caller,
        &records::listing(limit, after, name, None),
    )
    .await
}

/// Makes an organization.
#[utoipa::path(
    post, path = "/organizations", operation_id = "create_organization", tag = "organizations",
    params(Making),
    request_body = OrganizationDraft,
    responses((status = 201, description = "The new one.", body = Organization)),
)]
async fn create(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Making(terms): Making,
    Body(draft): Body<OrganizationDraft>,
) -> Result<Answer<Organization>, Refusal> {
    let OrganizationDraft { name, time_zone, policy, webhook, metadata } = draft;
    let (policy, webhook) = (policy.into(), webhook.map(Into::into));
    let request = NewOrganization { name, time_zone, policy, webhook, metadata };
    records::make(&api, &caller, &request, &terms, "organizations").await
}

/// Reads one organization.
#[utoipa::path(
    get, path = "/organizations/{id}", operation_id = "read_organization", tag = "organizations",
    params(("id" = String, Path, description = "Which one."), Known),
    responses((status = 200, description = "The organization.", body = Organization)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(id): Subject<tenancy::Organization>,
    known: Known,
) -> Result<Answer<Organization>, Refusal> {
    records::read::<tenancy::Organization, _>(&api, &caller, id, &known).await
}

/// Changes an organization.
#[utoipa::path(
    patch, path = "/organizations/{id}", operation_id = "update_organization",
    tag = "organizations",
    params(("id" = String, Path, description = "Which one."), Changing),
    request_body = OrganizationPatch,
    responses((status = 200, description = "As it is now.", body = Organization)),
)]
async fn update(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(organization): Subject<tenancy::Organization>,
    Changing(terms): Changing,
    Body(patch): Body<OrganizationPatch>,
) -> Result<Answer<Organization>, Refusal> {
    let OrganizationPatch { name, time_zone, policy, webhook, metadata } = patch;
    let webhook = match webhook {
        Patched::Same => Patched::Same,
        Patched::Cleared => Patched::Cleared,
        Patched::Set(draft) => Patched::Set(draft.into()),
    };
    let policy = policy.into();
    let request = OrganizationUpdate { organization, name, time_zone, policy, webhook, metadata };
    records::update(&api, &caller, &request, &terms).await
}

/// Removes an organization that has nothing in it.
#[utoipa::path(
    delete, path = "/organizations/{id}", operation_id = "delete_organization",
    tag = "organizations",
    params(("id" = String, Path, description = "Which one."), Changing),
    responses((status = 200, description = "As it was.", body = Organization)),
)]
async fn delete(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(organization): Subject<tenancy::Organization>,
    Changing(terms): Changing,
) -> Result<Answer<Organization>, Refusal> {
    records::remove(&api, &caller, &OrganizationDeletion { organization }, &terms).await
}

impl From<tenancy::Organization> for Organization {
    fn from(record: tenancy::Organization) -> Self {
        let tenancy::Organization {
            id,
            version,
            name,
            time_zone,
            policy,
            webhook,
            metadata,
            created_at,
        } = record;
        Self {
            id,
            version,
            name,
            time_zone: time_zone.name().to_owned(),
            policy: policy.into(),
            webhook: webhook.map(|webhook| Webhook { url: webhook.url }),
            metadata,
            created_at: Moment(created_at),
        }
    }
}

impl From<WebhookDraft> for tenancy::WebhookDraft {
    fn from(WebhookDraft { url, secret }: WebhookDraft) -> Self {
        Self { url, secret: secret.map(Secret::new) }
    }
}
