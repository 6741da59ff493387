//! What an output may look like, and what is told about it beside its tokens.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The language an output must be a sentence of.
///
/// An output ends where its sentence is complete and nothing can follow; JSON is written without spaces between
/// its parts.
///
/// It is kept as it was written, never as the state of a machine: whoever goes on with an output
/// replays its tokens and stands where the one before stood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Any text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that a JSON Schema accepts; the schema's own text.
    JsonSchema(Arc<str>),
    /// Text that a regular expression matches as a whole.
    Regex(Arc<str>),
    /// One of these texts.
    Choice(Arc<[String]>),
    /// Text that a grammar in Lark's notation accepts.
    Grammar(Arc<str>),
}

/// What is asked of an output beside how its tokens are drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputRules {
    /// The language it must be a sentence of.
    pub format: Format,
    /// Tell each token's log-probability, and that of so many of the most probable ones.
    pub logprobs: Option<u32>,
    /// Tokens before which it does not end by itself, as long as its format lets it go on.
    pub min_tokens: u32,
    /// A token that ends the model's turn does not end the output, and is part of it; in a format it is not used
    /// at all.
    pub ignore_eos: bool,
    /// Tokens that end the output where they are drawn, ascending; they are not part of it. Before `min_tokens`
    /// they are not drawn.
    pub stop_token_ids: Arc<[u32]>,
    /// The only tokens that are drawn, ascending; absent means all. Those that end the model's turn are no
    /// exception.
    pub allowed_token_ids: Option<Arc<[u32]>>,
    /// Runs of tokens that the output does not contain: the last one of each is not drawn behind the others. None
    /// is empty.
    pub bad_words: Arc<[Vec<u32>]>,
    /// How it is told as text.
    pub text: TextRules,
}

impl OutputRules {
    /// Every token that these rules name.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        let allowed = self.allowed_token_ids.iter().flat_map(|ids| ids.iter());
        let words = self.bad_words.iter().flatten();
        self.stop_token_ids.iter().chain(allowed).chain(words).copied()
    }
}

/// How an output is told as text. Whoever draws its tokens need not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct TextRules {
    /// Special tokens are part of the text.
    pub special_tokens: bool,
    /// The stop string that ended it is part of the text.
    pub stop_string: bool,
    /// Whether what the model thinks before it answers is told apart from the answer.
    pub reasoning: Reasoning,
}

/// Whether what a model thinks before it answers is told apart from the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reasoning {
    /// It is text like any other.
    #[default]
    AsText,
    /// It is, if the output begins with the mark that begins it.
    Apart,
    /// It is, and the prompt ends with that mark: the output begins in the middle of it.
    Begun,
}

/// How probable a token was, by the model's own distribution: before temperature, penalties and formats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    /// The natural logarithm of the token's probability.
    pub logprob: f32,
    /// The most probable tokens and theirs, the most probable first.
    pub top: Vec<(u32, f32)>,
}
