//! A sequence inside the engine, from its arrival to its end.

use std::time::{Duration, Instant};

use domain::FinishReason;

use crate::attribution::{Loss, Phase, Work};
use crate::blocks::Block;
use crate::sampler::Sampler;
use crate::schedule::Need;
use crate::sequence::Outlet;
use crate::{Failure, Request};

/// A sequence that waits for blocks.
pub(crate) struct Arrival {
    /// Prompt and output so far.
    pub(crate) tokens: Vec<u32>,
    request: Request,
    pub(crate) outlet: Outlet,
}

impl Arrival {
    pub(crate) fn new(request: Request, outlet: Outlet) -> Self {
        let tokens = [&*request.prompt, &*request.generated].concat();
        Self { tokens, request, outlet }
    }

    /// Positions it may write keys and values for; the last output token's are never needed.
    pub(crate) fn max_positions(&self) -> u32 {
        self.request.prompt.len() as u32 + self.request.max_output - 1
    }

    /// Whether nothing is left to produce.
    pub(crate) fn is_complete(&self) -> bool {
        self.request.generated.len() as u32 >= self.request.max_output
    }
}

/// A sequence that holds blocks.
pub(crate) struct Running {
    tokens: Vec<u32>,
    prompt_tokens: u32,
    /// Tokens whose keys and values are in the cache.
    computed: u32,
    /// Tokens whose keys and values another worker had.
    migrated: u32,
    /// Tokens whose keys and values this engine had, and gave up for others.
    preempted: u32,
    max_output: u32,
    allowance: u32,
    stop_on_eos: bool,
    sampler: Sampler,
    pub(crate) blocks: Vec<Block>,
    pub(crate) outlet: Outlet,
}

/// What a sequence did at the end of a step.
pub(crate) enum Outcome {
    Continues,
    Ended(End),
}

/// How a sequence ends.
pub(crate) enum End {
    Finished(FinishReason),
    Failed(Failure),
}

impl Running {
    /// Admits `arrival` with the blocks it needs for all of its positions.
    pub(crate) fn new(arrival: Arrival, blocks: Vec<Block>) -> Self {
        let Arrival { tokens, request, outlet } = arrival;
        let sampler = Sampler::new(request.sampling, &request.prompt, &request.generated);
        // Whoever produced the last token had not computed it yet.
        let migrated = if request.generated.is_empty() { 0 } else { tokens.len() as u32 - 1 };
        Self {
            prompt_tokens: request.prompt.len() as u32,
            tokens,
            computed: 0,
            migrated,
            preempted: 0,
            max_output: request.max_output,
            allowance: request.allowance,
            stop_on_eos: request.stop_on_eos,
            sampler,
            blocks,
            outlet,
        }
    }

    /// Reads what the reader asked for; returns why to end, if it is to end.
    pub(crate) fn obey(&mut self) -> Option<FinishReason> {
        let wish = self.outlet.wish();
        self.allowance = wish.allowance;
        wish.stop
    }

    pub(crate) fn need(&self) -> Need {
        Need {
            // A turn serves one end, so that its time has one owner.
            pending: self.phase_end() - self.computed,
            paused: self.outlet.usage().completion_tokens >= self.allowance,
        }
    }

    /// Prompt tokens that are still to be computed.
    pub(crate) fn prompt_left(&self) -> u32 {
        match self.pending() {
            1 => 0,
            pending => pending,
        }
    }

    /// To what end it computes its next token.
    pub(crate) fn phase(&self) -> Phase {
        match self.computed {
            next if next < self.preempted => Phase::Recompute(Loss::Preemption),
            next if next < self.migrated => Phase::Recompute(Loss::Migration),
            next if next < self.prompt_tokens => Phase::Prefill,
            _ => Phase::Decode,
        }
    }

    /// The next `count` tokens to compute, the position of the first, and whether the last of them is
    /// followed by a token to sample.
    pub(crate) fn turn(&self, count: u32) -> (&[u32], u32, bool) {
        let (start, end) = (self.computed as usize, (self.computed + count) as usize);
        (&self.tokens[start..end], self.computed, end == self.tokens.len())
    }

    /// What computing the next `count` tokens is.
    pub(crate) fn work(&self, count: u32) -> Work {
        let (_, first, sampled) = self.turn(count);
        Work { tokens: count, first, sampled, phase: self.phase() }
    }

    /// Notes that `count` tokens were computed.
    pub(crate) fn advance(&mut self, count: u32) {
        self.computed += count;
    }

    /// Draws the next token from its logits.
    pub(crate) fn sample(&mut self, logits: &mut [f32]) -> Result<u32, Failure> {
        self.sampler.sample(logits, self.tokens.len() as u32)
    }

