//! Why a request is not admitted.

use std::time::Duration;

use domain::{ErrorKind, KeyId, ModelName, ScopeId};

use crate::tenancy::{Amount, LimitKind};

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
    /// The secret was replaced, and its time of grace is over.
    #[error("the API key {key} was rotated, and this secret is not good any more; use the new one")]
    KeyRotated {
        /// Which one.
        key: KeyId,
    },
    /// The bearer token is not good.
    #[error("the bearer token is refused: {reason}")]
    BadToken {
        /// Why.
        reason: &'static str,
    },
    /// The credential is good, but what it is for does not exist any more.
    #[error("the project of this credential does not exist; ask for a new credential")]
    NoSuchProject,
    /// Somebody put a stop to it.
    #[error("{} {scope} is blocked; ask its administrator", scope.level())]
    Blocked {
        /// Where.
        scope: ScopeId,
    },
    /// Its time is over.
    #[error("{} {scope} has expired; ask its administrator", scope.level())]
    Expired {
        /// Where.
        scope: ScopeId,
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
        max: u64,
        /// When there will be room.
        retry_in: Duration,
    },
    /// A request that no amount of waiting makes small enough.
    #[error("this request needs {asked}, more than the {max} {limit} of {} {scope}; send a shorter prompt", scope.level())]
    LargerThanLimit {
        /// Where the limit stands.
        scope: ScopeId,
        /// Which one it is.
        limit: LimitKind,
        /// What was asked for, in the limit's unit.
        asked: u64,
        /// The limit.
        max: u64,
    },
    /// A scope has used up what it may.
    #[error("{} {scope} has used up its budget of {amount}; raise the budget, or wait until it starts anew", scope.level())]
    BudgetExceeded {
        /// Where the budget stands.
        scope: ScopeId,
        /// The budget.
        amount: Amount,
        /// When it starts anew, if it does.
        renewed_in: Option<Duration>,
    },
    /// The request would cost more than it says it may.
    #[error(
        "this request would need at least {least}, more than its own bound of {bound}; raise `{field}`, or send a shorter prompt"
    )]
    LargerThanOwnBound {
        /// The field of the request.
        field: &'static str,
        /// What it needs to begin.
        least: Amount,
        /// What it says it may.
        bound: Amount,
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
            Self::NoKey
            | Self::UnknownKey
            | Self::KeyRevoked { .. }
            | Self::KeyRotated { .. }
            | Self::BadToken { .. }
            | Self::NoSuchProject
            | Self::Expired { scope: ScopeId::Key(_) } => ErrorKind::Unauthenticated,
            Self::ModelForbidden { .. } | Self::Blocked { .. } | Self::Expired { .. } => {
                ErrorKind::Forbidden
            }
            Self::LimitReached { .. } => ErrorKind::RateLimited,
            Self::LargerThanLimit { .. } | Self::LargerThanOwnBound { .. } => {
                ErrorKind::InvalidRequest
            }
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
