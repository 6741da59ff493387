//! The earliest first token, by what workers predict and what their caches hold.

use super::{Field, Policy, best};

pub(super) static LEAST_TIME: Policy = Policy { name: "least_time", choose };

fn choose(field: &Field) -> Option<usize> {
    best(field, &field.candidates(), |candidate| candidate.first_token_in)
}
