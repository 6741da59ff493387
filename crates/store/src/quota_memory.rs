//! Counters in this process: the quota of a single gateway.
//!
//! Everything happens under one short lock, so a hold over all scopes is atomic. Rates are GCRA
//! (the generic cell rate algorithm, ITU-T I.371): a scope that was quiet may use a whole minute's
//! worth at once, and never more than that in any minute.
//!
//! A budget's spending is handed in when the process starts and grows with every settlement; holds
//! live and die with the process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admission::{Ask, Grant, LimitKind, Place, Quota, Refusal, Spent, StoreError};
use async_trait::async_trait;
use domain::{Clock, HoldId, NanoUsd, ScopeId};

/// Quota counters in memory.
pub struct MemoryQuota {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counters: HashMap<ScopeId, Counter>,
    holds: HashMap<HoldId, Held>,
}

/// What is counted at one scope.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    spent: NanoUsd,
    held: NanoUsd,
    running: u32,
    requests: Rate,
    tokens: Rate,
}

/// A hold that is not settled yet.
struct Held {
    places: [Place; 3],
    amount: NanoUsd,
    tokens: u32,
}

impl MemoryQuota {
    /// Counters that begin with what each scope has spent before.
    pub fn new(clock: Arc<dyn Clock>, spent: impl IntoIterator<Item = (ScopeId, NanoUsd)>) -> Self {
        let counters = spent
            .into_iter()
            .map(|(scope, spent)| (scope, Counter { spent, ..Counter::default() }))
            .collect();
        Self { clock, state: Mutex::new(State { counters, holds: HashMap::new() }) }
    }

