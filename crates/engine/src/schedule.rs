//! Decides which tokens the next step computes.
//!
//! Sequences that decode go first, one token each, so that prompts never hold up a stream; what is left
//! of the step's budget goes to prompts in order of admission, in chunks.
//!
//! Invariant: knows nothing of blocks, models or clocks.

/// What a running sequence could compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Tokens known but not computed yet: 1 decodes, more is a prompt.
    pub(crate) pending: u32,
    /// Whether it waits for a larger allowance.
    pub(crate) paused: bool,
}

/// Bounds of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Tokens in all.
    pub(crate) step_tokens: u32,
    /// Tokens of one prompt.
    pub(crate) prefill_chunk: u32,
}

/// A part of the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Index of the sequence in `needs`.
    pub(crate) sequence: usize,
    /// Tokens to compute, at least one.
    pub(crate) tokens: u32,
}

/// The next step, for `needs` in order of admission.
pub(crate) fn schedule(needs: &[Need], budget: Budget) -> Vec<Turn> {
    let mut left = budget.step_tokens;
    let mut turns = Vec::with_capacity(needs.len());
    let decoding = |need: &Need| need.pending == 1;
    for decodes in [true, false] {
        for (sequence, need) in needs.iter().enumerate() {
            let tokens = need.pending.min(budget.prefill_chunk).min(left);
            if need.paused || decoding(need) != decodes || tokens == 0 {
                continue;
            }
            turns.push(Turn { sequence, tokens });
            left -= tokens;
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needs() -> impl Strategy<Value = Vec<Need>> {
        let need = (prop_oneof![Just(1), 1..500_u32], any::<bool>())
            .prop_map(|(pending, paused)| Need { pending, paused });
        prop::collection::vec(need, 0..20)
    }

    proptest! {
        #[test]
        fn a_step_stays_in_its_budget_and_nobody_starves(
            needs in needs(),
            step_tokens in 21..200_u32,
            prefill_chunk in 1..100_u32,
        ) {
            let turns = schedule(&needs, Budget { step_tokens, prefill_chunk });

            let total: u32 = turns.iter().map(|turn| turn.tokens).sum();
            prop_assert!(total <= step_tokens);
            for turn in &turns {
                let need = needs[turn.sequence];
                prop_assert!(!need.paused && turn.tokens <= need.pending.min(prefill_chunk));
            }
            let took_turn = |sequence| turns.iter().any(|turn| turn.sequence == sequence);
            let mut first_prompt = None;
            for (sequence, need) in needs.iter().enumerate().filter(|(_, need)| !need.paused) {
                if need.pending == 1 {
                    prop_assert!(took_turn(sequence), "every stream gets its token");
                } else {
                    first_prompt.get_or_insert(sequence);
                }
            }
            prop_assert!(first_prompt.is_none_or(took_turn), "the oldest prompt moves");
        }
    }
}
