//! How long a model's tokens take, learned from what they took.
//!
//! Only for models priced by GPU time, where money must be held before the time is known. The
//! estimate errs on the high side: what was held and not used goes back at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use domain::{GpuTime, ModelDigest, Usage};

/// Estimates of GPU time per token, by model.
#[derive(Default)]
pub(crate) struct Estimates {
    nanos_per_token: Mutex<HashMap<ModelDigest, u64>>,
}

impl Estimates {
    /// Time that `tokens` tokens of `model` will probably not exceed.
    pub(crate) fn time(&self, model: &ModelDigest, tokens: u32) -> GpuTime {
        let known = self.nanos_per_token.lock().unwrap_or_else(PoisonError::into_inner);
        let per_token = known.get(model).copied().unwrap_or(UNKNOWN_NANOS_PER_TOKEN);
        GpuTime::from_nanos(per_token.saturating_mul(SAFETY).saturating_mul(u64::from(tokens)))
    }

    /// Learns from a finished request.
    pub(crate) fn learn(&self, model: &ModelDigest, usage: &Usage) {
        let computed = usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens);
        let tokens = u64::from(computed) + u64::from(usage.completion_tokens);
        if tokens == 0 || usage.gpu == GpuTime::ZERO {
            return;
        }
        let seen = usage.gpu.nanos() / tokens;
        let mut known = self.nanos_per_token.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_MODELS && !known.contains_key(model) {
            known.clear();
        }
        let estimate = known.entry(model.clone()).or_insert(seen);
        *estimate = (*estimate * (WEIGHT - 1) + seen) / WEIGHT;
    }
}

/// Before anything was seen: 20 ms a token.
const UNKNOWN_NANOS_PER_TOKEN: u64 = 20_000_000;
/// A batch may get this many times slower before a lease runs short.
const SAFETY: u64 = 2;
/// An observation counts one part in this many.
const WEIGHT: u64 = 8;
const MAX_MODELS: usize = 1024;
