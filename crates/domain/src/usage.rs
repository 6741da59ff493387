//! What a request used: tokens and GPU time, and what that came to.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

use crate::NanoUsd;

/// Time on an accelerator (or on the CPU that stands in for one), in nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct GpuTime(u64);

impl GpuTime {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// A time of `nanos` nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The time in nanoseconds.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

impl Add for GpuTime {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for GpuTime {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for GpuTime {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sum for GpuTime {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        times.fold(Self::ZERO, Add::add)
    }
}

/// What one request used, as metered by us, whatever the client asked to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that a cache supplied: a subset of `prompt_tokens`.
    pub cached_tokens: u32,
    /// Tokens produced.
    pub completion_tokens: u32,
    /// Time attributed to this request and billable: prefill and decode.
    pub gpu: GpuTime,
    /// Where its time went.
    pub times: Times,
}

/// Where a request's time went, in nanoseconds. `prefill` and `decode` make up [`Usage::gpu`]; the
/// others are told beside it and never billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// Wall time before its first step.
    pub queue: GpuTime,
    /// Accelerator time on its prompt.
    pub prefill: GpuTime,
    /// Accelerator time on its output.
    pub decode: GpuTime,
    /// Accelerator time on what had been computed before and was lost; a platform account pays.
    pub recompute: GpuTime,
    /// Accelerator time that cached tokens saved, as estimated by the work model.
    pub saved: GpuTime,
}

impl Add for Times {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            queue: self.queue + other.queue,
            prefill: self.prefill + other.prefill,
            decode: self.decode + other.decode,
            recompute: self.recompute + other.recompute,
            saved: self.saved + other.saved,
        }
    }
}

/// What one worker did for a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The worker's name.
    pub worker: String,
    /// Which life of its process; empty if it did not say.
    pub incarnation: String,
    /// Time attributed to the request and billable.
    pub gpu: GpuTime,
    /// Time on what another worker had computed before.
    pub recompute: GpuTime,
    /// What an hour of the worker cost.
    pub price_per_hour: NanoUsd,
    /// The worker said in the end what it had used; else it is known up to its last sign of life.
    pub complete: bool,
}

/// What a request came to: two figures, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    /// What it cost us: GPU time at the worker's price.
    pub cost: NanoUsd,
    /// What the tenant pays.
    pub charge: NanoUsd,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop string was met.
    Stop,
    /// The output limit or the context was reached.
    Length,
    /// The lease was not extended: the budget is used up.
    Budget,
    /// The caller left, or the gateway asked for an end.
    Cancelled,
}

impl FinishReason {
    /// The reason's name in records and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Budget => "budget",
            Self::Cancelled => "cancelled",
        }
    }
}
