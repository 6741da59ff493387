//! The default: the least expected time, prefixes and crowding considered, and no hot spots.
//!
//! A prompt that a cache holds counts twice: its own first token comes earlier, and so do those of everybody who
//! would have waited for its computation.

use super::{Field, Policy, best, expected_time};

pub(super) static BALANCED: Policy = Policy { name: "balanced", choose };

fn choose(field: &Field) -> Option<usize> {
    let mut candidates = field.candidates();
    field.below_guard(&mut candidates);
    best(field, &candidates, expected_time)
}
