//! What can go wrong, as far as callers can tell it apart.
//!
//! [`LoadError`] before a model runs, [`EngineError`] when an engine starts, [`Refusal`] when it takes
//! no request, [`Failure`] when one sequence cannot go on.

use std::path::PathBuf;
use std::time::Duration;

use domain::{ErrorKind, ModelDigest};

/// A model that could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file of the model cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file was read, but it is not what it should be.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// The file or the part of it.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The model is well formed, but we cannot run it.
    #[error("{what} is not supported: {remedy}")]
    Unsupported {
        /// The architecture, tensor or setting.
        what: String,
        /// What to do instead.
        remedy: String,
    },
    /// A tensor is missing, truncated, or has another shape than the configuration says.
    #[error("tensor `{tensor}`: {problem}")]
    Tensor {
        /// Its name in the file.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl LoadError {
    /// What kind of failure this is to the outside.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::Unavailable,
            Self::Malformed { .. } | Self::Unsupported { .. } | Self::Tensor { .. } => {
                ErrorKind::InvalidRequest
            }
        }
    }
}

/// An engine that could not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The settings contradict each other or the model.
    #[error("engine setting `{setting}`: {problem}")]
    Setting {
        /// The field of `EngineConfig`.
        setting: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The step thread or the KV cache could not be made.
    #[error("start engine: {0}")]
    Start(String),
}

impl EngineError {
    /// What kind of failure this is to the outside.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. } => ErrorKind::InvalidRequest,
            Self::Start(_) => ErrorKind::Unavailable,
        }
    }
}

/// A request that was not taken; nothing was computed for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The waiting queue is full.
    #[error("the engine is full; retry in {retry_in:?}")]
    Full {
        /// A guess at when a place gets free.
        retry_in: Duration,
    },
    /// The engine takes no new sequences: it drains or has stopped.
    #[error("the engine is draining; ask another worker")]
    Draining,
    /// Prompt and output can never fit.
    #[error("prompt and output need {tokens} tokens, but at most {max} fit")]
    TooLong {
        /// Prompt plus largest output.
        tokens: u64,
        /// The smaller of the model's context and the KV cache.
        max: u32,
    },
    /// The request contradicts itself or the model.
    #[error("{0}")]
    Invalid(String),
    /// No adapter of this digest is loaded.
    #[error("adapter {0} is not loaded")]
    NoAdapter(ModelDigest),
    /// The format of the output cannot be compiled.
    #[error("the output's format cannot be used: {0}")]
    Format(String),
}

impl Refusal {
    /// What kind of failure this is to the outside.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } => ErrorKind::Overloaded,
            Self::Draining => ErrorKind::Unavailable,
            Self::TooLong { .. } => ErrorKind::ContextLengthExceeded,
            Self::NoAdapter(_) => ErrorKind::ModelNotFound,
            Self::Invalid(_) | Self::Format(_) => ErrorKind::InvalidRequest,
        }
    }
}

/// A sequence that could not go on. Only [`Failure::Format`] is the fault of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The model produced logits that are no numbers at this position of prompt plus output.
    #[error("the model produced no number at position {position}")]
    NotANumber {
        /// Index in prompt plus output of the token that was due.
        position: u32,
    },
    /// The forward pass failed for the whole step.
    #[error("forward pass: {0}")]
    Forward(String),
    /// Nothing that fits its format could follow.
    #[error("the output cannot be kept in its format: {0}")]
    Format(String),
    /// What was written of it elsewhere does not fit its format.
    #[error("the output so far does not fit its format")]
    Elsewhere,
    /// The engine stopped before the sequence ended.
    #[error("the engine stopped")]
    Stopped,
}

impl Failure {
    /// What kind of failure this is to the outside.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotANumber { .. } | Self::Forward(_) | Self::Elsewhere => ErrorKind::Internal,
            Self::Format(_) => ErrorKind::InvalidRequest,
            Self::Stopped => ErrorKind::Unavailable,
        }
    }
}
