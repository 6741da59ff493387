//! The tokens that may come next.

use llguidance::toktrie::SimpleVob;

/// A set of tokens of the model's vocabulary; never empty.
pub(crate) struct Mask(SimpleVob);

impl Mask {
    /// The set without `not`; nothing if that leaves none.
    pub(super) fn new(mut allowed: SimpleVob, not: &[u32]) -> Option<Self> {
        for &token in not {
            allowed.disallow_token(token);
        }
        let empty = allowed.as_slice().iter().all(|&word| word == 0);
        (!empty).then_some(Self(allowed))
    }

    /// Makes every other token impossible.
    pub(crate) fn apply(&self, logits: &mut [f32]) {
        for (&word, logits) in self.0.as_slice().iter().zip(logits.chunks_mut(WORD)) {
            if word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word & (1 << bit) == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Whether it is one of these tokens, or more, and no other.
    pub(crate) fn is_only(&self, tokens: &[u32]) -> bool {
        let here = tokens.iter().filter(|&&token| self.0.is_allowed(token)).count();
        self.0.num_set() == here
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({} tokens)", self.0.num_set())
    }
}

/// Tokens of one word of the set.
const WORD: usize = 32;
