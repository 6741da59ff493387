//! The bank in this process: for a single gateway.
//!
//! Everything happens under one short lock. It lives and dies with the gateway, so it never has to
//! recover: a new process begins with what the ledger says.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use admission::bank::{AccountId, Bank, BankError, Draw, Drawn, Founding};
use async_trait::async_trait;
use domain::{Clock, GatewayId, OrganizationId};

use crate::bank_book::Book;

/// Adds up what gateways take, in memory.
pub struct MemoryBank {
    clock: Arc<dyn Clock>,
    books: Mutex<HashMap<OrganizationId, Book>>,
}

impl MemoryBank {
    /// A bank that knows nothing yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, books: Mutex::default() }
    }

    /// Loses its memory, as a Redis does that restarts or fails over: for every organization it waits
    /// until `holders` have spoken or `time_to_live` has passed. For simulations; whatever message is
    /// still on its way has to be lost with the memory.
    pub fn lose_memory(&self, holders: &[GatewayId], time_to_live: Duration) {
        self.with_books(|books, now| {
            for book in books.values_mut() {
                book.lose(holders, time_to_live, now);
            }
        });
    }

    fn with_books<T>(
        &self,
        use_them: impl FnOnce(&mut HashMap<OrganizationId, Book>, u64) -> T,
    ) -> T {
        let now = self.clock.now().millis().saturating_mul(MICROS_PER_MILLI);
        // Every change of a book is whole, so a poisoned lock is sound.
        use_them(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

#[async_trait]
impl Bank for MemoryBank {
    async fn draw(&self, draw: &Draw) -> Result<Drawn, BankError> {
        each_account_once(draw)?;
        Ok(self
            .with_books(|books, now| books.entry(draw.organization).or_default().draw(draw, now)))
    }

    async fn found(
        &self,
        organization: OrganizationId,
        foundings: &[Founding],
    ) -> Result<(), BankError> {
        self.with_books(|books, now| {
            books.entry(organization).or_default().found(foundings, now);
        });
        Ok(())
    }
}

/// Two wishes for one account would each be promised the same room.
pub(crate) fn each_account_once(draw: &Draw) -> Result<(), BankError> {
    let mut seen = BTreeSet::new();
    match draw.wishes.iter().find(|wish| !seen.insert(wish.account)) {
        Some(twice) => Err(BankError(Box::new(NamedTwice(twice.account)))),
        None => Ok(()),
    }
}

/// A message that contradicts itself.
#[derive(Debug, thiserror::Error)]
#[error("account {0} is named twice in one message; name each once")]
struct NamedTwice(AccountId);

const MICROS_PER_MILLI: u64 = 1_000;
