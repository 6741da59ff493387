//! Computes turns so that only those fail that fail alone.
//!
//! A forward pass that fails, panics or yields what is no number does not say whose fault that is. What failed
//! together is computed again in halves until whoever fails, fails alone. That is safe: keys and values are
//! written again where they were, and nothing was drawn. The others get the tokens they would have got.
//!
//! Promise: the time of attempts from which nothing came is the platform's.

use super::StepLoop;
use crate::Failure;
use crate::attribution::{Phase, Work};
use crate::lots::Drawn;
use crate::schedule::Turn;

impl StepLoop {
    /// One entry for each turn, with a token if it sampled one, or with its own failure.
    pub(super) fn attempt(&mut self, turns: &[Turn]) -> Drawn {
        let running = |turn: &Turn| &self.running[turn.sequence];
        let works: Vec<Work> = turns.iter().map(|turn| running(turn).work(turn.tokens)).collect();
        self.ledger.book_overhead();
        let mut drawn = self.compute(turns, &works);
        let failed: Vec<usize> =
            (0..turns.len()).filter(|index| came_to_nothing(drawn[*index].as_ref())).collect();
        self.attribute(turns, &works, &failed);
        let guessed = works.iter().any(|work| work.drafted > 0);
        if (turns.len() == 1 && !guessed) || failed.is_empty() {
            return drawn;
        }
        for half in failed.chunks(failed.len().div_ceil(2)) {
            let mut again = Vec::with_capacity(half.len());
            for &index in half {
                // It may be a guess that fails.
                let (Turn { sequence, tokens }, drafted) = (turns[index], works[index].drafted);
                self.running[sequence].drop_draft();
                again.push(Turn { sequence, tokens: tokens - drafted });
            }
            for (&index, outcome) in half.iter().zip(self.attempt(&again)) {
                drawn[index] = outcome;
            }
        }
        drawn
    }

    /// Books the time of an attempt: on its sequences, and on us what `failed` and what made up for losses.
    fn attribute(&mut self, turns: &[Turn], works: &[Work], failed: &[usize]) {
        let time = self.ledger.book_requests();
        let shares = self.attribution.split(time, works);
        for (index, ((turn, work), &share)) in turns.iter().zip(works).zip(shares).enumerate() {
            let running = &mut self.running[turn.sequence];
            if failed.contains(&index) {
                self.ledger.excuse(share);
                continue;
            }
            running.outlet.spend(work.phase, share);
            match work.phase {
                Phase::Recompute(loss) => self.ledger.take_over(loss, share),
                Phase::Prefill => self.standings.charge(&mut running.place, share),
                Phase::Decode => {
                    self.standings.expect_no_more(&mut running.place);
                    self.standings.charge(&mut running.place, share);
                }
            }
        }
        if failed.is_empty() {
            self.step_time = (self.step_time * 7 + super::duration(time)) / 8;
            self.attribution.learn(time, works);
        }
    }
}

const fn came_to_nothing(drawn: Option<&Result<crate::running::Draw, Failure>>) -> bool {
    matches!(drawn, Some(Err(Failure::Forward(_) | Failure::NotANumber { .. })))
}
