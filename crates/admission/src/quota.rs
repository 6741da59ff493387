//! The port to the counters: one atomic hold over every scope of a caller, or none.

use async_trait::async_trait;
use domain::{HoldId, NanoUsd, ScopeId};
use std::fmt;
use std::time::Duration;

use crate::StoreError;
use crate::policy::Place;

/// What to hold for one request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Names the hold.
    pub hold: HoldId,
    /// Every place whose limits and budgets apply.
    pub places: [Place; 3],
    /// Tokens to count against tokens per minute.
    pub tokens: u32,
    /// The least money that lets the request begin.
    pub least: NanoUsd,
    /// The most money of use now.
    pub most: NanoUsd,
}

/// What was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Money held, between the least and the most asked for.
    pub amount: NanoUsd,
}

/// What was used of a hold in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Money, at most what was held.
    pub amount: NanoUsd,
    /// Tokens.
    pub tokens: u32,
}

/// Why nothing was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A scope goes too fast.
    Limit {
        /// Where the limit stands.
        scope: ScopeId,
        /// Which one.
        limit: LimitKind,
        /// The limit.
        max: u32,
        /// When there will be room.
        retry_in: Duration,
    },
    /// More tokens than the scope may use in a whole minute.
    LargerThanLimit {
        /// Where the limit stands.
        scope: ScopeId,
        /// The limit.
        max: u32,
    },
    /// A budget has less left than the least asked for.
    Budget {
        /// Where the budget stands.
        scope: ScopeId,
        /// The budget.
        amount: NanoUsd,
    },
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Requests running at the same time.
    Concurrency,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests per minute",
            Self::Tokens => "tokens per minute",
            Self::Concurrency => "concurrent requests",
        })
    }
}

/// Counters of limits and budgets.
///
/// Promises: a hold takes from every place or from none; money held plus money spent never exceeds
/// a budget; settling twice counts once; settling returns what was held and not spent.
#[async_trait]
pub trait Quota: Send + Sync {
    /// Holds quota for a request, or says which place refuses.
    async fn reserve(&self, ask: &Ask) -> Result<Result<Grant, Refusal>, StoreError>;

    /// Adds to a running hold: between `least` and `most` money, and `tokens`.
    ///
    /// Tokens are counted and never refused: a stream that runs is not cut by a rate.
    async fn extend(
        &self,
        hold: HoldId,
        least: NanoUsd,
        most: NanoUsd,
        tokens: u32,
    ) -> Result<Result<Grant, Refusal>, StoreError>;

    /// Ends a hold: what was spent stays, the rest goes back.
    async fn settle(&self, hold: HoldId, spent: Spent) -> Result<(), StoreError>;

    /// Holds that are not settled yet.
    async fn open_holds(&self) -> Result<usize, StoreError>;
}