    /// Takes a sampled token up, and sends it unless it ends the sequence. Its reader is woken at most every
    /// `interval`.
    pub(crate) fn accept(
        &mut self,
        drawn: Result<u32, Failure>,
        stop_tokens: &[u32],
        interval: Duration,
    ) -> Outcome {
        let id = match drawn {
            Ok(id) => id,
            Err(failure) => return Outcome::Ended(End::Failed(failure)),
        };
        if self.stop_on_eos && stop_tokens.contains(&id) {
            return Outcome::Ended(End::Finished(FinishReason::Stop));
        }
        self.tokens.push(id);
        self.sampler.note(id);
        self.outlet.send(id, interval);
        if self.tokens.len() as u32 - self.prompt_tokens >= self.max_output {
            return Outcome::Ended(End::Finished(FinishReason::Length));
        }
        Outcome::Continues
    }

    /// Gives its blocks up. What it had computed is computed again, and not at its expense.
    #[cfg_attr(not(test), expect(dead_code, reason = "a scheduler that preempts is to come"))]
    pub(crate) fn preempt(&mut self) -> Vec<Block> {
        self.preempted = self.preempted.max(self.computed);
        self.computed = 0;
        std::mem::take(&mut self.blocks)
    }

    fn pending(&self) -> u32 {
        self.tokens.len() as u32 - self.computed
    }

    /// The first token after the next one that is computed to another end.
    fn phase_end(&self) -> u32 {
        let tokens = self.tokens.len() as u32;
        let ends = [self.preempted, self.migrated];
        ends.into_iter().filter(|end| *end > self.computed).fold(tokens, u32::min)
    }
}

/// Guesses from the ends of sequences when the next one comes.
pub(crate) struct Turnover {
    last: Instant,
    mean_nanos: u64,
}

impl Turnover {
    pub(crate) fn new() -> Self {
        Self { last: Instant::now(), mean_nanos: FIRST_GUESS_NANOS }
    }

    /// Notes that a sequence ended now; returns the time until the next end, roughly.
    pub(crate) fn note(&mut self) -> Duration {
        let now = Instant::now();
        let nanos = now.duration_since(self.last).as_nanos().min(u128::from(MAX_HINT_NANOS)) as u64;
        self.last = now;
        self.mean_nanos = (self.mean_nanos * 7 + nanos) / 8;
        Duration::from_nanos(self.mean_nanos.clamp(MIN_HINT_NANOS, MAX_HINT_NANOS))
    }
}

const FIRST_GUESS_NANOS: u64 = 1_000_000_000;
const MIN_HINT_NANOS: u64 = 20_000_000;
const MAX_HINT_NANOS: u64 = 10_000_000_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{Sampling, Usage};

    use super::*;
    use crate::inbox::Inbox;
    use crate::sequence::line;

    /// A sequence of four prompt tokens and the output so far.
    fn running(generated: &[u32]) -> Running {
        let (_, outlet) = line(&Arc::new(Inbox::new(1)), 10, Usage::default());
        let request = Request {
            prompt: [1, 2, 3, 4].into(),
            generated: generated.to_vec(),
            max_output: 10,
            allowance: 10,
            sampling: Sampling::greedy(),
            stop_on_eos: false,
        };
        Running::new(Arrival::new(request, outlet), vec![0])
    }

    /// The phases of the turns it takes, at most `chunk` tokens each, with the tokens of each turn.
    fn turns(running: &mut Running, chunk: u32) -> Vec<(Phase, u32)> {
        let mut turns = Vec::new();
        while running.pending() > 0 {
            let count = running.need().pending.min(chunk);
            turns.push((running.work(count).phase, count));
            running.advance(count);
        }
        turns
    }

    #[test]
    fn a_continuation_pays_for_the_first_token_that_nobody_computed() {
        let turns = turns(&mut running(&[5, 6]), 3);
        let again = Phase::Recompute(Loss::Migration);
        assert_eq!(turns, [(again, 3), (again, 2), (Phase::Decode, 1)]);
    }

    #[test]
    fn a_preempted_sequence_pays_for_nothing_twice() {
        let mut running = running(&[5, 6]);
        running.advance(2);

        assert_eq!(running.preempt(), [0]);

        let again = Phase::Recompute(Loss::Preemption);
        let migrated = Phase::Recompute(Loss::Migration);
        assert_eq!(turns(&mut running, 9), [(again, 2), (migrated, 3), (Phase::Decode, 1)]);
    }

    #[test]
    fn a_prompt_is_prefill_and_what_follows_is_decode() {
        let mut running = running(&[]);
        assert_eq!(turns(&mut running, 3), [(Phase::Prefill, 3), (Phase::Prefill, 1)]);
        running.accept(Ok(7), &[], Duration::ZERO);
        assert_eq!(turns(&mut running, 3), [(Phase::Decode, 1)]);
    }
}
