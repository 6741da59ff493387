//! What was used, by whom, of what and when, as far as the caller may know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use admission::tenancy::{Action, Actor, Place, RecordId, Resource};
use axum::Json;
use axum::extract::State;
use domain::{EndUserId, KeyId, ModelName, OrganizationId, ProjectId, Timestamp};
use serde::{Deserialize, Serialize};
use store::{UsageGroup, UsageLine, UsageQuery};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::asked::{Caller, Filter};
use super::refusal::Refusal;
use super::words::{Moment, Money};
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(read))
}

/// What was used, a line for each group.
#[derive(Serialize, ToSchema)]
pub(super) struct Usage {
    /// The first moment that counts.
    from: Moment,
    /// The first moment that does not count any more.
    to: Moment,
    /// In order of their groups.
    items: Vec<Line>,
    /// What to ask for next as `page`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<String>,
}

/// What was used by one group.
#[derive(Serialize, ToSchema)]
#[schema(as = UsageLine)]
pub(super) struct Line {
    /// What makes the group: an id, a name or a moment for each word of `group_by`; `null` for no end user.
    group: BTreeMap<&'static str, Option<String>>,
    /// Requests admitted.
    requests: u64,
    /// Those of them that failed by a fault of the platform.
    failures: u64,
    /// Tokens of prompts, cached ones included.
    prompt_tokens: u64,
    /// Tokens of prompts that a cache supplied.
    cached_tokens: u64,
    /// Tokens produced.
    completion_tokens: u64,
    /// GPU time attributed and billable.
    gpu_nanos: u64,
    /// GPU time on what was computed before and lost; nobody is charged for it.
    recompute_nanos: u64,
    /// GPU time that caches saved, as estimated.
    saved_nanos: u64,
    /// What it cost the platform.
    cost: Money,
    /// What tenants pay.
    charge: Money,
    /// What prices asked beyond what was held; nobody is charged for it.
    overrun: Money,
}

/// Which usage is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Asked {
    /// The first moment: RFC 3339 or a date, at the beginning of a quarter of an hour, or of an hour or a day
    /// if lines are made by them. Thirty days before `to` if absent.
    #[param(value_type = Option<String>)]
    from: Option<Moment>,
    /// The moment after the last. The end of the present day (UTC) if absent.
    #[param(value_type = Option<String>)]
    to: Option<Moment>,
    /// What lines are made by, with commas between: `organization`, `project`, `end_user`, `key`, `model`,
    /// `gateway`, and `hour` or `day`. One line if absent.
    #[param(example = "project,day")]
    group_by: Option<String>,
    /// Only this organization.
    #[param(value_type = Option<String>)]
    organization: Option<OrganizationId>,
    /// Only this project.
    #[param(value_type = Option<String>)]
    project: Option<ProjectId>,
    /// Only this end user.
    #[param(value_type = Option<String>)]
    end_user: Option<EndUserId>,
    /// Only this key.
    #[param(value_type = Option<String>)]
    key: Option<KeyId>,
    /// Only this model.
    #[param(value_type = Option<String>)]
    model: Option<ModelName>,
    /// At most so many lines, from 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next` of the page before.
    #[param(value_type = Option<String>)]
    page: Option<u32>,
}

/// Tells what was used.
#[utoipa::path(
    get, path = "/usage", operation_id = "read_usage", tag = "money",
    params(Asked),
    responses((status = 200, description = "A page of lines.", body = Usage)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Filter(asked): Filter<Asked>,
) -> Result<Json<Usage>, Refusal> {
    let (organization, project) = confine(&api, actor, &asked).await?;
    let to = asked.to.map_or_else(|| end_of_day(api.now()), |Moment(to)| to);
    let usual = || Timestamp::from_millis(to.millis().saturating_sub(millis(USUAL)));
    let from = asked.from.map_or_else(usual, |Moment(from)| from);
    let query = UsageQuery {
        from,
        to,
        organization,
        project,
        user: asked.end_user,
        key: asked.key,
        model: asked.model,
        groups: groups(asked.group_by.as_deref().unwrap_or_default())?,
        skip: asked.page.unwrap_or(0),
        limit: asked.limit.unwrap_or(USUAL_LINES),
    };
    let page = api.database.usage(&query).await?;
    let items = page.lines.into_iter().map(|line| Line::of(line, &query.groups)).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(Json(Usage { from: Moment(from), to: Moment(to), items, next }))
}

