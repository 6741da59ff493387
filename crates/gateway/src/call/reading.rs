//! How a prompt is made into tokens: with what the tokenizer puts around texts or without, all of it or its end.

use crate::failure::Failure;
use crate::fields::Fields;
use crate::text::ModelText;

/// How a prompt is made into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Whether the tokenizer puts around the text what it puts around texts; absent means as is usual for
    /// the kind of prompt.
    pub(crate) special_tokens: Option<bool>,
    pub(crate) kept: Kept,
}

/// Which tokens of a prompt are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kept {
    #[default]
    All,
    /// The last ones, so many at most.
    Last(u32),
    /// The last ones, as many as leave room for the output.
    Fitting,
}

impl Reading {
    pub(super) fn of(fields: &Fields<'_>) -> Result<Self, Failure> {
        let kept = match fields.integer(TRUNCATED, -1..=i64::from(u32::MAX))? {
            None => Kept::All,
            Some(0) => {
                let message = format!(
                    "`{TRUNCATED}` must be at least 1, or -1 for what leaves room for the output"
                );
                return Err(Failure::invalid(TRUNCATED, message));
            }
            Some(-1) => Kept::Fitting,
            Some(tokens) => Kept::Last(tokens as u32),
        };
        Ok(Self { special_tokens: fields.flag("add_special_tokens")?, kept })
    }
}

/// A prompt that comes before its answer: its text, where that is known better than its tokens tell.
#[derive(Clone, Debug)]
pub(crate) struct Echo(pub(super) Option<String>);

impl Echo {
    /// The text, of a prompt with these tokens.
    pub(crate) fn of(self, model: &ModelText, prompt: &[u32]) -> String {
        self.0.unwrap_or_else(|| model.text_of(prompt))
    }
}

impl Kept {
    /// The tokens of `prompt` that are read, where `room` is what the output leaves of the context.
    pub(crate) fn of(self, mut prompt: Vec<u32>, room: u32) -> Vec<u32> {
        let most = match self {
            Self::All => return prompt,
            Self::Last(tokens) => tokens,
            Self::Fitting => room,
        };
        let surplus = prompt.len().saturating_sub(most as usize);
        prompt.drain(..surplus);
        prompt
    }
}

const TRUNCATED: &str = "truncate_prompt_tokens";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_of_a_prompt_is_kept() {
        let kept = |value| {
            let body = json!({ "truncate_prompt_tokens": value });
            Reading::of(&Fields::of(&body, "").unwrap()).ok().map(|it| it.kept.of(vec![1, 2, 3], 1))
        };
        assert_eq!(kept(json!(null)), Some(vec![1, 2, 3]));
        assert_eq!(kept(json!(2)), Some(vec![2, 3]));
        assert_eq!(kept(json!(9)), Some(vec![1, 2, 3]));
        assert_eq!(kept(json!(-1)), Some(vec![3]));
        assert_eq!(kept(json!(0)), None);
        assert_eq!(kept(json!(-2)), None);
    }
}
