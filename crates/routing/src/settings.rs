//! How a router behaves.

use std::collections::HashMap;
use std::time::Duration;

use domain::{ModelName, Priority};

use crate::breaker::BreakerSettings;
use crate::policy::{POLICIES, Policy};

/// How a router behaves.
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Longest wait of one sequence for a worker with room, counted anew for each continuation.
    pub patience: Duration,
    /// How often one sequence may be started, continuations included; hand-overs do not count.
    pub max_attempts: u32,
    /// Who should run what nothing else is said of.
    pub policy: &'static Policy,
    /// Who should run a model.
    pub policies: HashMap<ModelName, &'static Policy>,
    /// Where lots begin: the same requests in the same order are placed the same.
    pub seed: u64,
    /// How far above the mean load affinity may take a worker, in percent of that mean; what chance alone would do is
    /// allowed beside it.
    pub max_load_percent: u32,
    /// For how long a new worker gets less than its share.
    pub slow_start: Duration,
    /// When a worker that fails is left alone.
    pub breaker: BreakerSettings,
    /// By when first tokens should be there, for policies that look at it, by priority.
    pub due: DueIn,
    /// A second worker is asked where the first token takes longer than that; `None` for never.
    pub hedge_after: Option<Duration>,
    /// Requests that wait for a worker, for each model.
    pub max_queued: usize,
    /// How long a request waits before it comes before new ones of the next higher priority.
    pub aging: Duration,
    /// Longest wait for a worker of a model that has none.
    pub cold_start_patience: Duration,
    /// Requests that wait for that, for each model.
    pub max_cold_start: usize,
    /// How long a worker may say nothing about a sequence that should go on, at least and at most.
    pub stall: StallLimits,
}

/// By when first tokens should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueIn {
    /// Of interactive requests.
    pub interactive: Duration,
    /// Of standard ones.
    pub standard: Duration,
    /// Of batches.
    pub batch: Duration,
}

impl DueIn {
    /// By when the first token of this priority should be there.
    pub const fn of(&self, priority: Priority) -> Duration {
        match priority {
            Priority::Interactive => self.interactive,
            Priority::Standard => self.standard,
            Priority::Batch => self.batch,
        }
    }
}

/// How long a worker may say nothing about a sequence. Between these bounds it follows from what it predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallLimits {
    /// At least that long.
    pub least: Duration,
    /// At most that long.
    pub most: Duration,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            max_attempts: 4,
            policy: POLICIES[0],
            policies: HashMap::new(),
            seed: 0,
            max_load_percent: 125,
            slow_start: Duration::from_secs(10),
            breaker: BreakerSettings::default(),
            due: DueIn {
                interactive: Duration::from_secs(1),
                standard: Duration::from_secs(5),
                batch: Duration::from_mins(1),
            },
            hedge_after: None,
            max_queued: 1024,
            aging: Duration::from_secs(5),
            cold_start_patience: Duration::from_secs(10),
            max_cold_start: 256,
            stall: StallLimits { least: Duration::from_secs(10), most: Duration::from_mins(1) },
        }
    }
}

impl RouterSettings {
    /// Who should run `model`.
    pub(crate) fn policy_of(&self, model: &ModelName) -> &'static Policy {
        self.policies.get(model).copied().unwrap_or(self.policy)
    }
}
