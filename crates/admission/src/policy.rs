//! Who exists and what they may use: organizations, projects, keys, their limits and budgets.

use async_trait::async_trait;
use domain::{KeyId, ModelName, NanoUsd, Scope, ScopeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{KeyDigest, StoreError};

/// How fast a scope may go. Absent means unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Requests admitted per minute.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens per minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests running at the same time.
    pub concurrent_requests: Option<u32>,
}

/// How much a scope may spend, in all. It is never overspent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The most that may be charged.
    pub amount: NanoUsd,
}

/// One level of a caller's path, with what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub scope: ScopeId,
    /// How fast.
    pub limits: Limits,
    /// How much.
    pub budget: Option<Budget>,
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Whose it is.
    pub scope: Scope,
    /// What is kept of its secret.
    pub digest: KeyDigest,
    /// Its name, for people.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// Models it may use; empty means all.
    pub models: Vec<ModelName>,
    /// What stands at organization, project and key, outermost first.
    pub places: [Place; 3],
}

/// A key to make.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its name, for people.
    pub name: String,
    /// The name of its project, which is made if there is none of that name.
    pub project: String,
    /// What is kept of its secret.
    pub digest: KeyDigest,
    /// How fast it may go.
    pub limits: Limits,
    /// How much it may spend.
    pub budget: Option<Budget>,
    /// Models it may use; empty means all.
    pub models: Vec<ModelName>,
}

/// Everything known of keys at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every change; an older snapshot never replaces a newer one.
    pub revision: u64,
    /// Every key, revoked ones included.
    pub keys: Vec<KeyRecord>,
}

/// Where tenants are kept. Never on the path of a request.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// The newest revision; cheap enough to ask twice a second.
    async fn revision(&self) -> Result<u64, StoreError>;

    /// Everything, at one revision.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Makes a key and tells its record.
    async fn create_key(&self, key: NewKey) -> Result<KeyRecord, StoreError>;

    /// Revokes a key; `false` if there is no such key. Revoking twice changes nothing.
    async fn revoke_key(&self, key: KeyId) -> Result<bool, StoreError>;

    /// Replaces what stands at a scope; `false` if there is no such scope.
    async fn set_place(&self, place: &Place) -> Result<bool, StoreError>;
}
