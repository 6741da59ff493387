//! What is known of a worker from the outside: what its machine costs, and where its time went.

use serde::{Deserialize, Serialize};

use crate::{GpuTime, NanoUsd};

/// On what terms a worker's machine is rented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capacity {
    /// It stays until we give it back.
    #[default]
    OnDemand,
    /// It is cheaper, and may be taken away at short notice.
    Spot,
}

impl Capacity {
    /// Its name in configuration and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

/// How far a worker is on its way out.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It takes sequences.
    #[default]
    Serving,
    /// It takes nothing new; what it has goes on.
    Draining,
    /// It hands over what it cannot finish in time.
    Evacuating,
}

impl Stage {
    /// Its name in the admin API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Evacuating => "evacuating",
        }
    }
}

/// What a worker's machine costs: never less than nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rent {
    per_hour: NanoUsd,
    capacity: Capacity,
}

impl Rent {
    /// `per_hour` for an hour, on these terms. A negative price is refused.
    pub fn new(per_hour: NanoUsd, capacity: Capacity) -> Option<Self> {
        (per_hour >= NanoUsd::ZERO).then_some(Self { per_hour, capacity })
    }

    /// What an hour costs.
    pub const fn per_hour(self) -> NanoUsd {
        self.per_hour
    }

    /// On what terms.
    pub const fn capacity(self) -> Capacity {
        self.capacity
    }
}

/// Where the time of a worker's step loop went since it started, in nanoseconds. Every nanosecond has one
/// owner: all of them together are `wall`, exactly, at every moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Accounts {
    /// Billable time of sequences, provisional while they run. Once everything is quiet it is the sum of
    /// [`Usage::gpu`](crate::Usage::gpu) over all sequences whose end was read: by a reader in this process,
    /// or by the connection to one elsewhere.
    pub requests: GpuTime,
    /// `platform.idle`: waiting for work.
    pub idle: GpuTime,
    /// `platform.overhead`: calibration, admission, scheduling, book-keeping, and steps that failed.
    pub overhead: GpuTime,
    /// `platform.preemption`: computing again what a sequence lost when it gave way to others.
    pub preemption: GpuTime,
    /// `platform.migration`: computing again what another worker had computed.
    pub migration: GpuTime,
    /// `platform.abandoned`: billable time of sequences whose end nobody read, so that nobody can be
    /// billed: the reader or its connection vanished.
    pub abandoned: GpuTime,
    /// `platform.hedge`: billable time of sequences that were waived because another worker, asked for the same
    /// answer, was faster. One whose worker cannot be told so any more is abandoned.
    pub hedge: GpuTime,
    /// All of it.
    pub wall: GpuTime,
}

impl Accounts {
    /// The sum over all owners; equal to `wall`.
    pub fn owned(&self) -> GpuTime {
        let Self { requests, idle, overhead, preemption, migration, abandoned, hedge, wall: _ } =
            *self;
        requests + idle + overhead + preemption + migration + abandoned + hedge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_is_written_as_it_is_named() {
        for capacity in [Capacity::OnDemand, Capacity::Spot] {
            let written = serde_json::to_string(&capacity).unwrap();
            assert_eq!(written, format!("\"{}\"", capacity.name()));
        }
    }

    #[test]
    fn no_machine_pays_us() {
        assert_eq!(Rent::new(NanoUsd::from_nanos(-1), Capacity::Spot), None);
        let free = Rent::new(NanoUsd::ZERO, Capacity::Spot).unwrap();
        assert_eq!((free.per_hour(), free.capacity()), (NanoUsd::ZERO, Capacity::Spot));
    }
}
