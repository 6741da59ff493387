//! Why there is no answer, or no more of it.

use std::time::Duration;

use domain::{ErrorKind, ModelName};
use proto::WorkerError;

/// Why a job has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Every worker of the model is full, and stayed so for as long as a request waits.
    #[error("every worker of model `{model}` is busy; retry in {} ms", retry_in.as_millis())]
    Full {
        /// The model.
        model: ModelName,
        /// When there may be room.
        retry_in: Duration,
    },
    /// No worker of the model can be reached.
    #[error("no worker of model `{model}` can be reached; retry in {} ms", retry_in.as_millis())]
    NoWorker {
        /// The model.
        model: ModelName,
        /// When there may be one.
        retry_in: Duration,
    },
    /// A worker failed, and trying elsewhere would not help or was tried often enough.
    #[error("answer request")]
    Worker(#[source] WorkerError),
}

impl RouteError {
    /// Decides status, metric label and retry.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } => ErrorKind::Overloaded,
            Self::NoWorker { .. } => ErrorKind::Unavailable,
            Self::Worker(error) => error.kind(),
        }
    }

    /// When trying again may help.
    pub const fn retry_in(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_in, .. } | Self::NoWorker { retry_in, .. } => Some(*retry_in),
            Self::Worker(_) => None,
        }
    }
}
