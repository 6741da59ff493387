//! Engines that are arithmetic, on a clock that only they move.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// An engine as far as its turns go.
struct Played {
    key: u64,
    /// What one of its steps takes, in nanoseconds.
    step: u64,
    accounts: Accounts,
    /// Up to when its own books are complete.
    mark: Instant,
    told: Accounts,
}

/// A process of engines.
struct World {
    table: Table,
    now: Instant,
    engines: Vec<Played>,
    /// What the books said last.
    last: Accounts,
    /// Nanoseconds in which nobody had the turn.
    nobodys: u64,
}

impl World {
    fn new() -> Self {
        let (now, last) = (Instant::now(), Accounts::default());
        Self { table: Table::default(), now, engines: Vec::new(), last, nobodys: 0 }
    }

    fn join(&mut self, step: u64) -> usize {
        let key = self.table.join(Arc::default());
        let (accounts, told) = (Accounts::default(), Accounts::default());
        self.engines.push(Played { key, step, accounts, mark: self.now, told });
        self.engines.len() - 1
    }

    fn holder(&self) -> Option<usize> {
        let holder = self.table.holder?;
        self.engines.iter().position(|engine| engine.key == holder)
    }

    fn pass(&mut self, nanos: u64) {
        if self.table.holder.is_none() && self.table.books.span.is_some() {
            self.nobodys += nanos;
        }
        self.now += Duration::from_nanos(nanos);
    }

    /// Books the time since its last booking, and tells it.
    fn book(&mut self, at: usize, owner: fn(&mut Accounts) -> &mut GpuTime) {
        let engine = &mut self.engines[at];
        let lap = GpuTime::from_nanos((self.now - engine.mark).as_nanos() as u64);
        engine.mark = self.now;
        *owner(&mut engine.accounts) += lap;
        engine.accounts.wall += lap;
        let did = self.table.books.add(engine.told, engine.accounts, engine.mark);
        engine.told = engine.accounts;
        if let Some(seat) = self.table.seats.get_mut(&engine.key) {
            seat.used += did;
        }
        self.check();
    }

    /// One step of whoever has the turn, and then whoever has had less goes first.
    fn step(&mut self) {
        let Some(at) = self.holder() else { return };
        // What went by before it had the turn is not its own.
        self.book(at, |accounts| &mut accounts.idle);
        self.pass(self.engines[at].step);
        self.book(at, |accounts| &mut accounts.requests);
        let key = self.engines[at].key;
        self.table.give_way(key);
    }

    fn check(&mut self) {
        let books = self.table.books.accounts();
        assert_eq!(books.owned(), books.wall, "{books:?}");
        assert!(books.wall >= self.last.wall && books.idle >= self.last.idle, "{books:?}");
        assert!(books.requests >= self.last.requests, "{books:?}");
        self.last = books;
    }

    fn had(&self, at: usize) -> u64 {
        self.engines[at].accounts.requests.nanos()
    }
}

proptest! {
    #[test]
    fn engines_that_always_have_work_get_the_same_time(
        steps in prop::collection::vec(1..10_000_u64, 1..6),
    ) {
        let mut world = World::new();
        for step in &steps {
            let at = world.join(*step);
            world.table.ask(world.engines[at].key);
        }
        for _ in 0..2_000 {
            world.step();
        }
        let had: Vec<u64> = (0..steps.len()).map(|at| world.had(at)).collect();
        let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
        let longest = steps.iter().max().unwrap();
        prop_assert!(most - least <= 2 * longest, "{:?} of steps {:?}", had, steps);
        prop_assert_eq!(world.table.books.accounts().idle, GpuTime::ZERO);
    }

    #[test]
    fn every_nanosecond_has_one_owner_whoever_comes_works_and_leaves(
        moves in prop::collection::vec((0..6_u8, 0..8_usize, 1..5_000_u64), 1..400),
    ) {
        let mut world = World::new();
        let mut gone = BTreeSet::new();
        for (what, at, nanos) in moves {
            let at = at % world.engines.len().max(1);
            let here = at < world.engines.len() && !gone.contains(&at);
            match what {
                0 if world.engines.len() < 8 => {
                    world.join(nanos);
                }
                1 | 2 if here && world.holder() != Some(at) => world.table.ask(world.engines[at].key),
                3 if here && world.holder() == Some(at) => {
                    world.book(at, |accounts| &mut accounts.idle);
                    let key = world.engines[at].key;
                    world.table.rest(key);
                }
                4 if here => {
                    let key = world.engines[at].key;
                    world.table.rest(key);
                    world.table.seats.remove(&key);
                    gone.insert(at);
                }
                5 if world.holder().is_none() => world.pass(nanos),
                _ => world.step(),
            }
        }
        let did: u64 = (0..world.engines.len()).map(|at| world.had(at)).sum();
        let books = world.table.books.accounts();
        prop_assert_eq!(books.requests.nanos(), did, "what an engine did stays when it has left");
        prop_assert!(books.idle.nanos() <= world.nobodys + books.wall.nanos() - did);
    }
}

#[test]
fn who_was_away_has_saved_nothing_up() {
    let mut world = World::new();
    let [steady, returning] = [world.join(100), world.join(100)];
    world.table.ask(world.engines[steady].key);
    (0..50).for_each(|_| world.step());

    world.table.ask(world.engines[returning].key);
    (0..20).for_each(|_| world.step());

    assert_eq!((world.had(steady), world.had(returning)), (6_000, 1_000));
}

#[test]
fn an_engine_alone_keeps_its_turn_and_knows_it_until_another_joins() {
    let turns = Shifts::default();
    let mut turn = turns.join();
    turn.take();
    assert!(!turn.is_wanted() && !turn.give_way());
    let alone = turn.rest();
    assert!(turn.is_still(alone));

    let other = turns.join();

    assert!(!turn.is_still(alone), "what it waits for may be another's time");
    assert_eq!(turn.rest(), None);
    drop(other);
    assert!(!turn.is_still(alone));
}

#[test]
fn a_turn_that_is_dropped_is_the_next_ones() {
    let turns = Shifts::default();
    let mut first = turns.join();
    first.take();
    let second = turns.clone();
    let waits = std::thread::spawn(move || second.join().take());
    while !first.is_wanted() {
        std::thread::yield_now();
    }

    drop(first);

    waits.join().unwrap();
}

#[test]
fn only_one_engine_has_the_turn_at_a_time() {
    let (shifts, inside) = (Shifts::default(), AtomicBool::new(false));
    let work = |mut shift: Shift| {
        for round in 0..200 {
            shift.take();
            for _ in 0..3 {
                assert!(!inside.swap(true, Ordering::SeqCst), "another one is at work");
                std::thread::yield_now();
                inside.store(false, Ordering::SeqCst);
                shift.give_way();
            }
            shift.rest();
            if round % 3 == 0 {
                std::thread::yield_now();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let shift = shifts.join();
            scope.spawn(|| work(shift));
        }
    });
    assert!(!shifts.join().is_wanted(), "nobody is left waiting");
}
