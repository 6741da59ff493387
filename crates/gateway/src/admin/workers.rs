//! Workers: what they cost, changed while they run, and when they leave.

use std::sync::Arc;
use std::time::Duration;

use admission::tenancy::{Action, Resource};
use axum::Json;
use axum::extract::State;
use domain::{Capacity, Rent};
use proto::{NotLoaded, WorkerError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::asked::{Body, Caller, Making};
use super::refusal::Refusal;
use super::words::{Dollars, Money};
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(price)).routes(routes!(drain))
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
    heard(worker, api.gateway.router().set_price(worker, rent).await)?;
    let detail = json!({ "price_per_hour_usd": per_hour.to_string(), "capacity": capacity });
    api.registry.tell(actor, deed, worker, detail).await?;
    Ok(Json(priced))
}

/// A worker that is to leave.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = WorkerDrain)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    /// Its name, as `/admin/v1/status` tells it.
    worker: String,
    /// In how many seconds its machine goes. If absent, it takes its own `drain_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaves_in_seconds: Option<u32>,
}

/// Empties a worker, until it starts again.
///
/// From now on it takes nothing new. What cannot end there in time goes on on another worker, and its client does not notice. Asked for again, the nearest time counts.
#[utoipa::path(
    post, path = "/workers/drain", operation_id = "drain_worker", tag = "operation",
    params(Making),
    request_body = Drain,
    responses((status = 200, description = "It was told.", body = Drain)),
)]
async fn drain(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
    Making(terms): Making,
    Body(drain): Body<Drain>,
) -> Result<Json<Drain>, Refusal> {
    let deed = (Action::Govern, Resource::Worker);
    api.registry.authorize(actor, deed.0, deed.1).await?;
    if terms.dry_run {
        return Ok(Json(drain));
    }
    let Drain { worker, leaves_in_seconds } = &drain;
    let leaves_in = leaves_in_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    heard(worker, api.gateway.router().drain(worker, leaves_in).await)?;
    let detail = json!({ "drain": true, "leaves_in_seconds": leaves_in_seconds });
    api.registry.tell(actor, deed, worker, detail).await?;
    Ok(Json(drain))
}

impl From<Terms> for Capacity {
    fn from(terms: Terms) -> Self {
        match terms {
            Terms::OnDemand => Self::OnDemand,
            Terms::Spot => Self::Spot,
        }
    }
}

/// What came of asking a worker: it may not be there, not answer, or refuse, in words for the asker.
pub(super) fn heard<T>(worker: &str, told: Option<Result<T, WorkerError>>) -> Result<T, Refusal> {
    let told = told.ok_or_else(|| Refusal::no_worker(worker))?;
    told.map_err(|error| match error {
        WorkerError::NotLoaded { why, message } => match why {
            NotLoaded::NameTaken => Refusal::model_name_taken(message),
            NotLoaded::NoSuchModel => Refusal::no_such_model(message),
            NotLoaded::Unreadable => Refusal::model_unreadable(message),
            NotLoaded::Outside => Refusal::model_outside(message),
            NotLoaded::NoMemory => Refusal::no_memory(message),
        },
        WorkerError::Draining => Refusal::worker_drains(worker),
        error => {
            tracing::warn!(worker, error = ?error, "worker not told");
            Refusal::lost_worker(worker)
        }
    })
}
