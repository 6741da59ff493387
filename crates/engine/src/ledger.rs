//! Keeps the step thread's time: each lap of the clock goes to exactly one account.

use std::time::Instant;

use domain::GpuTime;

use crate::Accounts;

/// The accounts and the moment up to which they are complete.
pub(crate) struct Ledger {
    accounts: Accounts,
    mark: Instant,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { accounts: Accounts::default(), mark: Instant::now() }
    }

    pub(crate) const fn accounts(&self) -> Accounts {
        self.accounts
    }

    /// Books the time since the last booking on sequences, and returns it for splitting.
    pub(crate) fn book_requests(&mut self) -> GpuTime {
        let lap = self.lap();
        self.accounts.requests += lap;
        lap
    }

    /// Books the time since the last booking as waiting for work.
    pub(crate) fn book_idle(&mut self) {
        let lap = self.lap();
        self.accounts.idle += lap;
    }

    /// Books the time since the last booking as our own.
    pub(crate) fn book_overhead(&mut self) {
        let lap = self.lap();
        self.accounts.overhead += lap;
    }

    fn lap(&mut self) -> GpuTime {
        let now = Instant::now();
        let nanos = now.duration_since(self.mark).as_nanos();
        self.mark = now;
        let lap = GpuTime::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.accounts.wall += lap;
        lap
    }
}
