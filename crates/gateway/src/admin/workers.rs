//! What workers cost, changed while they run.

use std::sync::Arc;

use admission::tenancy::{Action, Resource};
use axum::Json;
use axum::extract::State;
use domain::{Capacity, Rent};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::asked::{Body, Caller, Making};
use super::refusal::Refusal;
use super::words::{Dollars, Money};
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(price))
}

/// What a worker is to cost.
#[derive(Deserialize, ToSchema)]
#[schema(as = WorkerPriceDraft)]
#[serde(deny_unknown_fields)]
pub(super) struct Draft {
    /// Its name, as `/admin/v1/status` tells it.
    worker: String,
    /// What an hour of it costs.
    price_per_hour: Dollars,
    /// On what terms its machine is rented; `on-demand` if absent.
    #[serde(default)]
    capacity: Terms,
}

/// On what terms a machine is rented.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkerTerms)]
#[serde(rename_all = "kebab-case")]
enum Terms {
    /// It stays until it is given back.
    #[default]
    OnDemand,
    /// It is cheaper, and may be taken away at short notice.
    Spot,
}

/// What a worker costs.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkerPrice)]
pub(super) struct Priced {
    /// Its name.
    worker: String,
    /// What an hour of it costs.
    price_per_hour: Money,
    /// On what terms its machine is rented.
    capacity: Terms,
}

/// Changes what a worker costs, until it starts again with its configuration.
///
/// It is the same however often it is asked for. Every gateway learns of it from the worker. What a request cost is reckoned with the price at its end.
#[utoipa::path(
    put, path = "/workers/price", operation_id = "price_worker", tag = "operation",
    params(Making),
    request_body = Draft,
    responses((status = 200, description = "What it costs now.", body = Priced)),
)]
async fn price(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Making(terms): Making,
    Body(Draft { worker, price_per_hour, capacity }): Body<Draft>,
) -> Result<Json<Priced>, Refusal> {
    let deed = (Action::Govern, Resource::Worker);
    api.registry.authorize(actor, deed.0, deed.1).await?;
    let Dollars(per_hour) = price_per_hour;
    let rent = Rent::new(per_hour, capacity.into());
    let rent =
        rent.ok_or_else(|| Refusal::invalid_field("price_per_hour", "must not be negative"))?;
    let priced = Priced { worker, price_per_hour: per_hour.into(), capacity };
    if terms.dry_run {
        return Ok(Json(priced));
    }
    let worker = &priced.worker;
    let told = api.gateway.router().set_price(worker, rent).await;
    let told = told.ok_or_else(|| Refusal::no_worker(worker))?;
    if let Err(error) = told {
        tracing::warn!(worker, error = ?error, "worker not told its price");
        return Err(Refusal::lost_worker(worker));
    }
    let detail = json!({ "price_per_hour_usd": per_hour.to_string(), "capacity": capacity });
    api.registry.tell(actor, deed, worker, detail).await?;
    Ok(Json(priced))
}

impl From<Terms> for Capacity {
    fn from(terms: Terms) -> Self {
        match terms {
            Terms::OnDemand => Self::OnDemand,
            Terms::Spot => Self::Spot,
        }
    }
}
