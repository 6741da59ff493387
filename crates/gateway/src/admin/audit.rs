//! The audit log: what was tried, by whom, and what became of it.

use std::sync::Arc;

use admission::tenancy::{AuditDraft, AuditEntry, Listing};
use axum::Json;
use axum::extract::State;
use domain::OrganizationId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::asked::{Caller, Filter};
use super::refusal::Refusal;
use super::words::Moment;
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list))
}

/// Some lines of the audit log, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditLog {
    /// The lines that the caller may see. There may be none although there are more pages.
    items: Vec<AuditLine>,
    /// What to ask for next as `after`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<u64>,
}

/// A line of the audit log.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditLine {
    /// Its place, from 1 on, without gaps in the whole log.
    number: u64,
    /// When.
    at: Moment,
    /// Who: an administrator's id, or `local` for the command line.
    actor: String,
    /// What was tried.
    #[schema(example = "key.create")]
    action: String,
    /// On what: an id, or empty.
    resource: String,
    /// Whose business it is; absent if nobody's but the platform's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    organization: Option<OrganizationId>,
    /// `done`, or why not: the code of a problem.
    outcome: String,
    /// What was asked for, without secrets.
    #[schema(value_type = Object)]
    detail: Value,
    /// SHA-256 over the previous hash, the number and the line, in hexadecimal digits.
    hash: String,
}

/// Which lines are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Lines {
    /// Only those after this number: `next` of the page before.
    after: Option<u64>,
    /// At most so many, from 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists what was tried.
#[utoipa::path(
    get, path = "/audit", operation_id = "list_audit", tag = "operation",
    params(Lines),
    responses((status = 200, description = "A page of lines.", body = AuditLog)),
)]
async fn list(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Filter(Lines { after, limit }): Filter<Lines>,
) -> Result<Json<AuditLog>, Refusal> {
    let limit = limit.unwrap_or(Listing::default().limit);
    if !(1..=Listing::MAX_LIMIT).contains(&limit) {
        let message = format!("must be from 1 to {}", Listing::MAX_LIMIT);
        return Err(Refusal::invalid_field("limit", message));
    }
    let page = api.registry.audit(actor, after.unwrap_or(0), limit).await?;
    let items = page.entries.into_iter().map(AuditLine::from).collect();
    Ok(Json(AuditLog { items, next: page.next }))
}

impl From<AuditEntry> for AuditLine {
    fn from(AuditEntry { number, draft, hash }: AuditEntry) -> Self {
        let AuditDraft { at, actor, action, resource, organization, outcome, detail } = draft;
        let at = Moment(at);
        Self { number, at, actor, action, resource, organization, outcome, detail, hash }
    }
}
