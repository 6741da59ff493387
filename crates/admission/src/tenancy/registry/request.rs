//! What can be asked of a registry, and what a request is planned from.

use domain::{AdminId, Problems, Secret, Timestamp};
use serde::Serialize;

use super::error::RegistryError;
use crate::KeyDigest;
use crate::tenancy::kept::{Kept, RecordId};
use crate::tenancy::permissions::{Action, Deed, Officer, Place};
use crate::tenancy::view::View;

/// One change that somebody may ask for. Its JSON is what the audit log says about it.
pub trait Request: Serialize + Send + Sync {
    /// What it makes, changes or removes.
    type Record: Kept;

    /// What it does, in one word.
    const ACTION: Action;

    /// The record that it changes; for a new one, the record it is made in, if it is made in one.
    fn subject(&self) -> Option<RecordId>;

    /// Everything that the actor must be permitted to do.
    fn needs(&self) -> Vec<Action> {
        vec![Self::ACTION]
    }

    /// What its asker calls it, if asking again under that name must change nothing.
    fn repetition(&self) -> Option<&str> {
        None
    }

    /// The part of it that its JSON leaves out.
    fn secret(&self) -> Option<&Secret<String>> {
        None
    }

    /// Decides what is to be. The subject exists, and the actor may do all that it `needs`.
    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Self::Record>, RegistryError>;
}

/// What a request is planned from: one view of everything, and one moment.
pub struct Desk<'a> {
    pub(super) view: &'a View,
    pub(super) now: Timestamp,
    /// What is kept of the secret that is told if the plan asks for it.
    pub(super) digest: KeyDigest,
}

/// A record as it is to be.
pub struct Planned<K> {
    pub(super) record: K,
    pub(super) removed: bool,
    /// Whether the new secret belongs to it.
    pub(super) has_secret: bool,
}

impl<K: Kept> Planned<K> {
    /// A record that is new, or as it is to be; as it is if nothing changes.
    pub(super) const fn kept(record: K) -> Self {
        Self { record, removed: false, has_secret: false }
    }

    /// A record that holds the new secret's digest.
    pub(super) const fn with_secret(record: K) -> Self {
        Self { record, removed: false, has_secret: true }
    }

    /// A record that is to go.
    pub(super) const fn removed(record: K) -> Self {
        Self { record, removed: true, has_secret: false }
    }
}

impl Desk<'_> {
    /// A record that is known to exist.
    pub(super) fn record<K: Kept>(&self, id: K::Id) -> Result<&K, RegistryError> {
        let missing = || RegistryError::NotFound { resource: K::RESOURCE, id: id.to_string() };
        self.view.find(id).ok_or_else(missing)
    }

    /// Refuses a name that another record has, among those that `are_near`.
    pub(super) fn check_name<K: Kept>(
        &self,
        record: &K,
        are_near: impl Fn(&K) -> bool,
    ) -> Result<(), RegistryError> {
        let id = record.id().to_string();
        let mut near = self.view.all::<K>().filter(|other| are_near(other));
        let same = near.find(|other| other.name() == record.name() && other.id().to_string() != id);
        let Some(same) = same else { return Ok(()) };
        Err(RegistryError::NameTaken {
            resource: K::RESOURCE,
            name: record.name().to_owned(),
            by: same.id().to_string(),
        })
    }
}

/// `record`, if nothing is wrong with it.
pub(super) fn checked<K>(record: K, problems: Problems) -> Result<K, RegistryError> {
    problems.into_result(record).map_err(RegistryError::Invalid)
}

/// Refuses a request whose subject is not there or not to be seen, or whose doing is not permitted.
pub(super) fn permit<R: Request>(
    request: &R,
    officer: &Officer,
    view: &View,
) -> Result<(), RegistryError> {
    let resource = R::Record::RESOURCE;
    let (place, admin) = match request.subject() {
        None => (Place::Platform, None),
        Some(subject) => (seen(officer, view, subject)?, admin_id(subject)),
    };
    for action in request.needs() {
        officer.permit(&Deed { action, resource, place, admin })?;
    }
    Ok(())
}

/// Where a record is that the officer may read.
pub(super) fn seen(officer: &Officer, view: &View, id: RecordId) -> Result<Place, RegistryError> {
    let resource = id.resource();
    let missing = || RegistryError::NotFound { resource, id: id.to_string() };
    let place = id.place(view).ok_or_else(missing)?;
    let deed = Deed { action: Action::Read, resource, place, admin: admin_id(id) };
    if officer.may(&deed) { Ok(place) } else { Err(missing()) }
}

/// The administrator that `id` names, if it names one.
pub(super) const fn admin_id(id: RecordId) -> Option<AdminId> {
    match id {
        RecordId::Admin(id) => Some(id),
        _ => None,
    }
}

/// What it takes to change words about a record, to change what stands there, or to look whether nothing
/// would change.
pub(super) fn to_change(words: bool, policy: bool) -> Vec<Action> {
    let needs = [(words || !policy, Action::Update), (policy, Action::Govern)];
    needs.into_iter().filter(|(needed, _)| *needed).map(|(_, action)| action).collect()
}
