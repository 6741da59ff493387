//! What is counted about routing, for whoever scales pools.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::{GpuTime, ModelDigest};
use proto::WorkerState;
use tokio::time::Instant;

use crate::breaker::BreakerState;
use crate::queue::Lane;
use crate::router::Router;

/// Why a sequence went on elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its worker leaves, and handed it over.
    HandedOver,
    /// Its worker could no longer be reached.
    Lost,
    /// Its worker said nothing for too long.
    Stalled,
    /// Its worker did not come to it for too long, and worked on: it is crowded, and not sick.
    PassedOver,
    /// Its worker said what cannot be.
    Garbage,
    /// Its worker failed, and said so.
    Failed,
    /// Its worker's context was full, and another one's is larger.
    Outgrown,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 7] = [
        Self::HandedOver,
        Self::Lost,
        Self::Stalled,
        Self::PassedOver,
        Self::Garbage,
        Self::Failed,
        Self::Outgrown,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HandedOver => "handed_over",
            Self::Lost => "lost",
            Self::Stalled => "stalled",
            Self::PassedOver => "passed_over",
            Self::Garbage => "garbage",
            Self::Failed => "failed",
            Self::Outgrown => "outgrown",
        }
    }
}

/// A distribution of waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waits {
    /// How many were at most as long as each of [`WAIT_BOUNDS`].
    pub within: [u64; WAIT_BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// How long they were together.
    pub sum: Duration,
}

/// Bounds of the classes of waits.
pub const WAIT_BOUNDS: [Duration; 12] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_mins(1),
];

/// How routing stands.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Every worker.
    pub workers: Vec<WorkerFigures>,
    /// Requests that wait, by model and lane.
    pub queued: Vec<(ModelDigest, [usize; 4])>,
    /// How long requests waited for a worker, by lane.
    pub waits: [Waits; 4],
    /// Sequences that went on elsewhere, by cause.
    pub went_on: [(Cause, u64); Cause::ALL.len()],
    /// Other counts since the start: a name and what it counts.
    pub counts: [(&'static str, u64); 7],
}

/// How one worker stands.
#[derive(Clone, Debug)]
pub struct WorkerFigures {
    /// Its name.
    pub name: String,
    /// Whether it is left alone.
    pub breaker: BreakerState,
    /// Sequences of this gateway on it.
    pub in_flight: u32,
    /// What it last pushed; `None` while it cannot be reached.
    pub state: Option<Arc<WorkerState>>,
}

impl Router {
    /// How routing stands.
    pub fn figures(&self) -> Figures {
        let now = Instant::now();
        let worker = |member: &Arc<crate::member::Member>| WorkerFigures {
            name: member.name().to_owned(),
            breaker: member.breaker(now),
            in_flight: member.in_flight(),
            state: member.state(),
        };
        let counters = &self.counters;
        Figures {
            workers: self.members().iter().map(worker).collect(),
            queued: self.gates().into_iter().map(|(model, gate)| (model, gate.queued())).collect(),
            waits: Lane::ALL.map(|lane| counters.waits(lane)),
            went_on: Cause::ALL.map(|cause| (cause, read(&counters.went_on[cause as usize]))),
            counts: [
                ("refused", read(&counters.refused)),
                ("retried", read(&counters.retried)),
                ("hedged", read(&counters.hedged)),
                ("hedges_won", read(&counters.hedges_won)),
                ("fetched", read(&counters.fetched)),
                ("fetches_failed", read(&counters.fetches_failed)),
                ("clamped_nanoseconds", read(&counters.clamped_nanos)),
            ],
        }
    }
}

/// Counters of one router; they only grow.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) went_on: [AtomicU64; Cause::ALL.len()],
    pub(crate) refused: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) hedged: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
    pub(crate) fetched: AtomicU64,
    pub(crate) fetches_failed: AtomicU64,
    pub(crate) clamped_nanos: AtomicU64,
    waits: [WaitCounters; 4],
}

#[derive(Default)]
struct WaitCounters {
    within: [AtomicU64; WAIT_BOUNDS.len()],
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Counters {
    pub(crate) fn went_on(&self, cause: Cause) {
        count(&self.went_on[cause as usize]);
    }

    /// A worker claimed so much more time than passed.
    pub(crate) fn clamped(&self, worker: &str, time: GpuTime) {
        if time > GpuTime::ZERO {
            tracing::warn!(worker, nanos = time.nanos(), "worker claims more time than passed");
            self.clamped_nanos.fetch_add(time.nanos(), Ordering::Relaxed);
        }
    }

    pub(crate) fn waited(&self, lane: Lane, wait: Duration) {
        let waits = &self.waits[lane.at()];
        for (bound, counter) in WAIT_BOUNDS.iter().zip(&waits.within) {
            if wait <= *bound {
                count(counter);
            }
        }
        count(&waits.count);
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        waits.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn waits(&self, lane: Lane) -> Waits {
        let waits = &self.waits[lane.at()];
        Waits {
            within: std::array::from_fn(|at| read(&waits.within[at])),
            count: read(&waits.count),
            sum: Duration::from_nanos(read(&waits.nanos)),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
