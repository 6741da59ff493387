//! Who is admitted and who is served first, as the tenants' standings have it.

use domain::{FinishReason, GpuTime};

use super::StepLoop;
use crate::fair::{Rank, Room};
use crate::running::{Arrival, End, Running};
use crate::schedule::Need;

impl StepLoop {
    /// Gives places and blocks to waiting sequences, who is next first.
    pub(super) fn admit(&mut self) {
        let now = self.ledger.mark();
        let running = self.running.iter();
        let running = running.map(|running| (running.place.share, running.blocks.len() as u32));
        self.standings.look(self.inbox.shares().into_iter(), running, now);
        while self.running.len() < self.config.max_sequences as usize {
            let Some(mut arrival) = self.next_arrival() else { return };
            if arrival.is_complete() {
                self.conclude(arrival.outlet, End::Finished(FinishReason::Length));
                continue;
            }
            let needed = arrival.max_positions().div_ceil(self.config.block_tokens);
            let Some(blocks) = self.blocks.take(needed) else {
                return; // not reached: the arrival was only taken because its blocks are free
            };
            // Computing it again is at nobody's expense.
            let expected = if arrival.is_continuation() {
                GpuTime::ZERO
            } else {
                self.attribution.saved(arrival.tokens.len() as u32)
            };
            self.standings.admit(&mut arrival.place, needed, expected, now);
            self.running.push(Running::new(arrival, blocks));
        }
    }

    /// Takes out whoever is next, if there is room for it.
    fn next_arrival(&self) -> Option<Arrival> {
        let now = self.ledger.mark();
        let all = Room { places: self.config.max_sequences, blocks: self.blocks.total() };
        let free =
            Room { places: all.places - self.running.len() as u32, blocks: self.blocks.free() };
        let needed = |arrival: &Arrival| arrival.max_positions().div_ceil(self.config.block_tokens);
        let rank = |arrival: &Arrival| {
            let place = &arrival.place;
            let allowed = self.standings.allows(place.share, needed(arrival), free, all);
            allowed.then(|| self.standings.rank_waiting(place, now))
        };
        self.inbox.take_first(rank, |arrival| needed(arrival) <= free.blocks)
    }

    /// The running sequences with these needs, who is served first in front. Prompts of a tenant go one after
    /// the other; streams take turns, if there is not a turn for each in every step.
    pub(super) fn order(&self, needs: &[Need]) -> Vec<usize> {
        let now = self.ledger.mark();
        let rank = |(running, need): (&Running, &Need)| -> Rank {
            let rank = self.standings.rank_running(&running.place, now);
            if need.pending == 1 { rank.taking_turns(&running.place) } else { rank }
        };
        let ranks: Vec<Rank> = self.running.iter().zip(needs).map(rank).collect();
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        order.sort_unstable_by_key(|sequence| ranks[*sequence]);
        order
    }
}
