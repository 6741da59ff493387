//! What stands at one scope, and how much of each budget is spent.
//!
//! What was spent is read from the ledger's sums. Rows reach them within seconds of their request's end, and
//! what running requests hold is not spent yet.

use std::sync::Arc;

use admission::Claim;
use admission::tenancy::{self, Standing};
use axum::Json;
use axum::extract::State;
use domain::{GpuTime, NanoUsd, OrganizationId, ScopeId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::asked::{Caller, Filter};
use super::policy::{Amount, Budget, Policy};
use super::refusal::Refusal;
use super::words::Moment;
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(read))
}

/// What stands at a scope.
#[derive(Serialize, ToSchema)]
#[schema(as = ScopeBudgets)]
pub(super) struct Stand {
    /// The scope.
    scope: String,
    /// The organization it is in.
    #[schema(value_type = String)]
    organization: OrganizationId,
    /// What stands there.
    policy: Policy,
    /// Each budget of the policy in its present window, in the same order.
    budgets: Vec<Balance>,
}

/// A budget in its present window.
#[derive(Serialize, ToSchema)]
#[schema(as = BudgetBalance)]
pub(super) struct Balance {
    #[serde(flatten)]
    budget: Budget,
    /// What was spent of it in this window. It may be more than the amount of a soft budget.
    spent: Amount,
    /// What is left; zero if more was spent.
    remaining: Amount,
    /// When the window began.
    window_start: Moment,
    /// When the next one begins; absent if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    window_end: Option<Moment>,
}

/// Of which scope.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Scope {
    /// The id of an organization, a project, an end user with a record, or a key.
    scope: String,
}

/// Tells what stands at a scope, and what is spent of its budgets.
#[utoipa::path(
    get, path = "/budgets", operation_id = "read_budgets", tag = "money",
    params(Scope),
    responses((status = 200, description = "What stands there.", body = Stand)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Filter(Scope { scope }): Filter<Scope>,
) -> Result<Json<Stand>, Refusal> {
    let scope: ScopeId = scope.parse().map_err(|_| {
        let message = "must be the id of an organization, a project, an end user or a key";
        Refusal::invalid_field("scope", message)
    })?;
    let Standing { organization, policy, claims } = api.registry.standing(actor, scope).await?;
    let spent = api.database.spent(organization, &claims).await?;
    let budgets = policy.budgets.iter().zip(&claims).zip(&spent);
    let budgets = budgets.map(|((budget, claim), founding)| {
        balance(budget, claim, founding.spent.iter().map(|(_, spent)| spent).sum())
    });
    let budgets = budgets.collect();
    Ok(Json(Stand { scope: scope.to_string(), organization, policy: policy.into(), budgets }))
}

fn balance(budget: &tenancy::Budget, claim: &Claim, spent: i64) -> Balance {
    let left = claim.capacity().saturating_sub(spent).max(0);
    let has_end = claim.bounds != tenancy::WindowBounds::FOR_EVER;
    Balance {
        budget: budget.clone().into(),
        spent: amount_like(budget.amount, spent).into(),
        remaining: amount_like(budget.amount, left).into(),
        window_start: Moment(claim.bounds.start),
        window_end: has_end.then_some(Moment(claim.bounds.end)),
    }
}

/// So much of what a budget is of.
fn amount_like(amount: tenancy::Amount, units: i64) -> tenancy::Amount {
    match amount {
        tenancy::Amount::Money(_) => tenancy::Amount::Money(NanoUsd::from_nanos(units)),
        tenancy::Amount::Tokens(_) => tenancy::Amount::Tokens(units.max(0).unsigned_abs()),
        tenancy::Amount::GpuTime(_) => {
            tenancy::Amount::GpuTime(GpuTime::from_nanos(units.max(0).unsigned_abs()))
        }
    }
}
