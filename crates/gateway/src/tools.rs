//! Tools: what a client offers, and the ways models write that they call one.
//!
//! A way of writing is a row of [`FORMATS`]; which one a model speaks is read from its chat template and
//! its tokens. The same row makes the grammar that forces a call and the parser that finds one, so the
//! two cannot disagree.

mod format;
mod grammar;
mod parser;
mod reader;

use serde_json::{Value, json};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use format::FORMATS;
pub(crate) use format::Voice;
#[cfg(test)]
pub(crate) use format::{HERMES, MISTRAL};
pub(crate) use grammar::grammar;
pub(crate) use parser::{Part, ToolParser};

/// What a client offers, and how it wants it used. There is at least one function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tools {
    pub(crate) functions: Vec<Function>,
    pub(crate) choice: ToolChoice,
    /// More than one call may come in one answer.
    pub(crate) parallel: bool,
}

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// A JSON Schema; without one it takes no arguments.
    pub(crate) parameters: Option<Value>,
    /// The client's words for it, as chat templates read them.
    pub(crate) told: Value,
}

/// Whether functions are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// As the model likes.
    Auto,
    /// At least one of them.
    Required,
    /// This one.
    Named(String),
}

impl Tools {
    /// The functions that may be called.
    pub(crate) fn callable(&self) -> impl Iterator<Item = &Function> {
        let only = match &self.choice {
            ToolChoice::Named(name) => Some(name),
            ToolChoice::Auto | ToolChoice::Required => None,
        };
        self.functions.iter().filter(move |function| only.is_none_or(|name| *name == function.name))
    }

    /// The offer in the words that chat templates read.
    pub(crate) fn told(&self) -> Vec<Value> {
        self.functions.iter().map(|function| function.told.clone()).collect()
    }
}

impl Function {
    /// What its arguments must be.
    fn schema(&self) -> Value {
        let nothing =
            || json!({ "type": "object", "properties": {}, "additionalProperties": false });
        self.parameters.clone().unwrap_or_else(nothing)
    }
}
