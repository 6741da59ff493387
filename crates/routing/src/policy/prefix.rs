//! Whoever's cache saves most time, unless that makes it a hot spot.

use std::cmp::Reverse;

use super::{Field, Policy, best};

pub(super) static PREFIX: Policy = Policy { name: "prefix", choose };

fn choose(field: &Field) -> Option<usize> {
    let mut candidates = field.candidates();
    field.below_guard(&mut candidates);
    best(field, &candidates, |candidate| (Reverse(candidate.saved), candidate.first_token_in))
}
