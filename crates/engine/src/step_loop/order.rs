//! Who is admitted and who is served first, as the tenants' standings have it.

use std::time::Instant;

use domain::GpuTime;

use super::StepLoop;
use crate::fair::{Rank, Room};
use crate::running::{Arrival, Running};
use crate::schedule::Need;

impl StepLoop {
    /// Sees who is here, before places are given.
    pub(super) fn look_around(&mut self) {
        let now = self.ledger.mark();
        let running = self.running.iter();
        let running = running.map(|running| (running.place.share, running.blocks.len() as u32));
        self.standings.look(self.inbox.shares().into_iter(), running, now);
    }

    /// How soon it is a waiting sequence's turn; `None` while others keep a place and blocks free for themselves, or
    /// have the memory that following its format takes.
    pub(super) fn rank(&self, arrival: &Arrival, free: Room, now: Instant) -> Option<Rank> {
        let all = Room { places: self.config.max_sequences, blocks: self.blocks.total() };
        let (place, needed) = (&arrival.place, self.expected_blocks(&arrival.demand()));
        let allowed = self.standings.allows(place.share, needed, free, all);
        let allowed = allowed && arrival.may_be_guided(&self.guides);
        allowed.then(|| self.standings.rank_waiting(place, now))
    }

    /// Gives a sequence its place; so many tokens of its text are known.
    pub(super) fn welcome(&mut self, arrival: &mut Arrival, known: u32) {
        let needed = self.expected_blocks(&arrival.demand());
        // Computing it again is at nobody's expense.
        let expected = if arrival.is_continuation() {
            GpuTime::ZERO
        } else {
            self.worth(&(known..arrival.tokens.len() as u32))
        };
        self.standings.admit(&mut arrival.place, needed, expected, self.ledger.mark());
    }

    /// Where the running sequences with these needs stand. Prompts of a tenant go one after the other; streams take turns, if
    /// there is not a turn for each in every step.
    pub(super) fn ranks(&self, needs: &[Need]) -> Vec<Rank> {
        let now = self.ledger.mark();
        let rank = |(running, need): (&Running, &Need)| -> Rank {
            let rank = self.standings.rank_running(&running.place, now);
            if need.pending == 1 { rank.taking_turns(&running.place) } else { rank }
        };
        self.running.iter().zip(needs).map(rank).collect()
    }
}

/// The indices of sequences that stand there, who is served first in front.
pub(super) fn order(ranks: &[Rank]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_unstable_by_key(|sequence| ranks[*sequence]);
    order
}
