//! Whoever's cache saves most time, unless that makes it a hot spot.
//!
//! A saving that is a small part of the prompt's time less than another is as good: what all prompts begin with is
//! everywhere soon, and must not draw them all to where it was first.

use super::{Field, Policy, best};

pub(super) static PREFIX: Policy = Policy { name: "prefix", choose };

fn choose(field: &Field) -> Option<usize> {
    let mut candidates = field.candidates();
    field.below_guard(&mut candidates);
    let most = candidates.iter().map(|candidate| candidate.saved).max()?;
    candidates.retain(|candidate| {
        let whole = candidate.saved + candidate.prompt_time;
        candidate.saved + whole.mul_f64(SMALL) >= most
    });
    best(field, &candidates, |candidate| candidate.first_token_in)
}

/// The part of a prompt's time that is not worth waiting for.
const SMALL: f64 = 1.0 / 16.0;
