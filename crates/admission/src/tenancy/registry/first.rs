//! What every installation begins with: an organization, a project in it, a platform admin.
//!
//! Each is found or made in one change, so that two processes that start at the same time make one of it.

use domain::OrganizationId;
use serde::Serialize;

use super::admins::is_live_platform_admin;
use super::request::{Desk, Planned, Request};
use super::{NewAdmin, NewOrganization, NewProject, Registry, RegistryError, Terms};
use crate::ApiKey;
use crate::tenancy::kept::RecordId;
use crate::tenancy::permissions::{Action, Actor};
use crate::tenancy::records::{Admin, Organization, Project, Role};

/// What an installation begins with.
#[derive(Clone, Debug)]
pub struct Established {
    /// The first organization.
    pub organization: Organization,
    /// Its project `default`.
    pub project: Project,
    /// The first platform admin and its token, if there was no platform admin before.
    pub admin: Option<(Admin, ApiKey)>,
}

impl Registry {
    /// Makes what every installation begins with, as far as it is missing.
    pub async fn establish(&self) -> Result<Established, RegistryError> {
        let project = self.project_named(DEFAULT_NAME).await?;
        let organization = self.read(Actor::Local, project.organization).await?;
        let made = self.change(Actor::Local, &FirstAdmin {}, &Terms::default()).await?;
        let admin = made.secret.map(|token| (made.record, token));
        Ok(Established { organization, project, admin })
    }

    /// The project of this name in the first organization. Both are made if they are missing.
    pub async fn project_named(&self, name: &str) -> Result<Project, RegistryError> {
        let terms = Terms::default();
        let organization = self.change(Actor::Local, &FirstOrganization {}, &terms).await?.record;
        let project = ProjectNamed { organization: organization.id, name: name.to_owned() };
        Ok(self.change(Actor::Local, &project, &terms).await?.record)
    }
}

/// Makes an organization, if there is none.
#[derive(Serialize)]
struct FirstOrganization {}

/// Makes a project, if its organization has none of that name.
#[derive(Serialize)]
struct ProjectNamed {
    organization: OrganizationId,
    name: String,
}

/// Makes a platform admin, if there is none.
#[derive(Serialize)]
struct FirstAdmin {}

impl Request for FirstOrganization {
    type Record = Organization;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        None
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Organization>, RegistryError> {
        if let Some(first) = desk.view.all::<Organization>().next() {
            return Ok(Planned::kept(first.clone()));
        }
        NewOrganization { name: DEFAULT_NAME.to_owned(), ..NewOrganization::default() }.plan(desk)
    }
}

impl Request for ProjectNamed {
    type Record = Project;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        Some(self.organization.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Project>, RegistryError> {
        let name = self.name.trim();
        let found =
            |project: &&Project| project.organization == self.organization && project.name == name;
        if let Some(found) = desk.view.all::<Project>().find(found) {
            return Ok(Planned::kept(found.clone()));
        }
        NewProject::called(name, self.organization).plan(desk)
    }
}

impl Request for FirstAdmin {
    type Record = Admin;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        None
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Admin>, RegistryError> {
        if let Some(found) = desk.view.all::<Admin>().find(|admin| is_live_platform_admin(admin)) {
            return Ok(Planned::kept(found.clone()));
        }
        NewAdmin { name: FIRST_ADMIN.to_owned(), role: Role::PlatformAdmin }.plan(desk)
    }
}

const DEFAULT_NAME: &str = "default";
const FIRST_ADMIN: &str = "first admin";
