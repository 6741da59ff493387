//! Keeps the step thread's time: each lap of the clock goes to exactly one account.
//!
//! Promise: at every moment the accounts sum to the wall time, to the nanosecond. Time moves between
//! accounts, it never comes from nowhere.

use std::time::Instant;

use domain::{Accounts, GpuTime};

use crate::attribution::Loss;

/// The accounts and the moment up to which they are complete.
pub(crate) struct Ledger {
    accounts: Accounts,
    clock: Clock,
    mark: Instant,
}

/// Billable time that nobody is to be billed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "time that is written off has to be booked"]
pub(crate) struct WrittenOff {
    /// Nobody read of it.
    pub(crate) abandoned: GpuTime,
    /// Another worker was faster.
    pub(crate) hedge: GpuTime,
    /// It followed what its reader keeps.
    pub(crate) overrun: GpuTime,
}

impl std::ops::AddAssign for WrittenOff {
    fn add_assign(&mut self, more: Self) {
        let Self { abandoned, hedge, overrun } = more;
        self.abandoned += abandoned;
        self.hedge += hedge;
        self.overrun += overrun;
    }
}

/// Where a ledger reads the time.
#[derive(Clone, Default)]
pub(crate) enum Clock {
    #[default]
    Machine,
    /// As late as a test says.
    #[cfg(test)]
    Set(std::sync::Arc<std::sync::Mutex<Instant>>),
}

impl Clock {
    fn now(&self) -> Instant {
        match self {
            Self::Machine => Instant::now(),
            #[cfg(test)]
            Self::Set(now) => *now.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self::by(Clock::Machine)
    }

    /// A ledger that reads the time from `clock`.
    pub(crate) fn by(clock: Clock) -> Self {
        Self { accounts: Accounts::default(), mark: clock.now(), clock }
    }

    pub(crate) const fn accounts(&self) -> Accounts {
        self.accounts
    }

    /// The moment of the last booking.
    pub(crate) const fn mark(&self) -> Instant {
        self.mark
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

    /// Takes time that was booked on sequences over: it made up for a loss.
    pub(crate) fn take_over(&mut self, loss: Loss, time: GpuTime) {
        self.accounts.requests = self.accounts.requests - time;
        match loss {
            Loss::Preemption => self.accounts.preemption += time,
            Loss::Migration => self.accounts.migration += time,
        }
    }

    /// Takes time that was booked on sequences over: nothing came of it, and that was not their doing.
    pub(crate) fn excuse(&mut self, time: GpuTime) {
        self.accounts.requests = self.accounts.requests - time;
        self.accounts.overhead += time;
    }

    /// Writes off time that was booked on sequences: nobody will hear of it.
    pub(crate) fn abandon(&mut self, time: GpuTime) {
        self.write_off(WrittenOff { abandoned: time, ..WrittenOff::default() });
    }

    /// Writes off time that was booked on sequences.
    pub(crate) fn write_off(&mut self, time: WrittenOff) {
        let WrittenOff { abandoned, hedge, overrun } = time;
        self.accounts.requests = self.accounts.requests - abandoned - hedge;
        self.accounts.abandoned += abandoned;
        self.accounts.hedge += hedge;
        self.excuse(overrun);
    }

    fn lap(&mut self) -> GpuTime {
        let now = self.clock.now();
        let nanos = now.duration_since(self.mark).as_nanos();
        self.mark = now;
        let lap = GpuTime::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.accounts.wall += lap;
        lap
    }
}
