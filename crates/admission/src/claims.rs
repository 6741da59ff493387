//! Which counters a request touches: the rules on its caller's path, resolved to accounts.

use domain::{GpuTime, ModelName, NanoUsd, ScopeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::bank::{AccountId, AccountKind};
use crate::tenancy::{
    Amount, Budget, Enforcement, Limit, LimitKind, Policy, TimeZone, Window, WindowBounds,
};

/// Amounts of everything that is counted, side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantity {
    /// Money charged.
    pub money: NanoUsd,
    /// Prompt and completion tokens.
    pub tokens: u64,
    /// GPU time.
    pub gpu: GpuTime,
}

/// What a rule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Money charged, in nano-dollars.
    Money,
    /// Prompt and completion tokens.
    Tokens,
    /// GPU time, in nanoseconds.
    GpuTime,
    /// Requests admitted.
    Requests,
    /// Requests running.
    Running,
}

/// A rule that bounds a request, and the account that counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which counter.
    pub account: AccountId,
    /// How it works.
    pub kind: AccountKind,
    /// What it counts.
    pub measure: Measure,
    /// The only model it counts.
    pub model: Option<ModelName>,
    /// The window it counts in; [`WindowBounds::FOR_EVER`] for what has none.
    pub bounds: WindowBounds,
    /// The rule, for telling a caller about it.
    pub rule: Rule,
}

/// A rule in a caller's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A limit.
    Limit {
        /// In which respect.
        kind: LimitKind,
        /// The most.
        max: u64,
    },
    /// A budget.
    Budget {
        /// The most, and of what.
        amount: Amount,
    },
}

/// Every rule that bounds a request for `model` at `now` by a caller with these places.
///
/// Soft budgets bound nothing: what they count is in the ledger.
pub fn claims<'a>(
    places: impl IntoIterator<Item = (ScopeId, &'a Policy)>,
    zone: &TimeZone,
    model: &ModelName,
    now: Timestamp,
) -> Vec<Claim> {
    let counts = |only: &Option<ModelName>| only.as_ref().is_none_or(|only| only == model);
    let mut claims = Vec::new();
    for (scope, policy) in places {
        for limit in policy.limits.iter().filter(|limit| counts(&limit.model)) {
            claims.push(of_limit(scope, limit, zone, now));
        }
        let hard = |enforcement| enforcement == Enforcement::Hard;
        for budget in policy.budgets.iter().filter(|budget| hard(budget.enforcement)) {
            if counts(&budget.model) {
                claims.push(of_budget(scope, budget, zone, now));
            }
        }
    }
    claims
}

/// The account that counts a budget now.
pub(crate) fn of_budget(scope: ScopeId, budget: &Budget, zone: &TimeZone, now: Timestamp) -> Claim {
    let bounds = zone.bounds(budget.window, now);
    let (measure, capacity) = match budget.amount {
        Amount::Money(amount) => (Measure::Money, amount.nanos()),
        Amount::Tokens(amount) => (Measure::Tokens, integer(amount)),
        Amount::GpuTime(amount) => (Measure::GpuTime, integer(amount.nanos())),
    };
    Claim {
        account: AccountId { scope, rule: budget.id, window: bounds.start },
        kind: AccountKind::Pool { capacity },
        measure,
        model: budget.model.clone(),
        bounds,
        rule: Rule::Budget { amount: budget.amount },
    }
}

fn of_limit(scope: ScopeId, limit: &Limit, zone: &TimeZone, now: Timestamp) -> Claim {
    let max = integer(limit.max);
    let rate = |per_minute| AccountKind::Rate { per_minute };
    let (measure, kind, window) = match limit.kind {
        LimitKind::RequestsPerMinute => (Measure::Requests, rate(max), Window::Total),
        LimitKind::TokensPerMinute => (Measure::Tokens, rate(max), Window::Total),
        LimitKind::GpuMillisPerMinute => {
            (Measure::GpuTime, rate(max.saturating_mul(NANOS_PER_MILLI)), Window::Total)
        }
        LimitKind::TokensPerDay => {
            (Measure::Tokens, AccountKind::Pool { capacity: max }, Window::Day)
        }
        LimitKind::ConcurrentRequests => {
            (Measure::Running, AccountKind::Slots { capacity: max }, Window::Total)
        }
    };
    let bounds = zone.bounds(window, now);
    Claim {
        account: AccountId { scope, rule: limit.id, window: bounds.start },
        kind,
        measure,
        model: limit.model.clone(),
        bounds,
        rule: Rule::Limit { kind: limit.kind, max: limit.max },
    }
}

impl Claim {
    /// The most that its account may count, in the measure's unit.
    pub const fn capacity(&self) -> i64 {
        match self.kind {
            AccountKind::Pool { capacity } | AccountKind::Slots { capacity } => capacity,
            AccountKind::Rate { per_minute } => per_minute,
        }
    }
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { money: NanoUsd::ZERO, tokens: 0, gpu: GpuTime::ZERO };

    /// The part that `measure` counts, in its unit.
    pub(crate) fn of(&self, measure: Measure) -> i64 {
        match measure {
            Measure::Money => self.money.nanos(),
            Measure::Tokens => integer(self.tokens),
            Measure::GpuTime => integer(self.gpu.nanos()),
            Measure::Requests | Measure::Running => 1,
        }
    }

    /// The same with that part no larger than `most`.
    pub(crate) fn at_most(&mut self, measure: Measure, most: i64) {
        let positive = most.max(0).unsigned_abs();
        match measure {
            Measure::Money => self.money = self.money.min(NanoUsd::from_nanos(most.max(0))),
            Measure::Tokens => self.tokens = self.tokens.min(positive),
            Measure::GpuTime => self.gpu = self.gpu.min(GpuTime::from_nanos(positive)),
            Measure::Requests | Measure::Running => {}
        }
    }

    /// Part by part, the smaller one.
    #[must_use]
    pub fn min(&self, other: &Self) -> Self {
        Self {
            money: self.money.min(other.money),
            tokens: self.tokens.min(other.tokens),
            gpu: self.gpu.min(other.gpu),
        }
    }

    /// Part by part, how much more than `other` it is; zero where it is not.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let gpu = self.gpu.nanos().saturating_sub(other.gpu.nanos());
        Self {
            money: self.money.saturating_sub(other.money).max(NanoUsd::ZERO),
            tokens: self.tokens.saturating_sub(other.tokens),
            gpu: GpuTime::from_nanos(gpu),
        }
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        self.money += other.money;
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.gpu += other.gpu;
    }
}

/// What counters count with.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const NANOS_PER_MILLI: i64 = 1_000_000;
