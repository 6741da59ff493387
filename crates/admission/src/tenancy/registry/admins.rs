//! Administrators: tokens of the admin API, each with one role for good.
//!
//! A role is not changed: who is to do something else gets another token, so that a line of the audit log
//! always means the same. Nobody makes a token that reaches further than its own.

use domain::{AdminId, Problems};
use serde::Serialize;

use super::error::RegistryError;
use super::request::{Desk, Planned, Request, checked};
use super::words::name;
use crate::tenancy::kept::RecordId;
use crate::tenancy::permissions::Action;
use crate::tenancy::records::{Admin, Role};

/// Makes an administrator. Its token is told once.
#[derive(Clone, Debug, Serialize)]
pub struct NewAdmin {
    /// Its name, for people.
    pub name: String,
    /// What it may do, and where.
    #[serde(flatten)]
    pub role: Role,
}

/// Changes the name of an administrator.
#[derive(Clone, Debug, Serialize)]
pub struct AdminUpdate {
    /// Which one.
    pub admin: AdminId,
    /// Its new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Replaces an administrator's token. The old one is worth nothing at once.
#[derive(Clone, Debug, Serialize)]
pub struct AdminRotation {
    /// Which one.
    pub admin: AdminId,
}

/// Ends an administrator for good.
#[derive(Clone, Debug, Serialize)]
pub struct AdminRevocation {
    /// Which one.
    pub admin: AdminId,
}

impl Request for NewAdmin {
    type Record = Admin;
    const ACTION: Action = Action::Create;

    /// Where the role is at home, so that it takes a role at home there or above to make it.
    fn subject(&self) -> Option<RecordId> {
        match self.role {
            Role::PlatformAdmin | Role::Finance { organization: None } => None,
            Role::OrganizationAdmin { organization }
            | Role::Finance { organization: Some(organization) } => Some(organization.into()),
            Role::ProjectMember { project } => Some(project.into()),
        }
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Admin>, RegistryError> {
        let mut problems = Problems::default();
        let admin = Admin {
            id: AdminId::generate(),
            version: 0,
            name: name(&self.name, "name", &mut problems),
            digest: desk.digest,
            role: self.role,
            created_at: desk.now,
            revoked_at: None,
        };
        checked(admin, problems).map(Planned::with_secret)
    }
}

impl Request for AdminUpdate {
    type Record = Admin;
    const ACTION: Action = Action::Update;

    fn subject(&self) -> Option<RecordId> {
        Some(self.admin.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Admin>, RegistryError> {
        let before = desk.record::<Admin>(self.admin)?;
        let mut problems = Problems::default();
        let mut admin = before.clone();
        if let Some(text) = &self.name {
            admin.name = name(text, "name", &mut problems);
        }
        checked(admin, problems).map(Planned::kept)
    }
}

impl Request for AdminRotation {
    type Record = Admin;
    const ACTION: Action = Action::Rotate;

    fn subject(&self) -> Option<RecordId> {
        Some(self.admin.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Admin>, RegistryError> {
        let before = desk.record::<Admin>(self.admin)?;
        if before.revoked_at.is_some() {
            return Err(RegistryError::Revoked { id: self.admin.to_string() });
        }
        Ok(Planned::with_secret(Admin { digest: desk.digest, ..before.clone() }))
    }
}

impl Request for AdminRevocation {
    type Record = Admin;
    const ACTION: Action = Action::Revoke;

    fn subject(&self) -> Option<RecordId> {
        Some(self.admin.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Admin>, RegistryError> {
        let before = desk.record::<Admin>(self.admin)?;
        let other = |admin: &&Admin| is_live_platform_admin(admin) && admin.id != self.admin;
        if is_live_platform_admin(before) && !desk.view.all::<Admin>().any(|admin| other(&admin)) {
            let detail = format!("{} is the last platform admin", self.admin);
            let remedy = "make another one first";
            return Err(RegistryError::Conflict { detail, remedy });
        }
        let revoked_at = Some(before.revoked_at.unwrap_or(desk.now));
        Ok(Planned::kept(Admin { revoked_at, ..before.clone() }))
    }
}

/// Whether somebody with this token may do everything.
pub(super) fn is_live_platform_admin(admin: &Admin) -> bool {
    admin.role == Role::PlatformAdmin && admin.revoked_at.is_none()
}
