//! Decides which tokens the next step computes.
//!
//! Sequences that decode go first, one token each, so that prompts never hold up a stream; what is left
//! of the step's budget goes to prompts in chunks. Among equals it goes by the order that is handed in. A prompt
//! that would not end with the step leaves half of what there is to those behind it, so that a short one moves
//! beside a long one.
//!
//! Invariant: knows nothing of tenants, blocks, models or clocks.

/// What a running sequence could compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Tokens known but not computed yet: 1 decodes, more is a prompt.
    pub(crate) pending: u32,
    /// Whether it waits for a larger allowance.
    pub(crate) paused: bool,
}

impl Need {
    /// Whether it could compute anything.
    pub(crate) const fn is_ready(self) -> bool {
        !self.paused && self.pending > 0
    }

    /// Whether it could compute more of its prompt.
    pub(crate) const fn is_prompt(self) -> bool {
        !self.paused && self.pending > 1
    }
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

/// The next step, for `needs` served in this `order` of their indices.
pub(crate) fn schedule(needs: &[Need], order: &[usize], budget: Budget) -> Vec<Turn> {
    let mut left = budget.step_tokens;
    let mut turns = Vec::with_capacity(needs.len());
    let ready = || order.iter().copied().filter(|sequence| !needs[*sequence].paused);
    for sequence in ready().filter(|sequence| needs[*sequence].pending == 1) {
        if left > 0 {
            turns.push(Turn { sequence, tokens: 1 });
            left -= 1;
        }
    }
    let prompts = turns.len();
    let wanted = |sequence: usize| needs[sequence].pending.min(budget.prefill_chunk);
    let mut behind = ready().filter(|sequence| needs[*sequence].pending > 1).count();
    for sequence in ready().filter(|sequence| needs[*sequence].pending > 1) {
        behind -= 1;
        let ends = needs[sequence].pending <= wanted(sequence).min(left);
        let most = if ends || behind == 0 { left } else { left.div_ceil(2).max(LEAST_PART) };
        let tokens = wanted(sequence).min(most).min(left);
        turns.push(Turn { sequence, tokens });
        left -= tokens;
    }
    // What those behind did not need.
    for turn in &mut turns[prompts..] {
        let more = (wanted(turn.sequence) - turn.tokens).min(left);
        turn.tokens += more;
        left -= more;
    }
    turns.retain(|turn| turn.tokens > 0);
    turns
}

/// A smaller part of a prompt is not worth its own attention over what came before.
pub(crate) const LEAST_PART: u32 = 16;

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
            let order: Vec<usize> = (0..needs.len()).rev().collect();
            let turns = schedule(&needs, &order, Budget { step_tokens, prefill_chunk });

            let total: u32 = turns.iter().map(|turn| turn.tokens).sum();
            prop_assert!(total <= step_tokens);
            for turn in &turns {
                let need = needs[turn.sequence];
                prop_assert!(!need.paused && turn.tokens <= need.pending.min(prefill_chunk));
            }
            let took_turn = |sequence| turns.iter().any(|turn| turn.sequence == sequence);
            let mut first_prompt = None;
            for (sequence, need) in needs.iter().enumerate().rev().filter(|(_, need)| !need.paused) {
                if need.pending == 1 {
                    prop_assert!(took_turn(sequence), "every stream gets its token");
                } else {
                    first_prompt.get_or_insert(sequence);
                }
            }
            prop_assert!(first_prompt.is_none_or(took_turn), "the first prompt moves");
            let full = |(sequence, need): (usize, &Need)| {
                let wanted = need.pending.min(prefill_chunk);
                need.paused || turns.contains(&Turn { sequence, tokens: wanted })
            };
            let idle = total < step_tokens;
            prop_assert!(!idle || needs.iter().enumerate().all(full), "no room is left unused");
        }
    }

    const fn need(pending: u32) -> Need {
        Need { pending, paused: false }
    }

    #[test]
    fn a_short_prompt_moves_beside_long_ones_before_it() {
        let needs = [need(1), need(500), need(500), need(20)];
        let turns = schedule(&needs, &[0, 1, 2, 3], Budget { step_tokens: 65, prefill_chunk: 64 });
        let tokens: Vec<(usize, u32)> =
            turns.iter().map(|turn| (turn.sequence, turn.tokens)).collect();
        assert_eq!(tokens, [(0, 1), (1, 32), (2, 16), (3, 16)]);
    }

    #[test]
    fn a_prompt_that_ends_with_the_step_takes_what_it_needs() {
        let needs = [need(500), need(40)];
        let turns = schedule(&needs, &[1, 0], Budget { step_tokens: 50, prefill_chunk: 64 });
        assert_eq!(turns[0], Turn { sequence: 1, tokens: 40 });
        assert_eq!(turns[1], Turn { sequence: 0, tokens: 10 });
    }

    #[test]
    fn streams_that_do_not_all_fit_go_by_their_order() {
        let needs = [need(1); 3];
        let turns = schedule(&needs, &[2, 0, 1], Budget { step_tokens: 2, prefill_chunk: 64 });
        let sequences: Vec<usize> = turns.iter().map(|turn| turn.sequence).collect();
        assert_eq!(sequences, [2, 0]);
    }
}
