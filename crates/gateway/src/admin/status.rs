//! What runs now: workers, holds, requests.

use std::sync::Arc;

use admission::tenancy::{Action, Resource};
use axum::Json;
use axum::extract::State;
use proto::WorkerState;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::asked::Caller;
use super::refusal::Refusal;
use super::words::Money;
use super::{AdminApi, Routes, probes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(read))
}

/// What runs now.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// Every worker that this gateway was told of.
    workers: Vec<Worker>,
    /// Holds that are not settled yet; `null` if that cannot be found out.
    open_holds: Option<usize>,
    /// Requests that this gateway is answering.
    requests_in_flight: i64,
}

/// A worker as this gateway sees it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Worker {
    /// It answers.
    Known(Box<KnownWorker>),
    /// It does not.
    Lost(LostWorker),
}

/// A worker that does not answer.
#[derive(Serialize, ToSchema)]
pub(super) struct LostWorker {
    /// Its name or address.
    name: String,
    /// `false`
    reachable: bool,
}

/// A worker that answers, and how much it does.
#[derive(Serialize, ToSchema)]
pub(super) struct KnownWorker {
    /// Its name or address.
    name: String,
    /// `true`
    reachable: bool,
    /// What an hour of it costs.
    price_per_hour: Money,
    /// On what terms its machine is rented: `on-demand` or `spot`.
    capacity: &'static str,
    /// Whether it takes nothing new.
    draining: bool,
    /// How far it is on its way out: `serving`, `draining` or `evacuating`.
    stage: &'static str,
    /// In how many seconds its machine goes, if it is leaving and knows.
    leaves_in_seconds: Option<u64>,
    /// Whether its machine was said to be likely to go some day.
    at_risk: bool,
    /// Where its machine is; empty if it does not say.
    zone: String,
    /// What clients may ask it for.
    models: Vec<String>,
    /// Sequences that run.
    running: u32,
    /// Sequences that wait.
    waiting: u32,
    /// Cache blocks that are free.
    free_blocks: u32,
    /// Cache blocks that there are.
    total_blocks: u32,
    /// Where its GPU time went.
    gpu_nanos: Accounts,
}

/// Where a worker's GPU time went since it began, in nanoseconds. Together the others make up `wall`.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkerAccounts)]
struct Accounts {
    /// To requests.
    requests: u64,
    /// To nothing.
    #[serde(rename = "platform.idle")]
    idle: u64,
    /// To what belongs to no request.
    #[serde(rename = "platform.overhead")]
    overhead: u64,
    /// To computing again what a sequence lost when it gave way to others.
    #[serde(rename = "platform.preemption")]
    preemption: u64,
    /// To computing again what another worker had computed.
    #[serde(rename = "platform.migration")]
    migration: u64,
    /// To sequences whose end nobody read.
    #[serde(rename = "platform.abandoned")]
    abandoned: u64,
    /// To sequences that another worker answered faster.
    #[serde(rename = "platform.hedge")]
    hedge: u64,
    /// All of it.
    wall: u64,
}

/// Tells what runs now.
#[utoipa::path(
    get, path = "/status", operation_id = "read_status", tag = "operation",
    responses((status = 200, description = "What runs.", body = Status)),
)]
async fn read(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
) -> Result<Json<Status>, Refusal> {
    api.registry.authorize(actor, Action::Read, Resource::Status).await?;
    let workers = api.gateway.router().workers();
    let workers = workers.iter().map(|(name, state)| match state {
        Some(state) => Worker::Known(Box::new(KnownWorker::of(name, state))),
        None => Worker::Lost(LostWorker { name: name.clone(), reachable: false }),
    });
    Ok(Json(Status {
        workers: workers.collect(),
        open_holds: probes::count_holds(&api).await,
        requests_in_flight: api.gateway.in_flight(),
    }))
}

impl KnownWorker {
    fn of(name: &str, state: &WorkerState) -> Self {
        Self {
            name: name.to_owned(),
            reachable: true,
            price_per_hour: state.price_per_hour.into(),
            capacity: state.capacity.name(),
            draining: !state.takes_work(),
            stage: state.stage.name(),
            leaves_in_seconds: state.leaves_in.map(|left| left.as_secs()),
            at_risk: state.at_risk,
            zone: state.zone.clone(),
            models: state.models.iter().map(|info| info.name.to_string()).collect(),
            running: state.running,
            waiting: state.waiting,
            free_blocks: state.free_blocks,
            total_blocks: state.total_blocks,
            gpu_nanos: Accounts {
                requests: state.accounts.requests.nanos(),
                idle: state.accounts.idle.nanos(),
                overhead: state.accounts.overhead.nanos(),
                preemption: state.accounts.preemption.nanos(),
                migration: state.accounts.migration.nanos(),
                abandoned: state.accounts.abandoned.nanos(),
                hedge: state.accounts.hedge.nanos(),
                wall: state.accounts.wall.nanos(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::{Accounts, GpuTime};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_worker_that_answers_shows_what_it_does_and_where_its_time_went() {
        let accounts = Accounts {
            requests: GpuTime::from_nanos(3),
            idle: GpuTime::from_nanos(4),
            hedge: GpuTime::from_nanos(5),
            wall: GpuTime::from_nanos(12),
            ..Accounts::default()
        };
        let state = WorkerState {
            running: 2,
            waiting: 1,
            stage: domain::Stage::Evacuating,
            leaves_in: Some(std::time::Duration::from_millis(12_900)),
            accounts,
            ..WorkerState::default()
        };

        let shown =
            serde_json::to_value(Worker::Known(Box::new(KnownWorker::of("w", &state)))).unwrap();

        assert_eq!((&shown["name"], &shown["reachable"]), (&json!("w"), &json!(true)));
        assert_eq!((&shown["running"], &shown["waiting"]), (&json!(2), &json!(1)));
        let leaving = [&shown["stage"], &shown["leaves_in_seconds"], &shown["draining"]];
        assert_eq!(leaving, [&json!("evacuating"), &json!(12), &json!(true)]);
        let nanos = &shown["gpu_nanos"];
        assert_eq!((&nanos["platform.idle"], &nanos["wall"]), (&json!(4), &json!(12)));
        assert_eq!(nanos["platform.hedge"], json!(5));
    }

    #[test]
    fn a_worker_that_does_not_answer_is_shown_by_name() {
        let lost = Worker::Lost(LostWorker { name: "w".to_owned(), reachable: false });
        assert_eq!(serde_json::to_value(lost).unwrap(), json!({ "name": "w", "reachable": false }));
    }
}
