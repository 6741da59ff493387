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
pub(super) struct Worker {
    /// Its name or address.
    name: String,
    /// Whether it answers.
    reachable: bool,
    #[serde(flatten)]
    load: Option<Load>,
}

/// How much a worker does.
#[derive(Serialize, ToSchema)]
struct Load {
    /// Whether it takes nothing new.
    draining: bool,
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

/// Where a worker's GPU time went since it began, in nanoseconds. The first three make up the last.
#[derive(Serialize, ToSchema)]
struct Accounts {
    /// To requests.
    requests: u64,
    /// To nothing.
    #[serde(rename = "platform.idle")]
    idle: u64,
    /// To what belongs to no request.
    #[serde(rename = "platform.overhead")]
    overhead: u64,
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
    let workers = workers.iter().map(|(name, state)| Worker {
        name: name.clone(),
        reachable: state.is_some(),
        load: state.as_deref().map(Load::of),
    });
    Ok(Json(Status {
        workers: workers.collect(),
        open_holds: probes::count_holds(&api).await,
        requests_in_flight: api.gateway.in_flight(),
    }))
}

impl Load {
    fn of(state: &WorkerState) -> Self {
        Self {
            draining: state.draining,
            running: state.running,
            waiting: state.waiting,
            free_blocks: state.free_blocks,
            total_blocks: state.total_blocks,
            gpu_nanos: Accounts {
                requests: state.accounts.requests.nanos(),
                idle: state.accounts.idle.nanos(),
                overhead: state.accounts.overhead.nanos(),
                wall: state.accounts.wall.nanos(),
            },
        }
    }
}
