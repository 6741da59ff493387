//! What a worker is asked to serve beside what it serves.

use crate::ModelName;

/// A model to serve beside those that are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOrder {
    /// What clients are to ask for.
    pub name: ModelName,
    /// Where its files are, on the worker's machine: below the folder that the worker may load from, relative to that or
    /// absolute.
    pub path: String,
    /// What they are.
    pub kind: LoadKind,
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadKind {
    /// A folder in the Hugging Face layout, or a GGUF file.
    Model {
        /// Store the weights of a folder in fewer bits, by the name of their blocks.
        quantize: Option<String>,
        /// For a GGUF file: a `tokenizer.json`, or a folder with one.
        tokenizer: Option<String>,
    },
    /// A folder in the layout of PEFT.
    Adapter {
        /// The model it is for, which is served already.
        of: ModelName,
    },
}