    fn with_state<T>(&self, use_it: impl FnOnce(&mut State, u64) -> T) -> T {
        let now = self.clock.now().millis().saturating_mul(NANOS_PER_MILLI);
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

#[async_trait]
impl Quota for MemoryQuota {
    async fn reserve(&self, ask: &Ask) -> Result<Result<Grant, Refusal>, StoreError> {
        Ok(self.with_state(|state, now| state.reserve(ask, now)))
    }

    async fn extend(
        &self,
        hold: HoldId,
        least: NanoUsd,
        most: NanoUsd,
        tokens: u32,
    ) -> Result<Result<Grant, Refusal>, StoreError> {
        self.with_state(|state, now| state.extend(hold, least..=most, tokens, now))
            .ok_or_else(|| StoreError::new("extend hold", format!("{hold} is not open")))
    }

    async fn settle(&self, hold: HoldId, spent: Spent) -> Result<(), StoreError> {
        self.with_state(|state, _| state.settle(hold, spent));
        Ok(())
    }

    async fn open_holds(&self) -> Result<usize, StoreError> {
        Ok(self.with_state(|state, _| state.holds.len()))
    }
}

impl State {
    fn reserve(&mut self, ask: &Ask, now: u64) -> Result<Grant, Refusal> {
        // Look at every place before touching any.
        let mut amount = ask.most;
        for place in &ask.places {
            let counter = self.counter(place.scope);
            counter.check_rates(place, ask.tokens, now)?;
            amount = amount.min(counter.room(place, ask.least, ask.most)?);
        }
        for place in &ask.places {
            let counter = self.counters.entry(place.scope).or_default();
            counter.running += 1;
            counter.held += amount;
            counter.requests.take(1, place.limits.requests_per_minute, now);
            counter.tokens.take(ask.tokens, place.limits.tokens_per_minute, now);
        }
        self.holds.insert(ask.hold, Held { places: ask.places, amount, tokens: ask.tokens });
        Ok(Grant { amount })
    }

    fn extend(
        &mut self,
        hold: HoldId,
        wanted: std::ops::RangeInclusive<NanoUsd>,
        tokens: u32,
        now: u64,
    ) -> Option<Result<Grant, Refusal>> {
        let places = self.holds.get(&hold)?.places;
        let mut amount = *wanted.end();
        for place in &places {
            match self.counter(place.scope).room(place, *wanted.start(), *wanted.end()) {
                Ok(room) => amount = amount.min(room),
                Err(refusal) => return Some(Err(refusal)),
            }
        }
        for place in &places {
            let counter = self.counters.entry(place.scope).or_default();
            counter.held += amount;
            counter.tokens.take(tokens, place.limits.tokens_per_minute, now);
        }
        let held = self.holds.get_mut(&hold)?;
        held.amount += amount;
        held.tokens = held.tokens.saturating_add(tokens);
        Some(Ok(Grant { amount }))
    }

    fn settle(&mut self, hold: HoldId, spent: Spent) {
        // A hold that is gone was settled before: once is enough.
        let Some(held) = self.holds.remove(&hold) else { return };
        for place in &held.places {
            let counter = self.counters.entry(place.scope).or_default();
            counter.running -= 1;
            counter.held -= held.amount;
            counter.spent += spent.amount.min(held.amount);
            let unused = held.tokens.saturating_sub(spent.tokens);
            counter.tokens.give_back(unused, place.limits.tokens_per_minute);
        }
    }

    fn counter(&self, scope: ScopeId) -> Counter {
        self.counters.get(&scope).copied().unwrap_or_default()
    }
}

impl Counter {
    fn check_rates(&self, place: &Place, tokens: u32, now: u64) -> Result<(), Refusal> {
        let Place { scope, limits, .. } = *place;
        if let Some(max) = limits.concurrent_requests
            && self.running >= max
        {
            let (limit, retry_in) = (LimitKind::Concurrency, CONCURRENCY_RETRY);
            return Err(Refusal::Limit { scope, limit, max, retry_in });
        }
        if let Some(max) = limits.tokens_per_minute
            && tokens > max
        {
            return Err(Refusal::LargerThanLimit { scope, max });
        }
        let rates = [
            (LimitKind::Requests, &self.requests, 1, limits.requests_per_minute),
            (LimitKind::Tokens, &self.tokens, tokens, limits.tokens_per_minute),
        ];
        for (limit, rate, amount, max) in rates {
            let Some(max) = max else { continue };
            if let Some(retry_in) = rate.wait(amount, max, now) {
                return Err(Refusal::Limit { scope, limit, max, retry_in });
            }
        }
        Ok(())
    }

    /// Money this place can hold now, between `least` and `most`.
    ///
    /// Near its end a budget gives smaller slices, so that many holders share what is left instead
    /// of one blocking it.
    fn room(&self, place: &Place, least: NanoUsd, most: NanoUsd) -> Result<NanoUsd, Refusal> {
        let Some(budget) = place.budget else { return Ok(most) };
        let left = budget.amount.saturating_sub(self.spent).saturating_sub(self.held);
        if left < least || left <= NanoUsd::ZERO {
            return Err(Refusal::Budget { scope: place.scope, amount: budget.amount });
        }
        let share = NanoUsd::from_nanos(left.nanos() / SHARE_OF_REST);
        Ok(share.max(least).min(most))
    }
}

/// One rate: the theoretical arrival time of GCRA, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    arrival: u64,
}

impl Rate {
    /// How long until `amount` fits; `None` if it fits now.
    fn wait(self, amount: u32, max: u32, now: u64) -> Option<Duration> {
        if max == 0 {
            return Some(Duration::from_nanos(MINUTE_NANOS));
        }
        let ahead = self.arrival.max(now) + cost(amount, max) - now;
        ahead.checked_sub(MINUTE_NANOS).filter(|wait| *wait > 0).map(Duration::from_nanos)
    }

    fn take(&mut self, amount: u32, max: Option<u32>, now: u64) {
        let Some(max) = max else { return };
        self.arrival = self.arrival.max(now).saturating_add(cost(amount, max));
    }

    fn give_back(&mut self, amount: u32, max: Option<u32>) {
        let Some(max) = max else { return };
        self.arrival = self.arrival.saturating_sub(cost(amount, max));
    }
}

/// The time that `amount` takes at `max` a minute.
fn cost(amount: u32, max: u32) -> u64 {
    u64::from(amount).saturating_mul(MINUTE_NANOS / u64::from(max.max(1)))
}

const NANOS_PER_MILLI: u64 = 1_000_000;
const MINUTE_NANOS: u64 = 60_000_000_000;
/// A slot frees up when a request ends, which nobody can know; a second is a polite guess.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);
const SHARE_OF_REST: i64 = 8;
