//! Decides which of several equal requests does the work.
//!
//! Requests for one key that are here at the same time share one flight. One of them has the
//! turn, the [`Lead`]; the others wait. Landing gives all of them the answer; a lead that is
//! dropped without landing (a failed, cut short or abandoned request) passes the turn to the one
//! that has waited longest.
//!
//! A flight is remembered exactly as long as one of its requests is here, so the number of
//! flights never exceeds the number of requests in flight.
//!
//! Invariant: knows nothing of tiers or of what it takes to find an answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{CacheKey, CachedAnswer};

/// An answer, and where the request that found it had it from.
#[derive(Clone, Debug)]
pub(crate) struct Landed {
    /// What to deliver.
    pub(crate) answer: CachedAnswer,
    /// The name of the tier, or [`crate::SHARED`].
    pub(crate) from: &'static str,
}

/// What became of a request that joined a flight.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It is its turn to find the answer.
    Lead(Lead),
    /// Another request found the answer.
    Landed(Landed),
}

/// All flights that somebody is interested in.
#[derive(Debug, Default)]
pub(crate) struct Flights(Arc<Mutex<Registry>>);

type Registry = HashMap<CacheKey, Entry>;

#[derive(Debug)]
struct Entry {
    flight: Arc<Flight>,
    parties: usize,
}

#[derive(Debug)]
struct Flight {
    /// One permit: the turn. Closed when the flight has landed.
    turn: Arc<Semaphore>,
    landed: OnceLock<Landed>,
}

impl Flights {
    /// Joins the flight for `key`, and waits for the turn or the answer.
    pub(crate) async fn join(&self, key: CacheKey) -> Turn {
        let party = self.enter(key);
        let turn = Arc::clone(&party.flight.turn).acquire_owned().await;
        if let Some(landed) = party.flight.landed.get() {
            return Turn::Landed(landed.clone());
        }
        let turn = turn.expect("a flight is closed only after it has landed");
        Turn::Lead(Lead { _turn: turn, party })
    }

    fn enter(&self, key: CacheKey) -> Party {
        let mut registry = lock(&self.0);
        let entry = registry.entry(key).or_insert_with(|| Entry {
            flight: Arc::new(Flight { turn: Arc::new(Semaphore::new(1)), landed: OnceLock::new() }),
            parties: 0,
        });
        entry.parties += 1;
        let flight = Arc::clone(&entry.flight);
        Party { key, flight, registry: Arc::clone(&self.0) }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// Passes the turn on when dropped, unless it has landed.
#[derive(Debug)]
pub(crate) struct Lead {
    _turn: OwnedSemaphorePermit,
    party: Party,
}

impl Lead {
    /// Gives the answer to all who wait, and to those who come while this lead is still here.
    pub(crate) fn land(&self, answer: CachedAnswer, from: &'static str) {
        let flight = &self.party.flight;
        // Answer first: whoever finds the flight closed relies on it.
        flight.landed.get_or_init(|| Landed { answer, from });
        flight.turn.close();
    }
}

/// One request's interest in a flight. Dropping the last one forgets the flight.
#[derive(Debug)]
struct Party {
    key: CacheKey,
    flight: Arc<Flight>,
    registry: Arc<Mutex<Registry>>,
}

impl Drop for Party {
    fn drop(&mut self) {
        let mut registry = lock(&self.registry);
        let Some(entry) = registry.get_mut(&self.key) else { return };
        entry.parties -= 1;
        if entry.parties == 0 {
            registry.remove(&self.key);
        }
    }
}

/// No code that holds the lock can leave the registry half changed, so a poisoned one is sound.
fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}
