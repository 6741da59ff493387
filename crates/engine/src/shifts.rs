//! Whose turn it is to compute, among the engines of one process, and what they have done together.
//!
//! An engine has the turn while it does anything that its books tell of, and gives it up to wait: for work, or for
//! others. So no nanosecond has two owners, and what no engine claims was idle. Who has used the least goes first,
//! in measured time; who was away starts where the least of those that are there stands. An engine alone has every
//! turn, and asks nobody.
//!
//! Promise: the books of all engines together add up at every moment they are read, and none of their sums but that of
//! the requests, from which time is written off, is ever less than it was: not when an engine has left either.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use domain::{Accounts, GpuTime};

use crate::ledger::Ledger;

/// The turns of the engines of one process. Clones are the same turns.
#[derive(Clone, Default)]
pub struct Shifts(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    /// Engines that wait for their turn, to look at without the lock.
    waiting: AtomicUsize,
}

/// An engine's place among the others. Dropping it gives up the turn and the place; what it did stays in the books.
pub(crate) struct Shift {
    shared: Arc<Shared>,
    key: u64,
    bell: Arc<Condvar>,
    /// What it has told of its books.
    told: Accounts,
}

/// Who is alone, as long as nobody joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alone(u64);

/// Who is there, whose turn it is, and the books.
#[derive(Default)]
struct Table {
    seats: BTreeMap<u64, Seat>,
    holder: Option<u64>,
    /// Engines that ever joined.
    joined: u64,
    books: Books,
}

struct Seat {
    /// Nanoseconds it had the turn for, or was put ahead by because it was away.
    used: u64,
    waits: bool,
    bell: Arc<Condvar>,
}

/// What all engines that ever were there did.
#[derive(Default)]
struct Books {
    /// All but `idle` and `wall`.
    busy: Accounts,
    /// From when to when they are complete.
    span: Option<(Instant, Instant)>,
}

impl Shifts {
    /// Where the time of all engines together went, those that have ended included. `wall` is that of the process
    /// from its first engine's beginning to its last booking.
    pub fn accounts(&self) -> Accounts {
        self.0.lock().books.accounts()
    }

    /// A place for an engine that begins.
    pub(crate) fn join(&self) -> Shift {
        let bell = Arc::new(Condvar::new());
        let key = self.0.lock().join(Arc::clone(&bell));
        Shift { shared: Arc::clone(&self.0), key, bell, told: Accounts::default() }
    }
}

impl std::fmt::Debug for Shifts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shifts").field(&self.accounts()).finish()
    }
}

impl Shift {
    /// Waits for its turn.
    pub(crate) fn take(&mut self) {
        let mut table = self.shared.lock();
        table.ask(self.key);
        self.wait(table);
    }

    /// Whether somebody waits for the turn it has.
    pub(crate) fn is_wanted(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }

    /// Lets other engines of the process go first if they had less. `ledger` is told until then; how long that took is
    /// idle, and nobody's step time.
    pub(crate) fn let_others_go_first(&mut self, ledger: &mut Ledger) {
        if !self.is_wanted() {
            return;
        }
        ledger.book_overhead();
        self.tell(ledger.accounts(), ledger.mark());
        if self.give_way() {
            ledger.book_idle();
        }
    }

    /// Lets others go first if it has used more than they have, and waits for its turn again; whether it did.
    pub(crate) fn give_way(&mut self) -> bool {
        let mut table = self.shared.lock();
        let gives_way = table.give_way(self.key);
        if gives_way {
            self.wait(table);
        }
        gives_way
    }

    /// Gives up its turn, because it has nothing to do; whether it is alone.
    pub(crate) fn rest(&mut self) -> Option<Alone> {
        let mut table = self.shared.lock();
        table.rest(self.key);
        self.shared.count(&table);
        (table.seats.len() == 1).then_some(Alone(table.joined))
    }

    /// Whether it has been alone since it was.
    pub(crate) fn is_still(&self, alone: Option<Alone>) -> bool {
        alone == Some(Alone(self.shared.lock().joined))
    }