/// The organization and the project to which the answer must be confined.
///
/// Every other filter only leaves out more, so it needs no permission of its own.
async fn confine(
    api: &AdminApi,
    actor: Actor,
    asked: &Asked,
) -> Result<(Option<OrganizationId>, Option<ProjectId>), Refusal> {
    let within = asked.project.map(RecordId::from).or(asked.organization.map(RecordId::from));
    let place = api.registry.confine(actor, Action::Read, Resource::Usage, within).await?;
    let (organization, project) = match place {
        Place::Platform => (None, None),
        Place::Organization(organization) => (Some(organization), None),
        Place::Project { organization, project } => (Some(organization), Some(project)),
    };
    if asked.project.is_some() && asked.organization.is_some_and(|id| Some(id) != organization) {
        let message = "is not in this organization; leave `organization` out";
        return Err(Refusal::invalid_field("project", message));
    }
    Ok((organization, project))
}

fn groups(text: &str) -> Result<Vec<UsageGroup>, Refusal> {
    let mut groups = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let Some((_, group)) = GROUPS.iter().find(|(name, _)| *name == word) else {
            let known: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
            let message = format!("names `{word}`; it may name {}", known.join(", "));
            return Err(Refusal::invalid_field("group_by", message));
        };
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    Ok(groups)
}

impl Line {
    fn of(line: UsageLine, groups: &[UsageGroup]) -> Self {
        let values = groups.iter().zip(line.group);
        Self {
            group: values.map(|(group, value)| (name(*group), shown(*group, value))).collect(),
            requests: line.requests,
            failures: line.failures,
            prompt_tokens: line.prompt_tokens,
            cached_tokens: line.cached_tokens,
            completion_tokens: line.completion_tokens,
            gpu_nanos: line.gpu.nanos(),
            recompute_nanos: line.recompute.nanos(),
            saved_nanos: line.saved.nanos(),
            cost: line.charge.cost.into(),
            charge: line.charge.charge.into(),
            overrun: line.overrun.into(),
        }
    }
}

fn name(group: UsageGroup) -> &'static str {
    GROUPS.iter().find(|(_, known)| *known == group).map_or("", |(name, _)| name)
}

/// A group's value: stretches of time by their first moment, no end user as nothing.
fn shown(group: UsageGroup, value: String) -> Option<String> {
    match group {
        UsageGroup::Hour | UsageGroup::Day => {
            let start = Timestamp::from_millis(value.parse().ok()?);
            Some(Moment(start).to_string())
        }
        UsageGroup::EndUser => Some(value).filter(|value| !value.is_empty()),
        _ => Some(value),
    }
}

fn end_of_day(now: Timestamp) -> Timestamp {
    let day = millis(DAY);
    Timestamp::from_millis((now.millis() / day + 1) * day)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Words of `group_by`.
const GROUPS: [(&str, UsageGroup); 8] = [
    ("organization", UsageGroup::Organization),
    ("project", UsageGroup::Project),
    ("end_user", UsageGroup::EndUser),
    ("key", UsageGroup::Key),
    ("model", UsageGroup::Model),
    ("gateway", UsageGroup::Gateway),
    ("hour", UsageGroup::Hour),
    ("day", UsageGroup::Day),
];
const DAY: Duration = Duration::from_hours(24);
const USUAL: Duration = Duration::from_hours(30 * 24);
const USUAL_LINES: u32 = 100;
