//! The better of two drawn by lot: nearly as good as the best of all, at the cost of two.
//!
//! Who is at risk, or has little room for it, is not drawn, so two late ones are not compared with it; where few others are found, all are looked at.

use super::{Candidate, Field, Policy, best, expected_time, mix};

pub(super) static TWO_CHOICES: Policy = Policy { name: "two_choices", choose };

fn choose(field: &Field) -> Option<usize> {
    let count = field.members.len();
    let mut drawn: Vec<Candidate> = Vec::with_capacity(2);
    let mut number = field.asked.draw;
    for _ in 0..DRAWS {
        number = mix(number);
        let at = (number % count.max(1) as u64) as usize;
        if drawn.iter().any(|candidate| candidate.at == at) {
            continue;
        }
        drawn.extend(field.candidate(at).filter(|one| one.ample && !one.at_risk));
        if drawn.len() == 2 {
            return best(field, &drawn, expected_time);
        }
    }
    // Few are left: all of them are looked at.
    best(field, &field.candidates(), expected_time)
}

const DRAWS: u32 = 16;
