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
}

/// How probable a token was, by the model's own distribution: before temperature, penalties and formats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    /// The natural logarithm of the token's probability.
    pub logprob: f32,
    /// The most probable tokens and theirs, the most probable first.
    pub top: Vec<(u32, f32)>,
}
