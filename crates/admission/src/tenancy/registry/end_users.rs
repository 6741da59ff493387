//! End users for whom something else holds than for every other of their project.

use domain::{EndUserId, Problems, ProjectId};
use serde::Serialize;

use super::error::RegistryError;
use super::policy::PolicyPatch;
use super::request::{Desk, Planned, Request, checked, to_change};
use super::words::{MetadataPatch, check_length, new_metadata, patch_metadata};
use crate::tenancy::kept::{Kept as _, RecordId};
use crate::tenancy::permissions::{Action, Resource};
use crate::tenancy::records::{EndUser, Metadata};
use crate::tenancy::rules::Policy;

/// Makes a record of an end user.
#[derive(Clone, Debug, Serialize)]
pub struct NewEndUser {
    /// Of which project.
    pub project: ProjectId,
    /// What credentials call the user; never changed.
    pub subject: String,
    /// What stands there, instead of the project's policy for each end user.
    pub policy: PolicyPatch,
    /// Words about the user.
    pub metadata: Metadata,
}

/// Changes the record of an end user. What is not named stays.
#[derive(Clone, Debug, Serialize)]
pub struct EndUserUpdate {
    /// Which one.
    pub end_user: EndUserId,
    /// What is to stand there.
    #[serde(skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    /// Words about the user.
    #[serde(skip_serializing_if = "MetadataPatch::is_empty")]
    pub metadata: MetadataPatch,
}

/// Removes the record of an end user: what holds for every other holds for this one again.
#[derive(Clone, Debug, Serialize)]
pub struct EndUserDeletion {
    /// Which one.
    pub end_user: EndUserId,
}

impl NewEndUser {
    /// An end user whom nothing bounds but what stands above.
    pub fn called(subject: impl Into<String>, project: ProjectId) -> Self {
        let (policy, metadata) = (PolicyPatch::default(), Metadata::new());
        Self { project, subject: subject.into(), policy, metadata }
    }
}

impl EndUserUpdate {
    /// A change of nothing, to be filled in.
    pub fn of(end_user: EndUserId) -> Self {
        Self { end_user, policy: PolicyPatch::default(), metadata: MetadataPatch::new() }
    }
}

impl Request for NewEndUser {
    type Record = EndUser;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        Some(self.project.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<EndUser>, RegistryError> {
        let mut problems = Problems::default();
        if self.subject.is_empty() {
            problems.add("subject", "must not be empty; it is what credentials call the user");
        }
        check_length(&self.subject, MAX_SUBJECT_CHARACTERS, "subject", &mut problems);
        let user = EndUser {
            id: EndUser::id_of(self.project, &self.subject),
            version: 0,
            project: self.project,
            subject: self.subject.clone(),
            policy: self.policy.apply(&Policy::default(), desk.now, "policy", &mut problems),
            metadata: new_metadata(&self.metadata, &mut problems),
            created_at: desk.now,
        };
        let user = checked(user, problems)?;
        if desk.view.find::<EndUser>(user.id).is_some() {
            return Err(RegistryError::NameTaken {
                resource: Resource::EndUser,
                name: user.name().to_owned(),
                by: user.id.to_string(),
            });
        }
        Ok(Planned::kept(user))
    }
}

impl Request for EndUserUpdate {
    type Record = EndUser;
    const ACTION: Action = Action::Update;

    fn subject(&self) -> Option<RecordId> {
        Some(self.end_user.into())
    }

    fn needs(&self) -> Vec<Action> {
        let governs = !self.policy.is_empty();
        let updates = !self.metadata.is_empty();
        to_change(updates, governs)
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<EndUser>, RegistryError> {
        let before = desk.record::<EndUser>(self.end_user)?;
        let mut problems = Problems::default();
        let policy = self.policy.apply(&before.policy, desk.now, "policy", &mut problems);
        let metadata = patch_metadata(&before.metadata, &self.metadata, &mut problems);
        checked(EndUser { policy, metadata, ..before.clone() }, problems).map(Planned::kept)
    }
}

impl Request for EndUserDeletion {
    type Record = EndUser;
    const ACTION: Action = Action::Delete;

    fn subject(&self) -> Option<RecordId> {
        Some(self.end_user.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<EndUser>, RegistryError> {
        desk.record::<EndUser>(self.end_user).cloned().map(Planned::removed)
    }
}

const MAX_SUBJECT_CHARACTERS: usize = 256;
