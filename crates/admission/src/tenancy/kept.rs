//! What all kinds of records have in common: ids, versions, and a place in the tenant tree.

use std::fmt;
use std::str::FromStr;

use domain::{
    AdminId, EndUserId, IdError, IdKind, KeyId, OrganizationId, PriceId, ProjectId, ScopeId,
    Secret, kind,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::permissions::{Place, Resource};
use super::records::{Admin, EndUser, Key, Organization, PriceRecord, Project, Record};
use super::view::View;

/// A kind of record.
pub trait Kept:
    Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Into<Record> + Send + Sync + 'static
{
    /// What names one.
    type Id: Copy + fmt::Display + FromStr<Err = IdError> + Into<RecordId> + Send + Sync;

    /// What it is to the table of permissions.
    const RESOURCE: Resource;

    /// What its ids begin with.
    const PREFIX: &'static str;

    /// The record, if it is of this kind.
    fn of(record: &Record) -> Option<&Self>;

    /// Its id.
    fn id(&self) -> Self::Id;

    /// Its name, or what it has instead.
    fn name(&self) -> &str;

    /// Its version.
    fn version(&self) -> u64;

    /// The same at another version.
    #[must_use]
    fn at_version(self, version: u64) -> Self;

    /// Where it is. Whose it is may be gone; then it is the platform's.
    fn place(&self, view: &View) -> Place;

    /// The same without what only its user may know.
    #[must_use]
    fn without_secrets(self) -> Self {
        self
    }
}

/// The id of any record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordId {
    /// An organization's.
    Organization(OrganizationId),
    /// A project's.
    Project(ProjectId),
    /// An end user's.
    EndUser(EndUserId),
    /// A key's.
    Key(KeyId),
    /// An administrator's.
    Admin(AdminId),
    /// A price's.
    Price(PriceId),
}

impl RecordId {
    /// What it names.
    pub const fn resource(&self) -> Resource {
        match self {
            Self::Organization(_) => Resource::Organization,
            Self::Project(_) => Resource::Project,
            Self::EndUser(_) => Resource::EndUser,
            Self::Key(_) => Resource::Key,
            Self::Admin(_) => Resource::Admin,
            Self::Price(_) => Resource::Price,
        }
    }

    /// Where that is, if it exists.
    pub(super) fn place(&self, view: &View) -> Option<Place> {
        match *self {
            Self::Organization(id) => view.find::<Organization>(id).map(|found| found.place(view)),
            Self::Project(id) => view.find::<Project>(id).map(|found| found.place(view)),
            Self::EndUser(id) => view.find::<EndUser>(id).map(|found| found.place(view)),
            Self::Key(id) => view.find::<Key>(id).map(|found| found.place(view)),
            Self::Admin(id) => view.find::<Admin>(id).map(|found| found.place(view)),
            Self::Price(id) => view.find::<PriceRecord>(id).map(|found| found.place(view)),
        }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization(id) => id.fmt(f),
            Self::Project(id) => id.fmt(f),
            Self::EndUser(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
            Self::Admin(id) => id.fmt(f),
            Self::Price(id) => id.fmt(f),
        }
    }
}

impl From<ScopeId> for RecordId {
    fn from(scope: ScopeId) -> Self {
        match scope {
            ScopeId::Organization(id) => Self::Organization(id),
            ScopeId::Project(id) => Self::Project(id),
            ScopeId::EndUser(id) => Self::EndUser(id),
            ScopeId::Key(id) => Self::Key(id),
        }
    }
}

impl Kept for Organization {
    type Id = OrganizationId;
    const RESOURCE: Resource = Resource::Organization;
    const PREFIX: &'static str = kind::Organization::PREFIX;

    fn of(record: &Record) -> Option<&Self> {
        if let Record::Organization(found) = record { Some(found) } else { None }
    }

    fn id(&self) -> OrganizationId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    fn place(&self, _: &View) -> Place {
        Place::Organization(self.id)
    }

    fn without_secrets(mut self) -> Self {
        if let Some(webhook) = &mut self.webhook {
            webhook.secret = Secret::new(String::new());
        }
        self
    }
}

