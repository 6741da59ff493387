//! Who holds blocks: admission by what sequences are expected to need, growth block by block, and who gives way.
//!
//! A sequence is admitted when there is room for its text and for as much output as sequences lately had
//! ([`Expectation`](crate::expectation::Expectation)), beside what the running ones are still expected to take.
//! It takes blocks for its text at once, as far as they are not known already, and further ones as it grows. When
//! none is left, somebody gives all of its blocks up and waits: first who is paused, then the least urgent and of
//! those the youngest. Its blocks stay known until they are needed, so coming back costs little, and what it
//! costs is the platform's. Who gave way comes back before anybody new begins, but for those who get one of the extra places.
//!
//! Somebody always moves on: of the sequences that are not paused, the first in rank (urgency, then age) gives
//! way only when it is the only one that holds blocks, and then there is a block for it, because no sequence is
//! accepted whose whole text does not fit into the cache. So it runs until it ends or pauses, or somebody more
//! urgent comes, of whom the same is true. While all that hold blocks are paused, they give way to who is not.
//!
//! Sequences whose texts begin alike compute them once, also when they come together: who would compute a block
//! that somebody before it in order of age is just computing sits out, and uses that one when it is there.

use std::collections::HashSet;
use std::ops::Range;

use domain::{FinishReason, GpuTime};

use super::StepLoop;
use crate::blocks::Block;
use crate::fair::{Room, extra_places};
use crate::running::{Arrival, Demand, End, Running};
use crate::schedule::Need;

/// Blocks for a sequence.
struct Seat {
    /// These hold the beginning of its text.
    found: Vec<Block>,
    /// So many are for the rest.
    fresh: u32,
}

impl StepLoop {
    /// Gives blocks to sequences that wait.
    pub(super) fn admit(&mut self) {
        self.look_around();
        while self.free_places() > 0 && self.admit_one() {}
    }

    /// Whether somebody who waited does so no longer.
    fn admit_one(&mut self) -> bool {
        let away = self.away.iter().enumerate().filter(|(_, running)| !running.need().paused);
        let has_place = self.free_places() > extra_places(self.config.max_sequences);
        if let Some((index, _)) = away.min_by_key(|(_, running)| running.rank())
            && has_place
        {
            let Some(seat) = self.seat(&self.away[index].demand()) else {
                let idle = self.running.iter().all(|running| running.need().paused);
                return idle && self.somebody_gives_way();
            };
            let running = self.away.remove(index);
            self.place(running, seat);
            return true;
        }
        let free = Room { places: self.free_places(), blocks: self.free_blocks() };
        let now = self.ledger.mark();
        let mut seat = None;
        let fits = |arrival: &Arrival| {
            seat = self.seat(&arrival.demand());
            seat.is_some() || arrival.is_complete()
        };
        let next = self.inbox.take_first(|arrival| self.rank(arrival, free, now), fits);
        let Some(mut arrival) = next else { return false };
        match seat {
            Some(seat) if !arrival.is_complete() => {
                self.welcome(&mut arrival, seat.found.len() as u32 * self.config.block_tokens);
                let running = Running::new(arrival, self.admitted, &self.guides);
                self.admitted += 1;
                self.place(running, seat);
            }
            _ => self.conclude(arrival.outlet, End::Finished(FinishReason::Length)),
        }
        true
    }

    /// Blocks for a sequence that needs this much, if there is room for what is expected of it.
    fn seat(&self, demand: &Demand<'_>) -> Option<Seat> {
        let found = self.blocks.find(demand.usable);
        let needed = self.expected_blocks(demand) - found.len() as u32 + self.blocks.unheld(&found);
        let fresh = demand.tokens.div_ceil(self.config.block_tokens) - found.len() as u32;
        (needed <= self.free_blocks()).then_some(Seat { found, fresh })
    }

    /// Places that nobody holds, the extra ones included.
    fn free_places(&self) -> u32 {
        self.config.most_sequences() - self.running.len() as u32
    }

