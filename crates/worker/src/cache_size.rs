//! How large a KV cache is that nobody sized: by the model, and by what the machine has left.
//!
//! It is to hold some sequences of the model's full context, of at most a part of the memory that is left when the weights
//! are there, and never less than an engine takes that knows nothing, unless memory forbids that. Where nobody can say what
//! memory there is, it is that. Memory is taken as blocks are first written to, so a large cache costs nothing until it is
//! used; but then it is: what is left for others is what this leaves.

use engine::{EngineConfig, Sequences};

/// Bytes of the cache for a model of such `sequences`, cut into blocks of `block_tokens`, on a machine that has `left`
/// for it.
pub(crate) fn default_bytes(sequences: Sequences, block_tokens: u32, left: Option<u64>) -> u64 {
    let of = |tokens: u32| {
        let block = u64::from(block_tokens.max(1));
        u64::from(tokens)
            .div_ceil(block)
            .saturating_mul(block)
            .saturating_mul(sequences.bytes_per_token)
    };
    let Some(left) = left else { return EngineConfig::LEAST_KV_BYTES.max(of(LEAST_TOKENS)) };
    let wanted = of(sequences.context).saturating_mul(FULL_SEQUENCES);
    let part = left / 100 * MOST_PERCENT;
    let least = EngineConfig::LEAST_KV_BYTES.min(left / 100 * MOST_PERCENT_OF_LITTLE);
    // Who could answer nothing is of no use at all.
    wanted.min(part).max(least).max(of(LEAST_TOKENS.min(sequences.context)))
}

/// So many sequences of the full context fit into a cache.
const FULL_SEQUENCES: u64 = 4;
/// The part of the memory left that a cache takes at most.
const MOST_PERCENT: u64 = 50;
/// The same where that would be less than an engine takes that knows nothing.
const MOST_PERCENT_OF_LITTLE: u64 = 75;
/// A cache holds that many tokens, however little memory there is.
const LEAST_TOKENS: u32 = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;
    /// Qwen3-0.6B.
    const LARGE: Sequences = Sequences { context: 40_960, bytes_per_token: 112 << 10 };
    /// The demo model.
    const SMALL: Sequences = Sequences { context: 2048, bytes_per_token: 4096 };

    #[test]
    fn a_cache_holds_some_full_sequences_if_the_machine_has_the_memory() {
        let full = 40_960 * (112 << 10);
        assert_eq!(default_bytes(LARGE, 32, Some(100 * GIB)), 4 * full);
        let of_sixteen = default_bytes(LARGE, 32, Some(16 * GIB));
        assert!(of_sixteen <= 8 * GIB && of_sixteen > full, "{of_sixteen}");
    }

    #[test]
    fn a_small_model_gets_what_it_always_got() {
        for left in [None, Some(GIB), Some(64 * GIB)] {
            assert_eq!(default_bytes(SMALL, 32, left), EngineConfig::LEAST_KV_BYTES);
        }
    }

    proptest! {
        #[test]
        fn a_cache_leaves_memory_for_others_and_is_never_small_without_need(
            context in 1_u32..2_000_000,
            bytes_per_token in 1_u64..1 << 20,
            block_tokens in (1_u32..8).prop_map(|units| units * 16),
            left in 0..64 * GIB,
            more in 0..64 * GIB,
        ) {
            let sequences = Sequences { context, bytes_per_token };
            let size = |left| default_bytes(sequences, block_tokens, Some(left));
            let bytes = size(left);
            let block = u64::from(block_tokens) * bytes_per_token;
            let few = u64::from(LEAST_TOKENS + block_tokens) * bytes_per_token;

            prop_assert!(bytes >= block, "an engine with no block cannot start");
            prop_assert!(bytes <= few.max(left / 4 * 3), "others have at least a quarter");
            prop_assert!(left < GIB || bytes >= EngineConfig::LEAST_KV_BYTES);
            prop_assert!(size(left + more) >= bytes, "more memory is no smaller cache");
            let full = (u64::from(context) + u64::from(block_tokens)) * bytes_per_token;
            prop_assert!(bytes <= (4 * full).max(EngineConfig::LEAST_KV_BYTES).max(few));
            if left / 100 * 50 >= 4 * full {
                prop_assert!(bytes / block * u64::from(block_tokens) >= u64::from(context));
            }
        }
    }
}
