//! Prices: what a model costs tenants from a moment on. One that has begun stays.

use std::sync::Arc;

use admission::tenancy::{NewPrice, PriceDeletion, PriceRecord};
use axum::Json;
use axum::extract::State;
use domain::{ModelDigest, ModelName, NanoUsd, PriceId, PricePerMillion};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::answer::{Answer, Page};
use super::asked::{Body, Caller, Changing, Filter, Known, Making, Subject};
use super::refusal::Refusal;
use super::words::{Dollars, Moment, Money};
use super::{AdminApi, Routes, records};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(list, create)).routes(routes!(read, delete))
}

/// What a model costs from a moment on.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelPrice {
    /// Names it.
    #[schema(value_type = String)]
    id: PriceId,
    /// Grows with every change.
    version: u64,
    /// The model.
    #[schema(value_type = String)]
    model: ModelName,
    /// Its exact version; absent means every version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    digest: Option<ModelDigest>,
    /// The first moment it counts.
    effective_from: Moment,
    /// The price.
    price: Tariff,
    /// When it was made.
    created_at: Moment,
}

/// How a price is reckoned.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Tariff {
    /// By tokens, each a price for a million.
    Tokens {
        /// Prompt tokens that were computed.
        input: Money,
        /// Prompt tokens that a cache supplied.
        cached_input: Money,
        /// Tokens delivered.
        output: Money,
    },
    /// By GPU time.
    GpuTime {
        /// What an hour costs.
        per_hour: Money,
        /// 100 charges what it cost.
        markup_percent: u32,
    },
}

/// A price that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceDraft {
    /// The model.
    #[schema(value_type = String)]
    model: ModelName,
    /// Its exact version; absent means every version.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    digest: Option<ModelDigest>,
    /// The first moment it counts; now if absent.
    #[serde(default)]
    effective_from: Option<Moment>,
    /// The price.
    price: TariffDraft,
}

/// How a price is to be reckoned.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum TariffDraft {
    /// By tokens, each a price for a million.
    Tokens {
        /// Prompt tokens that were computed.
        input: Dollars,
        /// Prompt tokens that a cache supplied.
        cached_input: Dollars,
        /// Tokens delivered.
        output: Dollars,
    },
    /// By GPU time.
    GpuTime {
        /// What an hour costs.
        per_hour: Dollars,
        /// 100 charges what it cost.
        markup_percent: u32,
    },
}

/// Which prices are asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Prices {
    /// Only those of this model.
    model: Option<String>,
    /// Only those after this id: `next` of the page before.
    after: Option<String>,
    /// At most so many, from 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Lists prices.
#[utoipa::path(
    get, path = "/prices", operation_id = "list_prices", tag = "prices",
    params(Prices),
    responses((status = 200, description = "A page of them.", body = Page<ModelPrice>)),
)]
async fn list(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Filter(Prices { model, after, limit }): Filter<Prices>,
) -> Result<Json<Page<ModelPrice>>, Refusal> {
    let listing = records::listing(limit, after, model, None);
    records::list::<PriceRecord, _>(&api, &caller, &listing).await
}

/// Makes a price.
#[utoipa::path(
    post, path = "/prices", operation_id = "create_price", tag = "prices",
    params(Making),
    request_body = PriceDraft,
    responses((status = 201, description = "The new one.", body = ModelPrice)),
)]
async fn create(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Making(terms): Making,
    Body(PriceDraft { model, digest, effective_from, price }): Body<PriceDraft>,
) -> Result<Answer<ModelPrice>, Refusal> {
    let effective_from = effective_from.map(|Moment(moment)| moment);
    let request = NewPrice { model, digest, effective_from, price: price.into() };
    records::make(&api, &caller, &request, &terms, "prices").await
}

/// Reads one price.
#[utoipa::path(
    get, path = "/prices/{id}", operation_id = "read_price", tag = "prices",
    params(("id" = String, Path, description = "Which one."), Known),
    responses((status = 200, description = "The price.", body = ModelPrice)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(id): Subject<PriceRecord>,
    known: Known,
) -> Result<Answer<ModelPrice>, Refusal> {
    records::read::<PriceRecord, _>(&api, &caller, id, &known).await
}

/// Removes a price that has not begun.
#[utoipa::path(
    delete, path = "/prices/{id}", operation_id = "delete_price", tag = "prices",
    params(("id" = String, Path, description = "Which one."), Changing),
    responses((status = 200, description = "As it was.", body = ModelPrice)),
)]
async fn delete(
    State(api): State<Arc<AdminApi>>,
    caller: Caller,
    Subject(price): Subject<PriceRecord>,
    Changing(terms): Changing,
) -> Result<Answer<ModelPrice>, Refusal> {
    records::remove(&api, &caller, &PriceDeletion { price }, &terms).await
}

impl From<PriceRecord> for ModelPrice {
    fn from(record: PriceRecord) -> Self {
        let PriceRecord { id, version, model, digest, effective_from, price, created_at } = record;
        let (effective_from, created_at) = (Moment(effective_from), Moment(created_at));
        Self { id, version, model, digest, effective_from, price: price.into(), created_at }
    }
}

impl From<domain::Price> for Tariff {
    fn from(price: domain::Price) -> Self {
        match price {
            domain::Price::Tokens { input, cached_input, output } => Self::Tokens {
                input: input.amount().into(),
                cached_input: cached_input.amount().into(),
                output: output.amount().into(),
            },
            domain::Price::GpuTime { per_hour, markup_percent } => {
                Self::GpuTime { per_hour: per_hour.into(), markup_percent }
            }
        }
    }
}

impl From<TariffDraft> for domain::Price {
    fn from(draft: TariffDraft) -> Self {
        // Dollars have no sign, so nothing is refused here.
        let per_million = |Dollars(amount): Dollars| {
            PricePerMillion::new(amount.max(NanoUsd::ZERO)).unwrap_or_default()
        };
        match draft {
            TariffDraft::Tokens { input, cached_input, output } => Self::Tokens {
                input: per_million(input),
                cached_input: per_million(cached_input),
                output: per_million(output),
            },
            TariffDraft::GpuTime { per_hour: Dollars(per_hour), markup_percent } => {
                Self::GpuTime { per_hour, markup_percent }
            }
        }
    }
}
