//! The cheapest worker that makes it in time; if none does, the one that comes nearest.
//!
//! Nobody waits for batches, so they take spot machines first: those are there to be lost.

use domain::{Capacity, Priority};

use super::{Field, Policy, best, expected_time};

pub(super) static CHEAPEST: Policy = Policy { name: "cheapest", choose };

fn choose(field: &Field) -> Option<usize> {
    let all = field.candidates();
    let batch = field.asked.priority == Priority::Batch;
    let mut in_time = all.clone();
    in_time.retain(|candidate| candidate.first_token_in <= field.asked.due_in);
    if in_time.is_empty() {
        return best(field, &all, |candidate| candidate.first_token_in);
    }
    best(field, &in_time, |candidate| {
        let stays = candidate.capacity == Capacity::OnDemand;
        (batch && stays, candidate.price, expected_time(candidate))
    })
}
