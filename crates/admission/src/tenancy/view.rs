//! Everything that is known of tenants, in memory, kept up with the store change by change.

use std::collections::BTreeMap;
use std::ops::Bound;

use domain::{AdminId, EndUserId, KeyId, OrganizationId, PriceId, ProjectId, ScopeId};

use super::kept::{Kept, RecordId};
use super::port::Changes;
use super::records::{Admin, EndUser, Key, Organization, PriceRecord, Project, Record};
use super::rules::Policy;

/// Records by id, as of one revision.
#[derive(Clone, Debug, Default)]
pub struct View {
    revision: u64,
    /// In the order of their ids: kind by kind, and most kinds in the order they were made in.
    records: BTreeMap<String, Record>,
}

impl View {
    /// The revision it is of; 0 if it knows nothing yet.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes changes in. Older ones than it knows change nothing, so what was replaced never comes back.
    pub fn apply(&mut self, changes: Changes) {
        if changes.revision <= self.revision {
            return;
        }
        self.revision = changes.revision;
        for id in changes.removed {
            self.records.remove(&id);
        }
        self.records.extend(changes.records.into_iter().map(|record| (record.id(), record)));
    }

    /// Every record, in the order of their ids.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The record of this id, whatever its kind.
    pub fn record(&self, id: RecordId) -> Option<&Record> {
        self.records.get(&id.to_string())
    }

    /// The record of this id.
    pub fn find<K: Kept>(&self, id: K::Id) -> Option<&K> {
        self.records.get(&id.to_string()).and_then(K::of)
    }

    /// Every record of a kind, in the order of their ids.
    pub fn all<K: Kept>(&self) -> impl Iterator<Item = &K> {
        self.after(K::PREFIX)
    }

    /// Records of a kind whose ids come after `id`, which begins as ids of that kind do.
    pub fn after<K: Kept>(&self, id: &str) -> impl Iterator<Item = &K> {
        let after = (Bound::Excluded(id), Bound::Unbounded);
        self.records.range::<str, _>(after).map_while(|(_, record)| K::of(record))
    }

    /// Where a record stands and whose it is, if limits and budgets can stand there.
    pub fn place<'a>(
        &'a self,
        record: &'a Record,
    ) -> Option<(OrganizationId, ScopeId, &'a Policy)> {
        let of_project = |project| Some(self.project(project)?.organization);
        match record {
            Record::Organization(it) => Some((it.id, ScopeId::Organization(it.id), &it.policy)),
            Record::Project(it) => Some((it.organization, ScopeId::Project(it.id), &it.policy)),
            Record::EndUser(it) => {
                Some((of_project(it.project)?, ScopeId::EndUser(it.id), &it.policy))
            }
            Record::Key(it) => Some((of_project(it.project)?, ScopeId::Key(it.id), &it.policy)),
            Record::Admin(_) | Record::Price(_) => None,
        }
    }

    /// An organization.
    pub fn organization(&self, id: OrganizationId) -> Option<&Organization> {
        self.find(id)
    }

    /// A project.
    pub fn project(&self, id: ProjectId) -> Option<&Project> {
        self.find(id)
    }

    /// An end user with a policy of its own.
    pub fn end_user(&self, id: EndUserId) -> Option<&EndUser> {
        self.find(id)
    }

    /// A key.
    pub fn key(&self, id: KeyId) -> Option<&Key> {
        self.find(id)
    }

    /// An administrator.
    pub fn admin(&self, id: AdminId) -> Option<&Admin> {
        self.find(id)
    }

    /// A price.
    pub fn price(&self, id: PriceId) -> Option<&PriceRecord> {
        self.find(id)
    }
}
