//! What is asked of an engine and what comes back.

use std::sync::Arc;

use domain::{
    CacheSalt, FinishReason, GpuTime, Logprobs, ModelDigest, OutputRules, Sampling, Share, Usage,
};

use crate::Failure;

/// One sequence to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids of the prompt; at least one.
    pub prompt: Arc<[u32]>,
    /// Output tokens that were produced elsewhere already: the sequence goes on after them. They count
    /// in `max_output`, `allowance` and penalties, and are not sent again.
    pub generated: Vec<u32>,
    /// Output tokens at most, `generated` included; at least one.
    pub max_output: u32,
    /// Output tokens paid for so far, `generated` included: the sequence pauses when it has produced this
    /// many, until [`Sequence::extend`](crate::Sequence::extend) or
    /// [`Sequence::stop`](crate::Sequence::stop). At or above `max_output` it never pauses.
    pub allowance: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What is asked of the output beside that. A stop token of the model ends the sequence, and is not part
    /// of the output, unless `ignore_eos` says otherwise; before `min_tokens` it is not drawn. In a format it
    /// is drawn only where a sentence of the format may end; with `ignore_eos` never, and the output
    /// ends where nothing can follow. A sentence that nothing can follow ends the output also before
    /// `min_tokens`.
    pub output: OutputRules,
    /// For whom it runs: who is least urgent gives way first.
    pub share: Share,
    /// Keeps its blocks apart from those of requests with another salt.
    pub salt: CacheSalt,
    /// The adapter with which it is computed, one that is loaded; absent means the model itself.
    pub adapter: Option<ModelDigest>,
}

/// What happened to a sequence since the last event. Reading the last event accepts what it says was used.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// New output; a slow reader gets several tokens at once.
    Tokens {
        /// Index in the output of the first id; the output begins with `Request::generated`.
        first: u32,
        /// The new token ids, at least one.
        ids: Vec<u32>,
        /// Billable time attributed since the last event with tokens.
        gpu: GpuTime,
        /// For each of `ids`, if that was asked for; else empty.
        logprobs: Vec<Logprobs>,
        /// Tokens before the output that a cache held, all of them together.
        cached: u32,
    },
    /// The sequence ended; the last event.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Everything it used here: `completion_tokens` includes `generated`, and `gpu` includes time
        /// that no `Tokens` event carried. Computing `generated` and the prompt before it again is not in
        /// `gpu`, but in `times.recompute`.
        usage: Usage,
    },
    /// The sequence cannot go on; the last event.
    Failed {
        /// Why.
        failure: Failure,
        /// Everything it used until then.
        usage: Usage,
    },
}

impl Event {
    /// Everything the sequence used, if this is its last event.
    pub const fn usage(&self) -> Option<&Usage> {
        match self {
            Self::Tokens { .. } => None,
            Self::Finished { usage, .. } | Self::Failed { usage, .. } => Some(usage),
        }
    }
}

/// Most of the most probable tokens that are told for each token.
pub const MAX_LOGPROBS: u32 = 20;
