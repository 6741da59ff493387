//! Which tokens the rules of an output forbid at its next place, and which end it.
//!
//! Decides from the rules and the output so far alone, with what is drawn ahead of it, so that a sequence that goes on
//! elsewhere, or whose tokens were guessed, is forbidden the same.

use std::borrow::Cow;

use domain::OutputRules;

/// An output so far: what was taken up, and what was drawn in this step and not taken up yet.
#[derive(Clone, Copy)]
pub(super) struct SoFar<'a> {
    pub(super) written: &'a [u32],
    pub(super) ahead: &'a [u32],
}

impl SoFar<'_> {
    fn len(self) -> usize {
        self.written.len() + self.ahead.len()
    }

    /// Whether these are its last tokens.
    fn ends_with(self, run: &[u32]) -> bool {
        let before = run.len().saturating_sub(self.ahead.len());
        self.written.ends_with(&run[..before]) && self.ahead.ends_with(&run[before..])
    }
}

/// What may not be drawn next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Banned<'s> {
    /// The tokens that end the model's turn, if they are forbidden.
    pub(super) of_model: &'s [u32],
    /// Everything that is forbidden, each token once where rules of a client have their say.
    pub(super) all: Cow<'s, [u32]>,
}

/// What may not be drawn behind `so_far`, in a format or in free text.
pub(super) fn banned<'s>(
    rules: &OutputRules,
    stop_tokens: &'s [u32],
    so_far: SoFar<'_>,
    in_format: bool,
) -> Banned<'s> {
    let early = so_far.len() < rules.min_tokens as usize;
    let forbids_stop =
        if in_format { early || rules.ignore_eos } else { early && !rules.ignore_eos };
    let of_model = if forbids_stop { stop_tokens } else { &[] };
    let mut all = Cow::Borrowed(of_model);
    if early && !rules.stop_token_ids.is_empty() {
        all.to_mut().extend_from_slice(&rules.stop_token_ids);
    }
    for word in &*rules.bad_words {
        if let Some((last, before)) = word.split_last()
            && so_far.ends_with(before)
        {
            all.to_mut().push(*last);
        }
    }
    if let Cow::Owned(all) = &mut all {
        all.sort_unstable();
        all.dedup();
    }
    Banned { of_model, all }
}

/// Whether this token ends the output, in a format or in free text.
pub(super) fn is_end(rules: &OutputRules, stop_tokens: &[u32], in_format: bool, id: u32) -> bool {
    let ends_turn = in_format || !rules.ignore_eos;
    (ends_turn && stop_tokens.contains(&id)) || rules.stop_token_ids.contains(&id)
}

impl Banned<'_> {
    /// Whether nothing is left of a vocabulary, or of what is allowed of it.
    pub(super) fn leaves_nothing(&self, rules: &OutputRules, vocabulary: usize) -> bool {
        match &rules.allowed_token_ids {
            _ if self.all.is_empty() => false,
            Some(allowed) => allowed.iter().all(|id| self.all.contains(id)),
            None => self.all.len() >= vocabulary,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(change: impl FnOnce(&mut OutputRules)) -> OutputRules {
        let mut rules = OutputRules::default();
        change(&mut rules);
        rules
    }

    fn all(rules: &OutputRules, written: &[u32], ahead: &[u32], in_format: bool) -> Vec<u32> {
        banned(rules, &[90], SoFar { written, ahead }, in_format).all.into_owned()
    }

    #[test]
    fn what_would_end_an_output_too_early_is_banned_until_it_may_end() {
        let early = rules(|rules| (rules.min_tokens, rules.stop_token_ids) = (2, [7, 90].into()));
        assert_eq!(all(&early, &[1], &[], false), [7, 90]);
        assert_eq!(all(&early, &[1], &[2], false), [0; 0]);
        let going_on = OutputRules { ignore_eos: true, ..early };
        assert_eq!(all(&going_on, &[], &[], false), [7, 90], "it was named");
        assert_eq!(all(&going_on, &[1, 2], &[], true), [90], "a format has no room for it");
    }

    #[test]
    fn the_last_token_of_a_bad_word_is_banned_behind_the_others() {
        let bad = rules(|rules| rules.bad_words = [vec![5], vec![1, 2], vec![1, 2, 3]].into());
        assert_eq!(all(&bad, &[], &[], false), [5]);
        assert_eq!(all(&bad, &[1], &[], false), [2, 5]);
        assert_eq!(all(&bad, &[9, 1, 2], &[], false), [3, 5]);
    }

    #[test]
    fn nothing_is_left_where_all_that_is_allowed_is_banned() {
        let mut rules = rules(|rules| rules.bad_words = [vec![5], vec![1, 2]].into());
        rules.allowed_token_ids = Some([2, 5].into());
        let left = |written: &[u32], rules: &OutputRules| {
            let so_far = SoFar { written, ahead: &[] };
            !banned(rules, &[], so_far, false).leaves_nothing(rules, 3)
        };
        assert!(left(&[], &rules) && !left(&[1], &rules));
        rules.allowed_token_ids = None;
        assert!(left(&[1], &rules), "two of three");
    }

    proptest! {
        #[test]
        fn what_was_drawn_ahead_counts_as_if_it_were_written(
            output in prop::collection::vec(0..3_u32, 0..12),
            words in prop::collection::vec(prop::collection::vec(0..3_u32, 1..4), 0..6),
            cut in 0..12_usize,
        ) {
            let rules = rules(|rules| rules.bad_words = words.clone().into());
            let (written, ahead) = output.split_at(cut.min(output.len()));
            let mut expected: Vec<u32> = words
                .iter()
                .filter(|word| output.ends_with(&word[..word.len() - 1]))
                .filter_map(|word| word.last().copied())
                .collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(all(&rules, written, ahead, false), expected);
        }
    }
}
