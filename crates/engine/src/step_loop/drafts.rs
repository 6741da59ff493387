//! Adds guessed tokens to a step, where they are worth it and in nobody's way.
//!
//! Drafts get what everybody's tokens and prompts left of the step's budget, in the order in which those were served. Blocks
//! are taken for them only where nobody who gave way waits for some and none is promised, and those that wrong guesses
//! needed are given back before anybody else asks: a draft never makes a sequence give way.
//!
//! Promise: whoever guesses pays for it.

use super::StepLoop;
use crate::attribution::{Demand, Work};
use crate::drafting::{Candidate, ENGINE_MEMORY, Experience, Plan, Trial};
use crate::schedule::Turn;

/// What an engine has seen of guesses.
pub(super) struct Guessing {
    experience: Experience,
    /// Guessed tokens that were computed, and those of them that were right, since the start.
    pub(super) drafted: u64,
    pub(super) accepted: u64,
}

impl Guessing {
    pub(super) fn new() -> Self {
        Self { experience: Experience::hopeful(), drafted: 0, accepted: 0 }
    }

    fn note(&mut self, trial: Trial) {
        self.experience.note(trial, ENGINE_MEMORY);
        self.drafted += u64::from(trial.drafted);
        self.accepted += u64::from(trial.accepted);
    }
}

impl StepLoop {
    /// Lengthens the turns of sequences whose next tokens can be guessed.
    pub(super) fn draft(&mut self, turns: &mut [Turn]) {
        if !self.config.lookup {
            return;
        }
        let total: u32 = turns.iter().map(|turn| turn.tokens).sum();
        let mut left = self.config.step_tokens.saturating_sub(total);
        let running = |turn: &Turn| &self.running[turn.sequence];
        let works: Vec<Work> = turns.iter().map(|turn| running(turn).work(turn.tokens)).collect();
        let mut plan = Plan::new(self.attribution.costs(), Demand::of(&works), turns.len());
        for (index, (turn, work)) in turns.iter().zip(&works).enumerate() {
            let running = &mut self.running[turn.sequence];
            let (own, row) = (work.demand(), work.row());
            let max_tokens = running.max_draft().min(left);
            let mut candidate = Candidate { turn: index, own, row, max_tokens };
            if !plan.may_pay(&candidate) {
                continue;
            }
            let Some((guessed, length)) = running.guess(max_tokens, &self.info.stop_tokens) else {
                continue;
            };
            candidate.max_tokens = guessed;
            let odds = running.odds(&self.guessing.experience);
            let tokens = plan.add(&candidate, length, &odds);
            running.keep_draft(tokens);
            left -= tokens;
        }
        let drafts = plan.settle();
        let mut drafts = drafts.iter().peekable();
        for (index, turn) in turns.iter_mut().enumerate() {
            let draft = drafts.next_if(|draft| draft.turn == index);
            let tokens = draft.map_or(0, |draft| self.make_room(turn.sequence, draft.tokens));
            self.running[turn.sequence].keep_draft(tokens);
            turn.tokens += tokens;
        }
    }

    /// Takes blocks for guesses, if that is nobody's loss; for how many of `count` there is room.
    fn make_room(&mut self, sequence: usize, count: u32) -> u32 {
        let running = &self.running[sequence];
        let short = running.blocks_short(1 + count);
        let (held, room) = (running.blocks.len() as u32, running.draft_room());
        let promised = self.expected_blocks(&running.demand());
        let is_free = || held + short <= promised || short <= self.free_blocks();
        if short > 0
            && self.away.is_empty()
            && is_free()
            && let Some(blocks) = self.blocks.take(short)
        {
            self.running[sequence].blocks.extend(blocks);
            return count;
        }
        count.min(room)
    }

    /// Takes up how the guesses of a sequence did: right ones may have filled blocks, and wrong ones, or those given up
    /// in a step that failed, leave some over.
    pub(super) fn settle_draft(&mut self, sequence: usize, trial: Option<Trial>) {
        let running = &mut self.running[sequence];
        if let Some(trial) = trial {
            self.guessing.note(trial);
            running.show_blocks(&mut self.blocks);
        }
        let spare = running.spare_blocks();
        self.blocks.give_back(&spare);
    }
}
