//! A step cut into lots that threads compute side by side.
//!
//! Threads that share every operation meet at every operation; threads that each take some of the
//! sequences meet once a step. So a step of many short turns is cut into lots of whole turns, and each lot
//! goes through the model and the sampler on one thread. A step that one long prompt dominates stays whole,
//! and its operations are shared instead. Neither way changes a result: no row depends on another row of
//! its step.

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use crate::Failure;
use crate::attribution::Work;
use crate::models::{Decoder, KvCache};
use crate::ops::Pool;
use crate::running::{Draw, Running};
use crate::schedule::Turn;
use crate::step::Step;

/// What became of each turn: a token if it drew one, or why it failed.
pub(crate) type Drawn = Vec<Option<Result<Draw, Failure>>>;

/// Some turns of a step, with everything they need to be computed by themselves.
pub(crate) struct Lot<'a> {
    pub(crate) step: Step,
    pub(crate) turns: &'a [Turn],
    pub(crate) works: &'a [Work],
    /// The sequence of each turn.
    pub(crate) running: Vec<&'a mut Running>,
}

/// What computes lots.
pub(crate) struct Bench<'a> {
    pub(crate) decoder: &'a dyn Decoder,
    pub(crate) cache: &'a KvCache,
    pub(crate) vocabulary: usize,
    pub(crate) stop_tokens: &'a [u32],
    /// All threads.
    pub(crate) threads: &'a Pool,
    /// The thread that asks, and no other.
    pub(crate) alone: &'a Pool,
}

/// Which turns belong together, for turns of so many tokens.
pub(crate) fn cut(tokens: &[u32], threads: u32) -> Vec<Range<usize>> {
    let whole = || std::iter::once(0..tokens.len()).collect();
    let share = tokens.iter().sum::<u32>().div_ceil(threads);
    if threads < 2 || share < LEAST_ROWS {
        return whole();
    }
    let mut lots: Vec<Range<usize>> = Vec::new();
    let (mut start, mut rows, mut longest) = (0, 0, 0);
    for (index, count) in tokens.iter().enumerate() {
        // A lot ends where it is nearest to its share; the last one takes the rest.
        if rows > 0 && rows + count / 2 >= share && lots.len() + 1 < threads as usize {
            lots.push(start..index);
            (start, rows) = (index, 0);
        }
        rows += count;
        longest = longest.max(rows);
    }
    lots.push(start..tokens.len());
    if longest > share + share / MAX_EXCESS { whole() } else { lots }
}

impl Bench<'_> {
    /// Computes every lot; what became of each turn, in order.
    pub(crate) fn compute(&self, lots: Vec<Lot<'_>>) -> Drawn {
        let lots: Vec<_> = lots.into_iter().map(|lot| Mutex::new((lot, Drawn::new()))).collect();
        let inside = if lots.len() > 1 { self.alone } else { self.threads };
        self.threads.run(lots.len(), true, &|index| {
            let mut guard = lots[index].lock().unwrap_or_else(PoisonError::into_inner);
            let (lot, drawn) = &mut *guard;
            *drawn = self.compute_one(lot, inside);
        });
        let drawn =
            lots.into_iter().map(|lot| lot.into_inner().unwrap_or_else(PoisonError::into_inner).1);
        drawn.flatten().collect()
    }

    fn compute_one(&self, lot: &mut Lot<'_>, pool: &Pool) -> Drawn {
        LOGITS.with_borrow_mut(|logits| {
            let forward = || self.decoder.forward(&lot.step, self.cache, pool, logits);
            let problem = match caught(forward) {
                Ok(Ok(())) => return self.draw(lot, logits),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic,
            };
            tracing::error!(error = problem, sequences = lot.turns.len(), "step failed");
            let failed = || Some(Err(Failure::Forward(problem.clone())));
            lot.turns.iter().map(|_| failed()).collect()
        })
    }

    /// The draws from what the forward pass left.
    fn draw(&self, lot: &mut Lot<'_>, logits: &mut [f32]) -> Drawn {
        let mut rows = logits.chunks_exact_mut(self.vocabulary);
        let mut drawn = Drawn::with_capacity(lot.turns.len());
        for ((turn, work), running) in lot.turns.iter().zip(lot.works).zip(&mut lot.running) {
            let mut rows = rows.by_ref().take(work.rows() as usize);
            let draw = || running.draw_all(&mut rows, self.stop_tokens);
            let outcome = caught(draw).unwrap_or_else(|panic| Some(Err(Failure::Forward(panic))));
            // Those behind a wrong guess are nobody's.
            rows.for_each(drop);
            if !matches!(outcome, Some(Err(_))) {
                running.advance(turn.tokens - work.drafted);
            }
            drawn.push(outcome);
        }
        drawn
    }
}

/// What `work` returns, or what it says when it panics: one sequence's bug is not the end of all the others.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "a panic without words".to_owned())
    })
}

thread_local! {
    /// Logits of one lot, used again: so much memory is given back to the system each time it is freed.
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A lot may exceed its share by this part of it; beyond, sharing every operation costs less than waiting.
const MAX_EXCESS: u32 = 4;

/// Fewer rows than these keep one thread too short of work to read all weights for them.
const LEAST_ROWS: u32 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_turn_is_in_one_lot_in_order(
            tokens in prop::collection::vec(1_u32..70, 1..70),
            threads in 1_u32..9,
        ) {
            let lots = cut(&tokens, threads);
            prop_assert!(lots.len() <= threads as usize);
            let turns: Vec<usize> = lots.into_iter().flatten().collect();
            prop_assert_eq!(turns, (0..tokens.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sixteen_streams_are_shared_evenly() {
        assert_eq!(cut(&[1; 16], 2), [0..8, 8..16]);
    }

    #[test]
    fn a_short_prompt_among_streams_is_a_lot_of_its_own() {
        let tokens = [[1; 15].as_slice(), &[18]].concat();
        assert_eq!(cut(&tokens, 2), [0..15, 15..16]);
    }

    #[test]
    fn a_step_that_one_prompt_dominates_stays_whole() {
        assert_eq!(cut(&[1, 1, 1, 64], 2).len(), 1);
        assert_eq!(cut(&[1; 4], 2).len(), 1, "too little to share");
    }
}
