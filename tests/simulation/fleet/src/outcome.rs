//! What came of a simulated run.

use std::time::Duration;

use domain::NanoUsd;

use crate::machine::{Books, Nature};

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Every request, in the order in which they came.
    pub ended: Vec<Ended>,
    /// Every machine that there was, in the order in which they came.
    pub worked: Vec<Worked>,
    /// What must not be, in words; empty if all went well.
    pub violations: Vec<String>,
    /// How often streams went on elsewhere, by cause.
    pub went_on: Vec<(&'static str, u64)>,
    /// How long the run took, by its own clock.
    pub took: Duration,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// From its arrival to its first token; `None` if there was none.
    pub first_token_in: Option<Duration>,
    /// From its arrival to its end.
    pub took: Duration,
    /// Output tokens.
    pub tokens: u32,
    /// Prompt tokens that its first worker had in its cache.
    pub cached_tokens: u32,
    /// What it cost us.
    pub cost: NanoUsd,
    /// Machines that worked on it.
    pub workers: usize,
    /// The one that ended it.
    pub worker: String,
    /// Whose it was.
    pub tenant: u128,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// Why a request failed, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// In words.
    pub words: String,
    /// Every worker was busy for as long as it waits, or the queue had no place.
    pub full: bool,
}

/// What a machine did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worked {
    /// Its name.
    pub name: String,
    /// How well it kept to its word.
    pub nature: Nature,
    /// What it did.
    pub books: Books,
}

impl Outcome {
    /// Requests that failed.
    pub fn failed(&self) -> usize {
        self.ended.iter().filter(|ended| ended.failure.is_some()).count()
    }

    /// Prompt tokens that were found in caches.
    pub fn cached_tokens(&self) -> u64 {
        self.ended.iter().map(|ended| u64::from(ended.cached_tokens)).sum()
    }

    /// The time that machines computed.
    pub fn busy(&self) -> Duration {
        self.worked.iter().map(|worked| worked.books.busy).sum()
    }

    /// The time that machines spent on what others had computed before.
    pub fn recomputed(&self) -> Duration {
        self.worked.iter().map(|worked| worked.books.recomputed).sum()
    }

    /// How much more than the mean machine the busiest one did: the larger one of its share of the time and its share of
    /// the tokens.
    pub fn imbalance(&self) -> f64 {
        let most = |of: fn(&Books) -> f64| {
            let done = || self.worked.iter().map(|worked| of(&worked.books));
            let mean = done().sum::<f64>() / self.worked.len().max(1) as f64;
            done().fold(0.0, f64::max) / mean.max(f64::MIN_POSITIVE)
        };
        let time = most(|books| books.busy.as_secs_f64());
        time.max(most(|books| (books.prompt_tokens + books.output_tokens) as f64))
    }

    /// The wait for a first token that `share` of the answered requests did not exceed.
    pub fn first_token_in(&self, share: f64) -> Duration {
        let mut waits: Vec<Duration> =
            self.ended.iter().filter_map(|ended| ended.first_token_in).collect();
        waits.sort_unstable();
        let at = (waits.len() as f64 * share) as usize;
        waits.get(at.min(waits.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}
