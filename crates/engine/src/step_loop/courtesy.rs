//! What tenants that had more than others do for those: sit out, and keep their steps short.
//!
//! The first token of a prompt waits for the step that runs when it comes, and for whatever else is in the steps that
//! compute it. If its tenant had far less than others, nothing of theirs is in these: who is far ahead sits out, prompts
//! and streams, for [`MAX_SAT_OUT`] steps in a row at most. And as long as somebody who was here lately is far behind
//! all prompts of a step, the step is no longer than it has to be for the machine to be worth [`SHORT_STEP_WORTH`] of what it
//! is worth in full steps: one that is short without loss where tokens are what takes the time, and as long as ever where
//! it is the weights.
//!
//! Promise: it costs a tenant that is ahead some steps, which its clock gives back, and the machine next to nothing. Tenants
//! that take turns do not notice, and neither does one that is alone.

use super::StepLoop;
use crate::fair::Rank;
use crate::schedule::{Budget, LEAST_PART, Need};

impl StepLoop {
    /// Takes the needs of sequences away that sit this step out; `ranks` are where they stand.
    pub(super) fn sit_out(&mut self, needs: &mut [Need], ranks: &[Rank]) {
        let prompts = ranks.iter().zip(&*needs).filter(|(_, need)| need.is_prompt());
        let prompts: Vec<Rank> = prompts.map(|(rank, _)| *rank).collect();
        let mut some = false;
        if self.sat_out < MAX_SAT_OUT {
            for (need, rank) in needs.iter_mut().zip(ranks).filter(|(need, _)| need.is_ready()) {
                if prompts.iter().any(|prompt| prompt.is_far_before(rank)) {
                    need.pending = 0;
                    some = true;
                }
            }
        }
        self.sat_out = if some { self.sat_out + 1 } else { 0 };
    }

    /// The bounds of a step with these needs of sequences that stand there.
    pub(super) fn bounds(&self, needs: &[Need], ranks: &[Rank]) -> Budget {
        let budget = self.budget();
        let Some(least) = self.standings.least_lately(self.ledger.mark()) else { return budget };
        let mut prompts = ranks.iter().zip(needs).filter(|(_, need)| need.is_prompt());
        if !prompts.all(|(rank, _)| rank.is_far_ahead(least)) {
            return budget;
        }
        let streams = needs.iter().filter(|need| need.is_ready() && need.pending == 1).count();
        let costs = self.attribution.costs();
        let short = costs.least_tokens(budget.step_tokens, SHORT_STEP_WORTH);
        let step_tokens = short.max(streams as u32 + LEAST_PART).min(budget.step_tokens);
        Budget { step_tokens, ..budget }
    }
}

/// Steps in a row that a sequence sits out at most.
const MAX_SAT_OUT: u32 = 4;
/// The part of the throughput of full steps that short ones have to reach.
const SHORT_STEP_WORTH: f64 = 63.0 / 64.0;
