//! What sequences do in a step, and what that asks of the machine.

/// What one sequence did in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Tokens computed.
    pub(crate) tokens: u32,
    /// Position of the first of them.
    pub(crate) first: u32,
    /// Whether a token was sampled.
    pub(crate) sampled: bool,
    /// To what end.
    pub(crate) phase: Phase,
    /// What an adapter adds to the arithmetic of a token through the layers, in [`WORK_PARTS`] of it.
    pub(crate) extra: u32,
    /// How many of the tokens, the last ones, are guesses beside what it has to compute; each has a row of logits.
    pub(crate) drafted: u32,
}

/// To what end a sequence computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its prompt.
    Prefill,
    /// Its output.
    Decode,
    /// What had been computed before and was lost. The sequence does not pay for it.
    Recompute(Loss),
}

/// How computed keys and values were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The sequence gave way to others.
    Preemption,
    /// They are on another worker.
    Migration,
}

/// What work asks of the machine, counted. Sums of whole numbers, or of
/// whole parts of a power of two: exact up to 2^43.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Demand {
    /// Tokens through the layers; one with an adapter is more than one.
    pub(crate) tokens: f64,
    /// Pairs of a token and a position it attends.
    pub(crate) pairs: f64,
    /// Positions whose keys and values come from memory.
    pub(crate) reads: f64,
    /// Rows of logits.
    pub(crate) rows: f64,
}

impl Demand {
    /// What several works ask together.
    pub(crate) fn of(works: &[Work]) -> Self {
        works.iter().map(Work::demand).fold(Self::default(), |sum, demand| sum.plus(&demand))
    }

    /// What two ask together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            pairs: self.pairs + other.pairs,
            reads: self.reads + other.reads,
            rows: self.rows + other.rows,
        }
    }

    /// What this asks more than another that is part of it.
    pub(crate) fn less(&self, other: &Self) -> Self {
        Self {
            tokens: self.tokens - other.tokens,
            pairs: self.pairs - other.pairs,
            reads: self.reads - other.reads,
            rows: self.rows - other.rows,
        }
    }

    /// What the first `tokens` tokens of a prompt ask.
    pub(crate) fn of_prefix(tokens: u32) -> Self {
        Work { tokens, first: 0, sampled: false, phase: Phase::Prefill, extra: 0, drafted: 0 }
            .demand()
    }
}

impl Work {
    /// What it asks of the machine.
    pub(crate) fn demand(&self) -> Demand {
        let tokens = f64::from(self.tokens);
        // The token at position p attends p + 1 positions.
        let pairs = tokens * (f64::from(self.first) + 1.0) + tokens * (tokens - 1.0).max(0.0) / 2.0;
        let context = f64::from(self.first) + tokens;
        let reads = context * f64::from(self.tokens.div_ceil(ROWS_PER_READ));
        let whole = 1.0 + f64::from(self.extra) / f64::from(WORK_PARTS);
        Demand { tokens: tokens * whole, pairs, reads, rows: f64::from(self.rows()) }
    }

    /// Rows of logits.
    pub(crate) fn rows(&self) -> u32 {
        u32::from(self.sampled) + self.drafted
    }

    /// What one more of its tokens asks, with a row of logits: of its first ones, the next is no dearer.
    pub(crate) fn row(&self) -> Demand {
        let more = Self { tokens: self.tokens + 1, drafted: self.drafted + 1, ..*self };
        more.demand().less(&self.demand())
    }

    /// The same without guesses.
    pub(crate) fn without_drafts(&self) -> Self {
        Self { tokens: self.tokens - self.drafted, drafted: 0, ..*self }
    }
}

/// Rows of one sequence that find keys and values in the processor's own caches after the first of them.
const ROWS_PER_READ: u32 = 32;

/// The unit of extra work: fine enough, and a power of two, so that sums of it are exact.
pub(crate) const WORK_PARTS: u32 = 1_024;
