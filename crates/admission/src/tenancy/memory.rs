//! Tenants in memory: for a process that keeps nothing, and for tests of what is above the port.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{Clock, Timestamp};

use super::audit::{AuditDraft, AuditEntry};
use super::port::{Change, Changes, Committed, Idempotency, Tenants};
use super::records::Record;
use crate::StoreError;

/// Tenants that live as long as the process.
pub struct MemoryTenants {
    clock: Arc<dyn Clock>,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    revision: u64,
    /// By id: the revision at which it became so, and the record, if it was not removed.
    records: BTreeMap<String, (u64, Option<Record>)>,
    audit: Vec<AuditEntry>,
    /// By key: when it was answered, and what.
    answers: BTreeMap<String, (Timestamp, Idempotency)>,
}

impl MemoryTenants {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, shelf: Mutex::default() }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Tenants for MemoryTenants {
    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.shelf().revision)
    }

    async fn changes(&self, after: u64) -> Result<Changes, StoreError> {
        let shelf = self.shelf();
        let mut changes = Changes { revision: shelf.revision, ..Changes::default() };
        for (id, (_, record)) in shelf.records.iter().filter(|(_, (at, _))| *at > after) {
            match record {
                Some(record) => changes.records.push(record.clone()),
                None => changes.removed.push(id.clone()),
            }
        }
        Ok(changes)
    }

    async fn commit(&self, change: &Change) -> Result<Committed, StoreError> {
        let mut shelf = self.shelf();
        if shelf.revision != change.expected_revision {
            return Ok(Committed::Outdated);
        }
        shelf.revision += 1;
        let revision = shelf.revision;
        let kept =
            change.upserts.iter().map(|record| (record.id(), (revision, Some(record.clone()))));
        let removed = change.removals.iter().map(|id| (id.clone(), (revision, None)));
        shelf.records.extend(kept.chain(removed));
        if let Some(answer) = &change.idempotency {
            let now = self.clock.now();
            shelf.answers.retain(|_, (at, _)| now.since(*at) < KEPT_FOR);
            shelf.answers.insert(answer.key.clone(), (now, answer.clone()));
        }
        shelf.append(&change.audit);
        Ok(Committed::Done(revision))
    }

    async fn note(&self, draft: &AuditDraft) -> Result<(), StoreError> {
        self.shelf().append(draft);
        Ok(())
    }

    async fn answered(&self, key: &str, now: Timestamp) -> Result<Option<Idempotency>, StoreError> {
        let shelf = self.shelf();
        let answer = shelf.answers.get(key).filter(|(at, _)| now.since(*at) < KEPT_FOR);
        Ok(answer.map(|(_, answer)| answer.clone()))
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let shelf = self.shelf();
        let later = shelf.audit.iter().filter(|entry| entry.number > after);
        Ok(later.take(limit as usize).cloned().collect())
    }
}

impl Shelf {
    fn append(&mut self, draft: &AuditDraft) {
        let entry = AuditEntry::after(self.audit.last(), draft.clone());
        self.audit.push(entry);
    }
}

const KEPT_FOR: Duration = Duration::from_hours(24);
