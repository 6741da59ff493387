//! What is known of a model without running it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name clients ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelName(Arc<str>);

impl ModelName {
    /// A model called `name`.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names exact weights, tokenizer and template: two models with one digest give the same tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelDigest(Arc<str>);

impl ModelDigest {
    /// A digest in its text form, lower-case hexadecimal.
    pub fn new(hex: impl Into<Arc<str>>) -> Self {
        Self(hex.into())
    }

    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a model makes of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// More text.
    #[default]
    Text,
    /// A vector of so many numbers.
    Embedding {
        /// How many.
        dimensions: u32,
    },
}

/// A model a worker serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// What clients ask for.
    pub name: ModelName,
    /// What exactly it is.
    pub digest: ModelDigest,
    /// Longest prompt plus output, in tokens, where it is served: the model's own bound, or what the cache there holds
    /// if that is less.
    pub context_length: u32,
    /// Number of token ids.
    pub vocabulary: u32,
    /// Tokens that end the model's turn.
    pub stop_tokens: Vec<u32>,
    /// How the weights are stored, for people: `f16`, `q4_k_m`.
    pub weights: String,
    /// What it makes of a prompt.
    #[serde(default)]
    pub kind: ModelKind,
}

impl ModelInfo {
    /// Whether both are the same weights under the same name, wherever they are served: contexts may differ.
    pub fn is_same_version(&self, other: &Self) -> bool {
        self.name == other.name && self.digest == other.digest
    }
}

/// What the gateway needs to turn text into a model's tokens and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The content of `tokenizer.json`.
    pub tokenizer: Arc<[u8]>,
    /// The chat template (Jinja), if the model has one.
    pub chat_template: Option<Arc<str>>,
}
