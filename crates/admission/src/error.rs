//! Why a request is not admitted.

use std::time::Duration;

use domain::{ErrorKind, KeyId, ModelName, NanoUsd, ScopeId};

use crate::quota::LimitKind;

/// Why a request is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// No key was sent.
    #[error("no API key was sent; send it as `Authorization: Bearer sk-tg-...`")]
    NoKey,
    /// Nobody has this key.
    #[error("the API key is not known; check it, or ask for a new one")]
    UnknownKey,
    /// The key was good once.
    #[error("the API key {key} was revoked; ask for a new one")]
    KeyRevoked {
        /// Which one.
        key: KeyId,
    },
    /// The key may not use the model.
    #[error("this API key may not use model `{model}`; ask for access, or use another model")]
    ModelForbidden {
        /// Which one.
        model: ModelName,
    },
    /// A scope goes too fast.
    #[error("{} {scope} has reached its limit of {max} {limit}; retry in {} ms", scope.level(), retry_in.as_millis())]
    LimitReached {
        /// Where the limit stands.
        scope: ScopeId,
        /// Which one it is.
        limit: LimitKind,
        /// The limit.
        max: u32,
        /// When there will be room.
        retry_in: Duration,
    },
    /// A request that no amount of waiting makes small enough.
    #[error("this request needs {asked} tokens, more than the {max} tokens per minute of {} {scope}; send a shorter prompt", scope.level())]
    LargerThanLimit {
        /// Where the limit stands.
        scope: ScopeId,
        /// Tokens asked for.
        asked: u32,
        /// The limit.
        max: u32,
    },
    /// A scope has spent its money.
    #[error("{} {scope} has used up its budget of ${amount}; raise the budget to go on", scope.level())]
    BudgetExceeded {
        /// Where the budget stands.
        scope: ScopeId,
        /// The budget.
        amount: NanoUsd,
    },
    /// We could not hold quota.
    #[error("reserve quota")]
    Quota(#[source] StoreError),
    /// We could not note that the request was admitted.
    #[error("open ledger entry")]
    Ledger(#[source] StoreError),
}

impl AdmitError {
    /// Decides status, metric label and retry; exhaustive, so a new variant must choose.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoKey | Self::UnknownKey | Self::KeyRevoked { .. } => ErrorKind::Unauthenticated,
            Self::ModelForbidden { .. } => ErrorKind::Forbidden,
            Self::LimitReached { .. } => ErrorKind::RateLimited,
            Self::LargerThanLimit { .. } => ErrorKind::InvalidRequest,
            Self::BudgetExceeded { .. } => ErrorKind::BudgetExceeded,
            Self::Quota(_) | Self::Ledger(_) => ErrorKind::Unavailable,
        }
    }

    /// When trying again may help.
    pub const fn retry_in(&self) -> Option<Duration> {
        match self {
            Self::LimitReached { retry_in, .. } => Some(*retry_in),
            _ => None,
        }
    }
}

/// A store did not do what it was asked. The cause is whatever its library says.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct StoreError {
    doing: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    /// A failure while `doing` something (`verb object`).
    pub fn new(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { doing, source: source.into() }
    }
}
