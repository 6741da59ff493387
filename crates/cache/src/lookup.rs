//! Decides whether a request needs to run.
//!
//! The request that has the turn asks the tiers in order; what a later tier knew is copied to the
//! earlier ones. If none knows, the caller gets a [`Leader`] and computes the answer, while equal
//! requests wait inside [`Cache::look_up`] for it, even if no tier can keep it.
//!
//! Promises: however many ask at once, each tier is asked once and one caller computes. What ended
//! early (a budget, a hang-up) reaches no tier and no other caller.

use std::sync::Arc;

use crate::flight::{Flights, Landed, Lead, Turn};
use crate::{CacheKey, CachedAnswer, Tier};

/// Where a hit is from that no tier gave: an equal request computed it at the same time.
pub const SHARED: &str = "shared";

/// Answers known so far, and requests that are finding out.
pub struct Cache {
    tiers: Arc<[Arc<dyn Tier>]>,
    flights: Flights,
}

/// What is known about a request.
#[derive(Debug)]
pub enum Lookup {
    /// It has been answered.
    Hit {
        /// The answer.
        answer: CachedAnswer,
        /// The tier that knew it, or [`SHARED`].
        tier: &'static str,
    },
    /// It has not, and this caller is the one to do it.
    Miss(Leader),
}

impl Cache {
    /// A cache that asks `tiers` in this order: the nearest first.
    pub fn new(tiers: Vec<Arc<dyn Tier>>) -> Self {
        Self { tiers: tiers.into(), flights: Flights::default() }
    }

    /// Finds the answer to `key`, waiting for an equal request that is under way.
    ///
    /// The wait lasts as long as that request; drop the future to stop waiting.
    pub async fn look_up(&self, key: CacheKey) -> Lookup {
        let lead = match self.flights.join(key).await {
            Turn::Lead(lead) => lead,
            Turn::Landed(Landed { answer, from }) => return Lookup::Hit { answer, tier: from },
        };
        let Some((index, answer)) = self.search(&key).await else {
            return Lookup::Miss(Leader { lead, key, tiers: Arc::clone(&self.tiers) });
        };
        let (nearer, tier) = (&self.tiers[..index], self.tiers[index].name());
        lead.land(answer.clone(), tier);
        store_in(nearer, &key, &answer).await;
        Lookup::Hit { answer, tier }
    }

    async fn search(&self, key: &CacheKey) -> Option<(usize, CachedAnswer)> {
        for (index, tier) in self.tiers.iter().enumerate() {
            if let Some(answer) = tier.find(key).await {
                return Some((index, answer));
            }
        }
        None
    }
}

/// The one caller that computes an answer others may be waiting for.
///
/// Dropped unfilled, it makes one of those who wait the next leader.
pub struct Leader {
    lead: Lead,
    key: CacheKey,
    tiers: Arc<[Arc<dyn Tier>]>,
}

impl Leader {
    /// Hands the answer to those who wait, then keeps it.
    ///
    /// An answer that would not end the same way for somebody else (a budget, a hang-up) is
    /// neither shared nor kept: it counts as dropping the leader.
    pub async fn fill(self, answer: CachedAnswer) {
        if !answer.repeatable() {
            return;
        }
        self.lead.land(answer.clone(), SHARED);
        // The lead stays until the tiers know, so that whoever comes meanwhile joins this flight.
        store_in(&self.tiers, &self.key, &answer).await;
    }
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Leader").field(&self.key).finish()
    }
}

async fn store_in(tiers: &[Arc<dyn Tier>], key: &CacheKey, answer: &CachedAnswer) {
    for tier in tiers {
        tier.store(key, answer).await;
    }
}

#[cfg(test)]
mod tests;