    /// Tells its books, which are complete up to `mark`. It must have the turn.
    pub(crate) fn tell(&mut self, accounts: Accounts, mark: Instant) {
        let mut table = self.shared.lock();
        let did = table.books.add(self.told, accounts, mark);
        if let Some(seat) = table.seats.get_mut(&self.key) {
            seat.used = seat.used.saturating_add(did);
        }
        self.told = accounts;
    }

    fn wait(&self, mut table: MutexGuard<'_, Table>) {
        self.shared.count(&table);
        while table.holder != Some(self.key) {
            table = self.bell.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        self.shared.count(&table);
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        table.rest(self.key);
        table.seats.remove(&self.key);
        self.shared.count(&table);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, table: &Table) {
        let waiting = table.seats.values().filter(|seat| seat.waits).count();
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

impl Table {
    fn join(&mut self, bell: Arc<Condvar>) -> u64 {
        let key = self.joined;
        self.joined += 1;
        self.seats.insert(key, Seat { used: 0, waits: false, bell });
        key
    }

    /// It wants the turn, and has it if nobody else has.
    fn ask(&mut self, key: u64) {
        let there = |(other, seat): (&u64, &Seat)| {
            (seat.waits || self.holder == Some(*other)).then_some(seat.used)
        };
        // Who was away has saved nothing up.
        let least = self.seats.iter().filter_map(there).min().unwrap_or(0);
        if let Some(seat) = self.seats.get_mut(&key) {
            seat.used = seat.used.max(least);
            seat.waits = true;
        }
        if self.holder.is_none() {
            self.pass_on();
        }
    }

    /// Passes its turn on if one that waits has used no more than it; whether it did.
    fn give_way(&mut self, key: u64) -> bool {
        let used = |seat: &Seat| seat.used;
        let Some(own) = self.seats.get(&key).map(used) else { return false };
        let waiting = self.seats.values().filter(|seat| seat.waits);
        if waiting.map(used).min().is_none_or(|least| least > own) {
            return false;
        }
        self.pass_on();
        if let Some(seat) = self.seats.get_mut(&key) {
            seat.waits = true;
        }
        true
    }

    /// It wants no turn.
    fn rest(&mut self, key: u64) {
        if let Some(seat) = self.seats.get_mut(&key) {
            seat.waits = false;
        }
        if self.holder == Some(key) {
            self.pass_on();
        }
    }

    /// The turn is that of whoever waits and has used the least; of equals, of who joined first.
    fn pass_on(&mut self) {
        let waiting = self.seats.iter_mut().filter(|(_, seat)| seat.waits);
        self.holder = waiting.min_by_key(|(key, seat)| (seat.used, **key)).map(|(key, seat)| {
            seat.waits = false;
            seat.bell.notify_one();
            *key
        });
    }
}

impl Books {
    /// Takes up what an engine did between two states of its books; how many nanoseconds of it were not idle.
    fn add(&mut self, before: Accounts, now: Accounts, mark: Instant) -> u64 {
        let Accounts { requests, overhead, preemption, migration, abandoned, hedge, .. } =
            self.busy;
        self.busy = Accounts {
            requests: requests + now.requests - before.requests,
            overhead: overhead + now.overhead - before.overhead,
            preemption: preemption + now.preemption - before.preemption,
            migration: migration + now.migration - before.migration,
            abandoned: abandoned + now.abandoned - before.abandoned,
            hedge: hedge + now.hedge - before.hedge,
            ..Accounts::default()
        };
        // The first to tell anything was there from its own beginning.
        let wall = std::time::Duration::from_nanos(now.wall.nanos());
        let (began, until) =
            self.span.unwrap_or_else(|| (mark.checked_sub(wall).unwrap_or(mark), mark));
        self.span = Some((began, until.max(mark)));
        let busy = |accounts: Accounts| accounts.owned() - accounts.idle;
        (busy(now) - busy(before)).nanos()
    }

    fn accounts(&self) -> Accounts {
        let busy = self.busy.owned();
        let span = self.span.map_or(0, |(began, until)| until.duration_since(began).as_nanos());
        let wall = u64::try_from(span).unwrap_or(u64::MAX);
        let idle = GpuTime::from_nanos(wall.saturating_sub(busy.nanos()));
        Accounts { idle, wall: busy + idle, ..self.busy }
    }
}

#[cfg(test)]
mod tests;
