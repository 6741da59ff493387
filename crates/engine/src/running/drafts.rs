//! Guessed tokens of a sequence: computed beside its last token, and kept as far as they are what it says anyway.
//!
//! The rows of a run are drawn from in order, each as if the tokens before it had come step by step: position, penalties
//! and limits are those it would have had. Where the token that is drawn is not the one that was guessed, the run ends with it:
//! what was computed behind it is written over later.
//!
//! Sequences in a format guess nothing: their masks come token by token, and what is forced is a run already.
//!
//! Promise: what is drawn, and what is told of it, never depends on what was guessed.

use std::time::Duration;

use crate::Failure;
use crate::attribution::Phase;
use crate::blocks::Block;
use crate::drafting::{Experience, MAX_DRAFT, OWN_MEMORY, Odds, Patience, Trial};
use crate::lookup::{Lookup, continuation};
use crate::sampler::Noted;

use super::wording::is_end;
use super::{Draw, End, Outcome, Running};

/// The guesses of one sequence.
pub(super) struct Drafts {
    lookup: Lookup,
    experience: Experience,
    patience: Patience,
    /// The last token and the guesses behind it, while a step computes them; else nothing.
    run: Vec<u32>,
    /// Tokens that agreed where they were found.
    length: u32,
    /// Tokens drawn in this step and not taken up yet, as the sampler knows them.
    noted: Vec<Noted>,
    /// Draws behind the first.
    further: Vec<Draw>,
}

impl Drafts {
    pub(super) fn new() -> Self {
        Self {
            lookup: Lookup::default(),
            experience: Experience::default(),
            patience: Patience::new(),
            run: Vec::new(),
            length: 0,
            noted: Vec::new(),
            further: Vec::new(),
        }
    }

    /// The last token and its guesses, if there are any.
    pub(super) fn run(&self) -> Option<&[u32]> {
        (!self.run.is_empty()).then_some(&*self.run)
    }

    /// Tokens drawn in this step and not taken up yet.
    pub(super) const fn ahead(&self) -> u32 {
        self.noted.len() as u32
    }

    /// The same, as the guesses that they are.
    pub(super) fn drawn(&self) -> &[u32] {
        let ahead = self.noted.len();
        if ahead == 0 { &[] } else { &self.run[1..=ahead] }
    }
}

impl Running {
    /// How many guesses could be of use in its next turn. One token comes without them, and what it may not say
    /// yet need not be guessed.
    pub(crate) fn max_draft(&self) -> u32 {
        if self.guide.is_some() || self.pending() != 1 || self.phase() != Phase::Decode {
            return 0;
        }
        let may_say = self.max_output.min(self.allowance).saturating_sub(self.written());
        may_say.saturating_sub(1).min(MAX_DRAFT)
    }

    /// Guesses at most `most` tokens; how many, and how many tokens agree where they were found. Nothing is guessed
    /// behind what would end it.
    pub(crate) fn guess(&mut self, most: u32, stop_tokens: &[u32]) -> Option<(u32, u32)> {
        self.drop_draft();
        // No sequence in a format guesses.
        let ends = |id: &u32| is_end(&self.output, stop_tokens, false, *id);
        let Drafts { lookup, run, length, .. } = &mut self.drafts;
        lookup.learn(&self.tokens, LEARNT_AT_ONCE);
        let found = lookup.find(&self.tokens)?;
        *length = found.length;
        run.extend(self.tokens.last());
        let guesses = continuation(&self.tokens, found, most);
        run.extend(guesses.take_while(|id| !ends(id)));
        let guessed = run.len() as u32 - 1;
        self.keep_draft(guessed);
        (guessed > 0).then_some((guessed, found.length))
    }

    /// Keeps so many of its guesses.
    pub(crate) fn keep_draft(&mut self, count: u32) {
        let kept = if count == 0 { 0 } else { count as usize + 1 };
        self.drafts.run.truncate(kept);
    }

    /// Gives its guesses up, and forgets what was drawn from them.
    pub(crate) fn drop_draft(&mut self) {
        self.drafts.run.clear();
        self.drafts.further.clear();
        self.forget_ahead();
    }

    /// How many guesses the next step computes.
    pub(crate) fn drafted(&self) -> u32 {
        self.drafts.run.len().saturating_sub(1) as u32
    }

    /// What is known of its guesses, beside what `others` had.
    pub(crate) const fn odds<'a>(&'a self, others: &'a Experience) -> Odds<'a> {
        Odds { own: &self.drafts.experience, others, patience: self.drafts.patience }
    }

    /// How many guesses fit into the blocks it has.
    pub(crate) fn draft_room(&self) -> u32 {
        let held = self.blocks.len() as u32 * self.names.block_tokens();
        held.saturating_sub(self.computed + 1)
    }

    /// Draws from each of its rows of logits for as long as the guesses are right; the first token. The others wait
    /// for [`accept_all`](Self::accept_all).
    pub(crate) fn draw_all<'l>(
        &mut self,
        mut rows: impl Iterator<Item = &'l mut [f32]>,
        stop_tokens: &[u32],
    ) -> Option<Result<Draw, Failure>> {
        let first = self.draw(rows.next()?, stop_tokens);
        let Some(Ok(Draw { id: Some(id), .. })) = first else { return first };
        let mut last = id;
        for (at, row) in (1..self.drafts.run.len()).zip(rows) {
            if self.drafts.run[at] != last || self.is_end(last, stop_tokens) {
                break;
            }
            let noted = self.sampler.note(last);
            self.drafts.noted.push(noted);
            // Whatever is wrong with this row will be wrong when it is computed without a guess.
            let Some(Ok(draw)) = self.draw(row, stop_tokens) else { break };
            let drawn = draw.id;
            self.drafts.further.push(draw);
            let Some(id) = drawn else { break };
            last = id;
        }
        self.forget_ahead();
        first
    }

    fn forget_ahead(&mut self) {
        while let Some(noted) = self.drafts.noted.pop() {
            self.sampler.forget(noted);
        }
    }

    /// Takes up what a step drew, as [`accept`](Self::accept) does, and what was drawn behind it; how the guesses
    /// did, if there were any.
    pub(crate) fn accept_all(
        &mut self,
        drawn: Result<Draw, Failure>,
        stop_tokens: &[u32],
        interval: Duration,
    ) -> (Outcome, Option<Trial>) {
        let drafted = self.drafted();
        let further = std::mem::take(&mut self.drafts.further);
        let mut outcome = self.accept(drawn, stop_tokens, interval);
        let mut accepted = 0;
        for draw in further {
            if !matches!(outcome, Outcome::Continues) {
                break;
            }
            // The token before this one was guessed right, so its keys and values are there.
            self.advance(1);
            accepted += 1;
            outcome = self.accept(Ok(draw), stop_tokens, interval);
        }
        self.drafts.patience.passed(1 + accepted);
        if drafted == 0 || matches!(outcome, Outcome::Ended(End::Failed(_))) {
            return (outcome, None);
        }
        let trial = Trial { length: self.drafts.length, drafted, accepted };
        self.drafts.experience.note(trial, OWN_MEMORY);
        self.drafts.patience.note(trial);
        self.drafts.run.clear();
        (outcome, Some(trial))
    }

    /// Blocks that only wrong guesses needed.
    pub(crate) fn spare_blocks(&mut self) -> Vec<Block> {
        let needed = self.tokens.len().div_ceil(self.names.block_tokens() as usize);
        self.blocks.split_off(needed.min(self.blocks.len()))
    }
}

/// So many tokens of a text are taken up before a step; it takes some microseconds.
const LEARNT_AT_ONCE: usize = 512;
