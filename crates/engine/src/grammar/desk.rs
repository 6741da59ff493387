//! What guides have to do, and whose turn it is.
//!
//! A guide has at most one thing to do at a time, and what it has not begun goes with it, so no more waits than there
//! are guides. Tenants take turns by the time that their tasks took. Of one tenant, going on comes before
//! beginning.
//!
//! Two threads work here. One does anything, and so may be held up: beginning may mean to replay a long output, and
//! some languages are slow. The other one only goes on, and only for tenants whose tasks were quick lately, so a
//! slow tenant is never what theirs wait for, but while it is not known yet.
//!
//! Pure: time is handed in, and nothing is done here.

use std::collections::HashMap;
use std::time::Duration;

use domain::{ProjectId, Share};

use crate::turns::Turns;

/// Tasks that wait, by whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Desk<T> {
    turns: Turns<Task<T>>,
    paces: HashMap<ProjectId, Duration>,
    /// Tasks so far.
    came: u64,
}

/// What a thread takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Everything,
    /// Going on, for tenants that are quick at it.
    WhatIsQuick,
}

/// How a task moves its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Move {
    GoesOn,
    Begins,
}

/// Names a task that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    number: u64,
    share: Share,
}

#[derive(Debug)]
struct Task<T> {
    ticket: Ticket,
    moves: Move,
    what: T,
}

impl<T> Desk<T> {
    pub(super) fn new() -> Self {
        Self { turns: Turns::default(), paces: HashMap::new(), came: 0 }
    }

    /// Has something done for a tenant.
    pub(super) fn leave(&mut self, share: Share, moves: Move, what: T) -> Ticket {
        let ticket = Ticket { number: self.came, share };
        self.came += 1;
        self.turns.push_before(share, Task { ticket, moves, what }, |later| later.moves > moves);
        ticket
    }

    /// What is next, and for whom; nothing if nothing waits that a thread which `takes` only this may do.
    pub(super) fn take(&mut self, takes: Takes) -> Option<(Share, Move, T)> {
        let Self { turns, paces, .. } = self;
        let quick = |id| paces.get(&id).is_none_or(|pace| *pace < SLOW);
        let may = |id, task: &Task<T>| match takes {
            Takes::Everything => true,
            Takes::WhatIsQuick => task.moves == Move::GoesOn && quick(id),
        };
        let Task { ticket, moves, what } = turns.pop(may)?;
        Some((ticket.share, moves, what))
    }

    /// Notes that a task of a tenant's took so long.
    pub(super) fn done(&mut self, share: Share, moves: Move, took: Duration) {
        self.turns.charge(share, took);
        if moves == Move::Begins {
            return;
        }
        if self.paces.len() >= MAX_PACES {
            // Who is slow shows it again with the next task.
            self.paces.clear();
        }
        let pace = self.paces.entry(share.tenant).or_insert(took);
        *pace = (*pace * 7 + took) / 8;
    }

    /// Takes a task back that nobody began.
    pub(super) fn withdraw(&mut self, ticket: Ticket) {
        self.turns.retain(ticket.share.tenant, |task| task.ticket != ticket);
    }

    /// How much waits.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.turns.len()
    }
}

/// A tenant is slow whose tasks take this long, as a mean over some recent ones.
const SLOW: Duration = Duration::from_millis(2);
/// When so many tenants' paces are known, they are found out again.
const MAX_PACES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn share(tenant: u128) -> Share {
        Share::of(ProjectId::from_u128(tenant))
    }

    const HOSTILE: Duration = Duration::from_millis(20);
    const CALM: Duration = Duration::from_micros(100);

    /// A desk where tenant 1 is known to be slow and has 64 tasks, half of which begin.
    fn flooded() -> Desk<u128> {
        let mut desk = Desk::new();
        desk.leave(share(1), Move::GoesOn, 1);
        desk.take(Takes::WhatIsQuick).expect("nobody knows yet that it is slow");
        desk.done(share(1), Move::GoesOn, HOSTILE);
        for task in 0..64 {
            desk.leave(share(1), if task % 2 == 0 { Move::GoesOn } else { Move::Begins }, 1);
        }
        desk
    }

    #[test]
    fn a_calm_tenant_is_next_however_much_a_hostile_one_has_waiting() {
        let mut desk = flooded();
        let mut before = Vec::new();
        for moves in [Move::Begins, Move::GoesOn, Move::GoesOn, Move::GoesOn] {
            desk.leave(share(2), moves, 2);
            let mut others = 0;
            loop {
                let (share, moves, whose) = desk.take(Takes::Everything).unwrap();
                desk.done(share, moves, if whose == 1 { HOSTILE } else { CALM });
                if whose == 2 {
                    break;
                }
                others += 1;
            }
            before.push(others);
        }
        assert!(before.iter().all(|others| *others <= 1), "{before:?}");
    }

    #[test]
    fn one_thread_is_always_free_of_slow_tenants() {
        let mut desk = flooded();
        assert_eq!(desk.take(Takes::WhatIsQuick), None);
        desk.leave(share(2), Move::GoesOn, 2);
        assert_eq!(desk.take(Takes::WhatIsQuick), Some((share(2), Move::GoesOn, 2)));
        desk.leave(share(2), Move::Begins, 2);
        assert_eq!(desk.take(Takes::WhatIsQuick), None, "beginning may take long");
    }

    #[test]
    fn who_becomes_quick_is_taken_for_quick_again() {
        let mut desk = flooded();
        (0..30).for_each(|_| desk.done(share(1), Move::GoesOn, CALM));
        assert!(desk.take(Takes::WhatIsQuick).is_some());
    }

    #[test]
    fn of_one_tenant_going_on_comes_first() {
        let mut desk = Desk::new();
        desk.leave(share(1), Move::Begins, 1);
        desk.leave(share(1), Move::GoesOn, 2);
        desk.leave(share(1), Move::GoesOn, 3);
        let order: Vec<i32> =
            std::iter::from_fn(|| desk.take(Takes::Everything)).map(|(_, _, what)| what).collect();
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn what_is_withdrawn_is_not_done() {
        let mut desk = Desk::new();
        let ticket = desk.leave(share(1), Move::Begins, 1);
        desk.leave(share(1), Move::Begins, 2);
        desk.withdraw(ticket);
        assert_eq!(
            (desk.len(), desk.take(Takes::Everything).map(|(_, _, what)| what)),
            (1, Some(2))
        );
    }
}