    /// Blocks that nobody holds or is expected to take.
    pub(super) fn free_blocks(&self) -> u32 {
        let growth = |running: &Running| {
            let held = running.blocks.len() as u32;
            self.expected_blocks(&running.demand()).saturating_sub(held)
        };
        let promised: u32 = self.running.iter().map(growth).sum();
        self.blocks.free().saturating_sub(promised)
    }

    pub(super) fn expected_blocks(&self, demand: &Demand<'_>) -> u32 {
        // The keys and values of the last token are never needed.
        let more = self.expectation.of(demand.left).saturating_sub(1);
        (demand.tokens + more).div_ceil(self.config.block_tokens)
    }

    fn place(&mut self, mut running: Running, seat: Seat) {
        let Seat { found, fresh } = seat;
        self.blocks.hold(&found);
        let Some(fresh) = self.blocks.take(fresh) else {
            // Not reached: there was room. If it were, the sequence would wait.
            self.blocks.give_back(&found);
            self.away.push(running);
            return;
        };
        let known = running.take_seat(found, fresh);
        running.outlet.found(known.end - known.start, self.worth(&known));
        let age = running.age();
        let at = self.running.partition_point(|other| other.age() < age);
        self.running.insert(at, running);
    }

    /// What computing these positions of a prompt would take.
    pub(super) fn worth(&self, positions: &Range<u32>) -> GpuTime {
        let until = |position| self.attribution.saved(position).nanos();
        GpuTime::from_nanos(until(positions.end).saturating_sub(until(positions.start)))
    }

    /// Lets sequences use blocks that others have computed since they were admitted.
    pub(super) fn catch_up(&mut self) {
        for index in 0..self.running.len() {
            while let Some(name) = self.running[index].block_next() {
                let found = self.blocks.find(&[name]);
                let Some(&block) = found.first() else { break };
                self.blocks.hold(&found);
                let (spare, known) = self.running[index].adopt(block);
                self.blocks.give_back(spare.as_slice());
                let saved = self.worth(&known);
                self.running[index].outlet.found(known.end - known.start, saved);
            }
        }
    }

    /// Gives running sequences the blocks that their next step may write to, the oldest first.
    pub(super) fn grow(&mut self) {
        let mut index = 0;
        while let Some(running) = self.running.get(index) {
            let Need { pending, paused } = running.need();
            let count = if paused { 0 } else { pending.min(self.config.prefill_chunk) };
            let short = running.blocks_short(count);
            if let Some(blocks) = self.blocks.take(short) {
                self.running[index].blocks.extend(blocks);
                index += 1;
                continue;
            }
            // Somebody older may have gone, who was paused; then everybody is looked at again.
            self.somebody_gives_way();
            index = 0;
        }
    }

    /// What each running sequence could compute. What another one is computing for it, it does not.
    pub(super) fn needs(&self) -> Vec<Need> {
        let mut computing = HashSet::new();
        let mut needs = Vec::with_capacity(self.running.len());
        for running in &self.running {
            let mut need = running.need();
            if !need.paused
                && let Some(name) = running.block_now()
                && !computing.insert(name)
                && running.block_next().is_some()
            {
                need.pending = 0;
            }
            needs.push(need);
        }
        needs
    }

    /// Takes the blocks of the one who is to give way; whether there was one.
    fn somebody_gives_way(&mut self) -> bool {
        let running = self.running.iter().enumerate();
        let last = running.max_by_key(|(_, running)| (running.need().paused, running.rank()));
        let Some((index, _)) = last else { return false };
        let mut running = self.running.remove(index);
        self.standings.expect_no_more(&mut running.place);
        let blocks = running.preempt();
        self.blocks.give_back(&blocks);
        self.expectation.fell_short();
        tracing::debug!(blocks = blocks.len(), "a sequence gave way");
        self.away.push(running);
        true
    }
}
