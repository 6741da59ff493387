//! The port to where tenants are kept: a set of records, changed one whole change at a time.

use async_trait::async_trait;
use domain::Timestamp;
use serde::{Deserialize, Serialize};

use super::audit::{AuditDraft, AuditEntry};
use super::records::Record;
use crate::StoreError;

/// What changed after one revision, up to another.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The newest revision; it grows with every change.
    pub revision: u64,
    /// Records made or changed since, in no particular order.
    pub records: Vec<Record>,
    /// Ids of records that were removed since.
    pub removed: Vec<String>,
}

/// One change, with everything that must become durable with it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision it was planned on.
    pub expected_revision: u64,
    /// Records as they are to be.
    pub upserts: Vec<Record>,
    /// Ids of records to remove.
    pub removals: Vec<String>,
    /// What the audit log will say.
    pub audit: AuditDraft,
    /// What to answer if the same change is asked for again under the same key.
    pub idempotency: Option<Idempotency>,
}

/// A promise to do something once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// Who asked, and the key they chose.
    pub key: String,
    /// Hash of what was asked, so that another request under the same key is found out.
    pub request: String,
    /// What was answered (without secrets).
    pub response: serde_json::Value,
}

/// What became of a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is durable, at this revision.
    Done(u64),
    /// Somebody else changed something first; plan again on a newer snapshot.
    Outdated,
}

/// Where tenants are kept. Never on the path of a request.
#[async_trait]
pub trait Tenants: Send + Sync {
    /// The newest revision; cheap enough to ask twice a second.
    async fn revision(&self) -> Result<u64, StoreError>;

    /// Everything that changed after revision `after`; all there is after revision 0.
    async fn changes(&self, after: u64) -> Result<Changes, StoreError>;

    /// Makes a change durable as a whole, with its audit line, or not at all.
    async fn commit(&self, change: &Change) -> Result<Committed, StoreError>;

    /// Appends an audit line for an attempt that changed nothing.
    async fn note(&self, draft: &AuditDraft) -> Result<(), StoreError>;

    /// What was answered under an idempotency key, if anything was in the day before `now`.
    async fn answered(&self, key: &str, now: Timestamp) -> Result<Option<Idempotency>, StoreError>;

    /// Lines of the audit log after number `after`, oldest first, at most `limit`.
    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError>;
}