impl Kept for Project {
    type Id = ProjectId;
    const RESOURCE: Resource = Resource::Project;
    const PREFIX: &'static str = kind::Project::PREFIX;

    fn of(record: &Record) -> Option<&Self> {
        if let Record::Project(found) = record { Some(found) } else { None }
    }

    fn id(&self) -> ProjectId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    fn place(&self, _: &View) -> Place {
        Place::Project { organization: self.organization, project: self.id }
    }
}

impl Kept for EndUser {
    type Id = EndUserId;
    const RESOURCE: Resource = Resource::EndUser;
    const PREFIX: &'static str = kind::EndUser::PREFIX;

    fn of(record: &Record) -> Option<&Self> {
        if let Record::EndUser(found) = record { Some(found) } else { None }
    }

    fn id(&self) -> EndUserId {
        self.id
    }

    fn name(&self) -> &str {
        &self.subject
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    fn place(&self, view: &View) -> Place {
        place_of_project(view, self.project)
    }
}

impl Kept for Key {
    type Id = KeyId;
    const RESOURCE: Resource = Resource::Key;
    const PREFIX: &'static str = kind::Key::PREFIX;

    fn of(record: &Record) -> Option<&Self> {
        if let Record::Key(found) = record { Some(found) } else { None }
    }

    fn id(&self) -> KeyId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    fn place(&self, view: &View) -> Place {
        place_of_project(view, self.project)
    }
}

impl Kept for Admin {
    type Id = AdminId;
    const RESOURCE: Resource = Resource::Admin;
    const PREFIX: &'static str = kind::Admin::PREFIX;

    fn of(record: &Record) -> Option<&Self> {
        if let Record::Admin(found) = record { Some(found) } else { None }
    }

    fn id(&self) -> AdminId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    fn place(&self, view: &View) -> Place {
        self.role.home(view).unwrap_or(Place::Platform)
    }
}

impl Kept for PriceRecord {
    type Id = PriceId;
    const RESOURCE: Resource = Resource::Price;
    const PREFIX: &'static str = kind::Price::PREFIX;

    fn of(record: &Record) -> Option<&Self> {
        if let Record::Price(found) = record { Some(found) } else { None }
    }

    fn id(&self) -> PriceId {
        self.id
    }

    fn name(&self) -> &str {
        self.model.as_str()
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    fn place(&self, _: &View) -> Place {
        Place::Platform
    }
}

fn place_of_project(view: &View, project: ProjectId) -> Place {
    view.project(project).map_or(Place::Platform, |project| project.place(view))
}

impl From<Organization> for Record {
    fn from(record: Organization) -> Self {
        Self::Organization(record)
    }
}

impl From<OrganizationId> for RecordId {
    fn from(id: OrganizationId) -> Self {
        Self::Organization(id)
    }
}

impl From<Project> for Record {
    fn from(record: Project) -> Self {
        Self::Project(record)
    }
}

impl From<ProjectId> for RecordId {
    fn from(id: ProjectId) -> Self {
        Self::Project(id)
    }
}

impl From<EndUser> for Record {
    fn from(record: EndUser) -> Self {
        Self::EndUser(record)
    }
}

impl From<EndUserId> for RecordId {
    fn from(id: EndUserId) -> Self {
        Self::EndUser(id)
    }
}

impl From<Key> for Record {
    fn from(record: Key) -> Self {
        Self::Key(record)
    }
}

impl From<KeyId> for RecordId {
    fn from(id: KeyId) -> Self {
        Self::Key(id)
    }
}

impl From<Admin> for Record {
    fn from(record: Admin) -> Self {
        Self::Admin(record)
    }
}

impl From<AdminId> for RecordId {
    fn from(id: AdminId) -> Self {
        Self::Admin(id)
    }
}

impl From<PriceRecord> for Record {
    fn from(record: PriceRecord) -> Self {
        Self::Price(record)
    }
}

impl From<PriceId> for RecordId {
    fn from(id: PriceId) -> Self {
        Self::Price(id)
    }
}
