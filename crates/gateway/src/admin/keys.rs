//! Keys: what tenants call the platform with.
//!
//! A secret is shown by the answer that made it and by no other, except to whoever repeats that very request
//! under its idempotency key or rotation id within a day.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use admission::tenancy::{self, Changed, KeyRevocation, KeyRotation, KeyUpdate, NewKey};
use axum::Json;
use axum::extract::State;
use domain::{KeyId, OrganizationId, ProjectId, Timestamp};
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
    Routes::new()
        .routes(routes!(list, create))
        .routes(routes!(read, update))
        .routes(routes!(rotate))
        .routes(routes!(revoke))
}

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
pub(super) struct Key {
    /// Names it for ever; the secret may change.
    #[schema(value_type = String)]
    id: KeyId,
    /// Grows with every change.
    version: u64,
    /// Whose it is.
    #[schema(value_type = String)]
    project: ProjectId,
    /// Its name, for people.
    name: String,
    /// What stands there.
    policy: Policy,
    /// Words about it; never interpreted.
    metadata: BTreeMap<String, String>,
    /// When it was made.
    created_at: Moment,
    /// When it was revoked, if it was. Final.
    revoked_at: Option<Moment>,
    /// When it last admitted something, as far as the ledger knows. It moves without the version, so ask
    /// without `If-None-Match` to see it.
    last_used_at: Option<Moment>,
    /// How the last rotation was called by whoever asked for it.
    rotation_id: Option<String>,
    /// Until when each secret that a rotation replaced is good, oldest first.
    retiring_until: Vec<Moment>,
}

/// An API key, with its secret if that is new.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyWithSecret {
    #[serde(flatten)]
    key: Key,
    /// The secret. It is shown here and never again. Absent if none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    api_key: Option<String>,
}

/// A key that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyDraft {
    /// In which project.
    #[schema(value_type = String)]
    project: ProjectId,
    /// Its name, for people.
    name: String,
    /// What stands there.
    #[serde(default)]
    policy: PolicyPatch,
    /// Words about it.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// What is to change. What is not named stays.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPatch {
    /// Its new name.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    name: Option<String>,
    /// What is to stand there.
    #[serde(default)]
    policy: PolicyPatch,
    /// Words about it; `null` removes one.
    #[serde(default)]
    metadata: BTreeMap<String, Option<String>>,
}

/// How a secret is to be replaced.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = KeyRotation)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// What the asker calls this rotation. Asking again under the same name changes nothing, and shows the
    /// new secret again for a day.
    #[serde(default)]
    rotation_id: Option<String>,
    /// How long the old secret is still good; a day if absent.
    #[serde(default)]
    grace_seconds: Option<u64>,
}

/// Which keys are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Keys {
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

/// Lists keys.
#[utoipa::path(
    get, path = "/keys", operation_id = "list_keys", tag = "keys",
    params(Keys),
    responses((status = 200, description = "A page of them.", body = Page<Key>)),
)]
async fn list(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Filter(Keys { organization, project, name, after, limit }): Filter<Keys>,
) -> Result<Json<Page<Key>>, Refusal> {
    let within = records::parent(organization, project)?;
    let listing = records::listing(limit, after, name, within);
    let page = api.registry.list::<tenancy::Key>(actor, &listing).await?;
    let ids: Vec<KeyId> = page.records.iter().map(|key| key.id).collect();
    let used = api.database.last_used(&ids).await?;
    let items = page.records.into_iter().map(|key| Key::of(key, &used)).collect();
    Ok(Json(Page { items, next: page.next }))
}

/// Makes a key, and shows its secret.
#[utoipa::path(
    post, path = "/keys", operation_id = "create_key", tag = "keys",
    params(Making),
    request_body = KeyDraft,
    responses((status = 201, description = "The new one.", body = KeyWithSecret)),
)]
async fn create(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Making(terms): Making,
    Body(KeyDraft { project, name, policy, metadata }): Body<KeyDraft>,
) -> Result<Answer<KeyWithSecret>, Refusal> {
    let request = NewKey { project, name, policy: policy.into(), metadata };
    let changed = records::change(&api, &caller, &request, &terms).await?;
    let shown = KeyWithSecret::of(&api, &changed).await?;
    Ok(Answer::made(&changed, "keys", shown))
}

