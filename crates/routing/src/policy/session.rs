//! The same worker for the same conversation (rendezvous hashing): a worker that comes or goes moves only its own.

use std::cmp::Reverse;

use super::{Field, Policy, best, mix};

pub(super) static SESSION: Policy = Policy { name: "session", choose };

fn choose(field: &Field) -> Option<usize> {
    let mut candidates = field.candidates();
    field.below_guard(&mut candidates);
    best(field, &candidates, |candidate| Reverse(mix(field.asked.session ^ candidate.key)))
}
