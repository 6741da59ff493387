//! A sequence inside the engine, from its arrival to its end.

use std::time::{Duration, Instant};

use domain::FinishReason;

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
        Self {
            prompt_tokens: request.prompt.len() as u32,
            tokens,
            computed: 0,
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
            pending: self.pending(),
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

    /// The next `count` tokens to compute, the position of the first, and whether the last of them is
    /// followed by a token to sample.
    pub(crate) fn turn(&self, count: u32) -> (&[u32], u32, bool) {
        let (start, end) = (self.computed as usize, (self.computed + count) as usize);
        (&self.tokens[start..end], self.computed, end == self.tokens.len())
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

    fn pending(&self) -> u32 {
        self.tokens.len() as u32 - self.computed
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