/// Reads one key.
#[utoipa::path(
    get, path = "/keys/{id}", operation_id = "read_key", tag = "keys",
    params(("id" = String, Path, description = "Which one."), Known),
    responses((status = 200, description = "The key.", body = Key)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Subject(id): Subject<tenancy::Key>,
    known: Known,
) -> Result<Answer<Key>, Refusal> {
    let key = api.registry.read::<tenancy::Key>(actor, id).await?;
    let used = api.database.last_used(&[id]).await?;
    Ok(Answer::read(key.version, &known, Key::of(key, &used)))
}

/// Changes a key.
#[utoipa::path(
    patch, path = "/keys/{id}", operation_id = "update_key", tag = "keys",
    params(("id" = String, Path, description = "Which one."), Changing),
    request_body = KeyPatch,
    responses((status = 200, description = "As it is now.", body = Key)),
)]
async fn update(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(key): Subject<tenancy::Key>,
    Changing(terms): Changing,
    Body(KeyPatch { name, policy, metadata }): Body<KeyPatch>,
) -> Result<Answer<Key>, Refusal> {
    let request = KeyUpdate { key, name, policy: policy.into(), metadata };
    let changed = records::change(&api, &caller, &request, &terms).await?;
    let used = api.database.last_used(&[key]).await?;
    Ok(Answer::changed(&changed, Key::of(changed.record.clone(), &used)))
}

/// Replaces the secret of a key, and shows the new one.
#[utoipa::path(
    post, path = "/keys/{id}/rotate", operation_id = "rotate_key", tag = "keys",
    params(("id" = String, Path, description = "Which one."), Changing),
    request_body = Option<Rotation>,
    responses((status = 200, description = "As it is now.", body = KeyWithSecret)),
)]
async fn rotate(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(key): Subject<tenancy::Key>,
    Changing(terms): Changing,
    Body(Rotation { rotation_id, grace_seconds }): Body<Rotation>,
) -> Result<Answer<KeyWithSecret>, Refusal> {
    let grace = grace_seconds.map_or(KeyRotation::DEFAULT_GRACE, Duration::from_secs);
    let request = KeyRotation { key, rotation: rotation_id, grace };
    let changed = records::change(&api, &caller, &request, &terms).await;
    let changed = changed.map_err(|refusal| refusal.calling("grace", "grace_seconds"))?;
    let shown = KeyWithSecret::of(&api, &changed).await?;
    Ok(Answer::changed(&changed, shown))
}

/// Ends a key for good.
#[utoipa::path(
    post, path = "/keys/{id}/revoke", operation_id = "revoke_key", tag = "keys",
    params(("id" = String, Path, description = "Which one."), Changing),
    responses((status = 200, description = "As it is now.", body = Key)),
)]
async fn revoke(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(key): Subject<tenancy::Key>,
    Changing(terms): Changing,
) -> Result<Answer<Key>, Refusal> {
    let changed = records::change(&api, &caller, &KeyRevocation { key }, &terms).await?;
    let used = api.database.last_used(&[key]).await?;
    Ok(Answer::changed(&changed, Key::of(changed.record.clone(), &used)))
}

impl Key {
    fn of(record: tenancy::Key, used: &HashMap<KeyId, Timestamp>) -> Self {
        let tenancy::Key {
            id,
            version,
            project,
            name,
            digest: _,
            retiring,
            rotation,
            policy,
            metadata,
            created_at,
            revoked_at,
        } = record;
        Self {
            id,
            version,
            project,
            name,
            policy: policy.into(),
            metadata,
            created_at: Moment(created_at),
            revoked_at: revoked_at.map(Moment),
            last_used_at: used.get(&id).copied().map(Moment),
            rotation_id: rotation,
            retiring_until: retiring.iter().map(|old| Moment(old.until)).collect(),
        }
    }
}

impl KeyWithSecret {
    async fn of(api: &AdminApi, changed: &Changed<tenancy::Key>) -> Result<Self, Refusal> {
        let used = api.database.last_used(&[changed.record.id]).await?;
        let api_key = changed.secret.as_ref().map(|secret| secret.expose().to_owned());
        Ok(Self { key: Key::of(changed.record.clone(), &used), api_key })
    }
}
