//! The port to the counters: one atomic hold over every rule of a caller, or none.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{HoldId, OrganizationId, ScopeId, Timestamp};

use crate::StoreError;
use crate::claims::{Claim, Quantity};
use crate::tenancy::{Amount, LimitKind};

/// What to hold for one request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Names the hold.
    pub hold: HoldId,
    /// Whose accounts these are.
    pub organization: OrganizationId,
    /// Every rule that applies.
    pub claims: Arc<[Claim]>,
    /// The least that lets the request begin.
    pub least: Quantity,
    /// The most that is of use now.
    pub most: Quantity,
}

/// What was held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Part by part between the least and the most asked for.
    pub amount: Quantity,
    /// How the caller's rates stand now.
    pub rates: Rates,
}

/// The tightest of a caller's rates, for the headers that tell about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests per minute.
    pub requests: Option<RateState>,
    /// Tokens per minute.
    pub tokens: Option<RateState>,
}

/// How a rate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateState {
    /// The limit, per minute.
    pub limit: u64,
    /// What could be used now, as far as this gateway knows.
    pub remaining: u64,
    /// How long until all of it could be.
    pub reset_in: Duration,
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
        max: u64,
        /// When there will be room, if that is sooner than `renewed_at`.
        retry_in: Duration,
        /// When its window ends, if it has one.
        renewed_at: Option<Timestamp>,
    },
    /// More than the scope may use in a whole minute.
    LargerThanLimit {
        /// Where the limit stands.
        scope: ScopeId,
        /// Which one.
        limit: LimitKind,
        /// What was asked for, in the limit's unit.
        asked: u64,
        /// The limit.
        max: u64,
    },
    /// A budget has less left than the least asked for.
    Budget {
        /// Where the budget stands.
        scope: ScopeId,
        /// The budget.
        amount: Amount,
        /// When it starts anew, if it does.
        renewed_at: Option<Timestamp>,
    },
}

/// Counters of limits and budgets.
///
/// Promises: a hold takes from every account or from none; what is held and spent never exceeds a
/// budget; settling twice counts once; settling returns what was held and not spent.
#[async_trait]
pub trait Quota: Send + Sync {
    /// Holds quota for a request, or says which rule refuses.
    async fn reserve(&self, ask: &Ask) -> Result<Result<Grant, Refusal>, StoreError>;

    /// Adds to a running hold, part by part between `least` and `most`.
    ///
    /// Rates are counted and never refuse: a stream that runs is not cut by a rate.
    async fn extend(
        &self,
        hold: HoldId,
        least: &Quantity,
        most: &Quantity,
    ) -> Result<Result<Grant, Refusal>, StoreError>;

    /// Ends a hold: what was spent stays, the rest goes back.
    async fn settle(&self, hold: HoldId, spent: &Quantity) -> Result<(), StoreError>;

    /// Holds that are not settled yet.
    async fn open_holds(&self) -> Result<usize, StoreError>;

    /// Where every rule in `claims` stands, as far as is known without waiting: what could still be
    /// held of it.
    fn left(&self, organization: OrganizationId, claims: &[Claim]) -> Vec<Option<i64>>;
}
