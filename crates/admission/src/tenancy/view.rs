//! Everything that is known of tenants, in memory, kept up with the store change by change.

use std::collections::HashMap;

use domain::{AdminId, EndUserId, KeyId, OrganizationId, PriceId, ProjectId, ScopeId};

use super::port::Changes;
use super::records::{Admin, EndUser, Key, Organization, PriceRecord, Project, Record};
use super::rules::Policy;

/// Records by id, as of one revision.
#[derive(Clone, Debug, Default)]
pub struct View {
    revision: u64,
    records: HashMap<String, Record>,
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

    /// Every record, in no particular order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The record of this id, whatever its kind.
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.records.get(id)
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
        match self.records.get(&id.to_string()) {
            Some(Record::Organization(record)) => Some(record),
            _ => None,
        }
    }

    /// A project.
    pub fn project(&self, id: ProjectId) -> Option<&Project> {
        match self.records.get(&id.to_string()) {
            Some(Record::Project(record)) => Some(record),
            _ => None,
        }
    }

    /// An end user with a policy of its own.
    pub fn end_user(&self, id: EndUserId) -> Option<&EndUser> {
        match self.records.get(&id.to_string()) {
            Some(Record::EndUser(record)) => Some(record),
            _ => None,
        }
    }

    /// A key.
    pub fn key(&self, id: KeyId) -> Option<&Key> {
        match self.records.get(&id.to_string()) {
            Some(Record::Key(record)) => Some(record),
            _ => None,
        }
    }

    /// An administrator.
    pub fn admin(&self, id: AdminId) -> Option<&Admin> {
        match self.records.get(&id.to_string()) {
            Some(Record::Admin(record)) => Some(record),
            _ => None,
        }
    }

    /// A price.
    pub fn price(&self, id: PriceId) -> Option<&PriceRecord> {
        match self.records.get(&id.to_string()) {
            Some(Record::Price(record)) => Some(record),
            _ => None,
        }
    }
}
