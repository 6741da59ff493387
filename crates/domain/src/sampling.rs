//! How the next token is chosen.

use serde::{Deserialize, Serialize};

/// Sampling parameters, already checked: every value is finite and in its documented range.
///
/// The draw for a token depends on (`seed`, absolute position) alone, so a sequence continued on
/// another worker draws what the first one would have drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 is greedy; otherwise logits are divided by it. In `0.0..=2.0`.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this. In `0.0..=1.0`; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less probable than this share of the most probable one. In `0.0..=1.0`.
    pub min_p: f32,
    /// Divide (positive) or multiply (negative) logits of tokens seen in prompt or output. Above 0; 1 is none.
    pub repetition_penalty: f32,
    /// Subtracted once from logits of tokens already in the output. In `-2.0..=2.0`.
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output. In `-2.0..=2.0`.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens: (token id, bias), ascending by id. In `-100.0..=100.0`.
    pub logit_bias: Vec<(u32, f32)>,
    /// Keys the random draws.
    pub seed: u64,
}

impl Sampling {
    /// The most probable token every time.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }

    /// The same for one of several sequences. The first keeps the seed; every other draws from one that
    /// depends on the seed and its index alone.
    #[must_use]
    pub fn of_choice(&self, index: u32) -> Self {
        let seed = if index == 0 { self.seed } else { mix(self.seed ^ mix(u64::from(index))) };
        Self { seed, ..self.clone() }
    }
}

/// A bijection that leaves nothing recognizable of its input (the finalizer of `SplitMix64`).
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
