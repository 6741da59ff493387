//! The port to the ledger, and what its rows say.

use async_trait::async_trait;
use domain::{
    Charge, ErrorKind, FinishReason, GatewayId, HoldId, ModelDigest, ModelName, NanoUsd, RequestId,
    Scope, Timestamp, Usage, Work,
};
use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::claims::Quantity;

/// A request that was admitted: known durably before it is dispatched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Names the row.
    pub hold: HoldId,
    /// The request.
    pub request: RequestId,
    /// Which gateway admitted it.
    pub gateway: GatewayId,
    /// Who pays.
    pub scope: Scope,
    /// What was asked for.
    pub model: ModelName,
    /// Its exact version.
    pub digest: ModelDigest,
    /// When.
    pub at: Timestamp,
    /// Tokens in the prompt.
    pub prompt_tokens: u32,
}

/// How an admitted request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered.
    Finished(FinishReason),
    /// A cache answered it.
    CacheHit,
    /// The caller left.
    ClientGone,
    /// It failed, with an [`ErrorKind`]'s label.
    Failed(String),
    /// The gateway went down while it ran; what it used is not known and not charged.
    Interrupted,
}

impl Outcome {
    /// A failure of `kind`.
    pub fn failed(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::ClientGone => Self::ClientGone,
            kind => Self::Failed(kind.label().to_owned()),
        }
    }

    /// Whether nobody got what was asked for, by a fault that is not the caller's.
    pub const fn is_failure(&self) -> bool {
        match self {
            Self::Finished(_) | Self::CacheHit | Self::ClientGone => false,
            Self::Failed(_) | Self::Interrupted => true,
        }
    }

    /// The outcome's name in the row.
    pub fn name(&self) -> &str {
        match self {
            Self::Finished(reason) => reason.name(),
            Self::CacheHit => "cache_hit",
            Self::ClientGone => "client_gone",
            Self::Failed(label) => label,
            Self::Interrupted => "interrupted",
        }
    }
}

/// One ledger row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was admitted.
    pub admitted: Admitted,
    /// How it ended.
    pub outcome: Outcome,
    /// When it ended.
    pub closed_at: Timestamp,
    /// What it used.
    pub usage: Usage,
    /// What that came to.
    pub charge: Charge,
    /// What the price would have asked beyond what was held; ours to pay.
    pub overrun: NanoUsd,
    /// What limits and budgets counted of it.
    #[serde(default)]
    pub counted: Quantity,
    /// Which workers did it.
    #[serde(default)]
    pub work: Vec<Work>,
}

/// What happened, for ever.
///
/// Promises: once `open` or `close` returns, a killed process loses nothing; every opened request
/// has exactly one row in the end, and closing twice leaves the first.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Notes that a request was admitted.
    async fn open(&self, admitted: &Admitted) -> Result<(), StoreError>;

    /// Writes the row of an admitted request.
    async fn close(&self, entry: &Entry) -> Result<(), StoreError>;
}
