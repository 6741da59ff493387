//! For whom a worker computes, and how it divides its time between them.

use serde::{Deserialize, Serialize};

use crate::ProjectId;

/// How urgent a request is, beside others.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for every word.
    Interactive,
    /// What is not said to be anything else.
    #[default]
    Standard,
    /// Nobody waits; the cheapest machine that makes it in time will do.
    Batch,
}

impl Priority {
    /// Every priority, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Batch];

    /// Its name in requests, configuration and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Standard => "standard",
            Self::Batch => "batch",
        }
    }
}

/// For whom a sequence runs: tenants share a machine's time in proportion to their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Share {
    /// The tenant: requests of one project compete with each other before they compete with others.
    pub tenant: ProjectId,
    /// How much of a contended machine the tenant gets beside one of weight 1. At least 1.
    pub weight: u32,
    /// How urgent it is.
    pub priority: Priority,
}

impl Share {
    /// The share of a tenant of whom nothing else is known.
    pub const fn of(tenant: ProjectId) -> Self {
        Self { tenant, weight: 1, priority: Priority::Standard }
    }
}
