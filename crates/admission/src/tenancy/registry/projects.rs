//! Projects: teams inside an organization, governed by its administrators.

use domain::{OrganizationId, Problems, ProjectId};
use serde::Serialize;

use super::error::RegistryError;
use super::policy::PolicyPatch;
use super::request::{Desk, Planned, Request, checked, to_change};
use super::words::{MetadataPatch, name, new_metadata, patch_metadata};
use crate::tenancy::kept::{Kept as _, RecordId};
use crate::tenancy::permissions::Action;
use crate::tenancy::records::{Admin, EndUser, Key, Metadata, Project};
use crate::tenancy::rules::Policy;

/// Makes a project.
#[derive(Clone, Debug, Serialize)]
pub struct NewProject {
    /// In which organization.
    pub organization: OrganizationId,
    /// Its name, for people; unique in the organization.
    pub name: String,
    /// What stands there.
    pub policy: PolicyPatch,
    /// What stands at each end user that has no record of its own.
    pub each_end_user: PolicyPatch,
    /// Words about it.
    pub metadata: Metadata,
}

/// Changes a project. What is not named stays.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectUpdate {
    /// Which one.
    pub project: ProjectId,
    /// Its new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is to stand there.
    #[serde(skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    /// What is to stand at each end user that has no record of its own.
    #[serde(skip_serializing_if = "PolicyPatch::is_empty")]
    pub each_end_user: PolicyPatch,
    /// Words about it.
    #[serde(skip_serializing_if = "MetadataPatch::is_empty")]
    pub metadata: MetadataPatch,
}

/// Removes a project that has nothing in it.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectDeletion {
    /// Which one.
    pub project: ProjectId,
}

impl NewProject {
    /// A project that nothing bounds.
    pub fn called(name: impl Into<String>, organization: OrganizationId) -> Self {
        Self {
            organization,
            name: name.into(),
            policy: PolicyPatch::default(),
            each_end_user: PolicyPatch::default(),
            metadata: Metadata::new(),
        }
    }
}

impl ProjectUpdate {
    /// A change of nothing, to be filled in.
    pub fn of(project: ProjectId) -> Self {
        Self {
            project,
            name: None,
            policy: PolicyPatch::default(),
            each_end_user: PolicyPatch::default(),
            metadata: MetadataPatch::new(),
        }
    }
}

impl Request for NewProject {
    type Record = Project;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        Some(self.organization.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Project>, RegistryError> {
        let mut problems = Problems::default();
        let none = Policy::default();
        let project = Project {
            id: ProjectId::generate(),
            version: 0,
            organization: self.organization,
            name: name(&self.name, "name", &mut problems),
            policy: self.policy.apply(&none, desk.now, "policy", &mut problems),
            each_end_user: self.each_end_user.apply(
                &none,
                desk.now,
                "each_end_user",
                &mut problems,
            ),
            metadata: new_metadata(&self.metadata, &mut problems),
            created_at: desk.now,
        };
        let project = checked(project, problems)?;
        desk.check_name(&project, |other| other.organization == self.organization)?;
        Ok(Planned::kept(project))
    }
}

impl Request for ProjectUpdate {
    type Record = Project;
    const ACTION: Action = Action::Update;

    fn subject(&self) -> Option<RecordId> {
        Some(self.project.into())
    }

    fn needs(&self) -> Vec<Action> {
        let governs = !self.policy.is_empty() || !self.each_end_user.is_empty();
        let updates = self.name.is_some() || !self.metadata.is_empty();
        to_change(updates, governs)
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Project>, RegistryError> {
        let before = desk.record::<Project>(self.project)?;
        let mut problems = Problems::default();
        let mut project = before.clone();
        if let Some(text) = &self.name {
            project.name = name(text, "name", &mut problems);
        }
        project.policy = self.policy.apply(&before.policy, desk.now, "policy", &mut problems);
        let each = &self.each_end_user;
        project.each_end_user =
            each.apply(&before.each_end_user, desk.now, "each_end_user", &mut problems);
        project.metadata = patch_metadata(&before.metadata, &self.metadata, &mut problems);
        let project = checked(project, problems)?;
        desk.check_name(&project, |other| other.organization == project.organization)?;
        Ok(Planned::kept(project))
    }
}

impl Request for ProjectDeletion {
    type Record = Project;
    const ACTION: Action = Action::Delete;

    fn subject(&self) -> Option<RecordId> {
        Some(self.project.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Project>, RegistryError> {
        let project = desk.record::<Project>(self.project)?;
        let keys = desk.view.all::<Key>().filter(|key| key.project == self.project).count();
        let users = desk.view.all::<EndUser>().filter(|user| user.project == self.project).count();
        let here = project.place(desk.view);
        let at_home =
            |admin: &&Admin| admin.revoked_at.is_none() && admin.role.home(desk.view) == Some(here);
        let admins = desk.view.all::<Admin>().filter(at_home).count();
        // Revoked keys count: the ledger's rows name them, and reports must say what they were.
        for (count, what, remedy) in [
            (
                keys,
                "keys",
                "the ledger names its keys for ever; revoke them and block the project instead",
            ),
            (users, "end users", "delete its end users first"),
            (admins, "administrators", "revoke their tokens first"),
        ] {
            if count > 0 {
                let detail = format!("project {} has {count} {what}", self.project);
                return Err(RegistryError::Conflict { detail, remedy });
            }
        }
        Ok(Planned::removed(project.clone()))
    }
}
