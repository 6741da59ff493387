//! Who may do what: one table of roles, actions and resources.
//!
//! A role has a home in the tenant tree, and the table says how far from there it may do an action. What an
//! administrator may not read does not exist for it, so that an answer never tells what is there.
//!
//! Promises: nothing else decides permission; what the table does not name, nobody may do.

use std::fmt;

use domain::{AdminId, OrganizationId, ProjectId};
use serde::Serialize;

use super::records::Role;
use super::registry::RegistryError;
use super::view::View;

/// Something that administrators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Make one.
    Create,
    /// See one whose id is known.
    Read,
    /// See which there are.
    List,
    /// Change words about one: name, metadata, where alerts go.
    Update,
    /// Change what stands at one: limits, budgets, models, expiry, block; an organization's name and zone; what
    /// a worker costs.
    Govern,
    /// Remove one.
    Delete,
    /// Replace its secret.
    Rotate,
    /// End it for good.
    Revoke,
}

impl Action {
    /// Every action, for tables and tests.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Read,
        Self::List,
        Self::Update,
        Self::Govern,
        Self::Delete,
        Self::Rotate,
        Self::Revoke,
    ];

    /// Its name in the audit log and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Read => "read",
            Self::List => "list",
            Self::Update => "update",
            Self::Govern => "govern",
            Self::Delete => "delete",
            Self::Rotate => "rotate",
            Self::Revoke => "revoke",
        }
    }
}

/// Something that administrators do it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Organizations.
    Organization,
    /// Projects.
    Project,
    /// End users with a policy of their own.
    EndUser,
    /// API keys.
    Key,
    /// Tokens of the admin API.
    Admin,
    /// Prices of models.
    Price,
    /// The audit log.
    Audit,
    /// What was used, and what it came to.
    Usage,
    /// What runs now: workers, holds.
    Status,
    /// Workers, and what they cost.
    Worker,
    /// What a gateway was configured with.
    Configuration,
    /// The ledger as a whole, and whether it adds up.
    Ledger,
}

impl Resource {
    /// Every resource, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::Organization,
        Self::Project,
        Self::EndUser,
        Self::Key,
        Self::Admin,
        Self::Price,
        Self::Audit,
        Self::Usage,
        Self::Status,
        Self::Worker,
        Self::Configuration,
        Self::Ledger,
    ];

    /// Its name in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Project => "project",
            Self::EndUser => "end_user",
            Self::Key => "key",
            Self::Admin => "admin",
            Self::Price => "price",
            Self::Audit => "audit",
            Self::Usage => "usage",
            Self::Status => "status",
            Self::Worker => "worker",
            Self::Configuration => "configuration",
            Self::Ledger => "ledger",
        }
    }
}

impl fmt::Display for Resource {
    /// Its name in messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndUser => "end user",
            Self::Audit => "audit log",
            other => other.name(),
        })
    }
}

/// Where something is in the tenant tree; where a role is at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Above every organization.
    Platform,
    /// In an organization, and in no project of it.
    Organization(OrganizationId),
    /// In a project.
    Project {
        /// Its organization.
        organization: OrganizationId,
        /// The project.
        project: ProjectId,
    },
}

impl Place {
    /// Whether `other` is here or below.
    pub fn contains(&self, other: &Self) -> bool {
        match *self {
            Self::Platform => true,
            Self::Organization(organization) => other.organization() == Some(organization),
            Self::Project { .. } => self == other,
        }
    }

    /// The organization it is in, if it is in one.
    pub const fn organization(&self) -> Option<OrganizationId> {
        match *self {
            Self::Platform => None,
            Self::Organization(organization) | Self::Project { organization, .. } => {
                Some(organization)
            }
        }
    }
}

/// Who changes or reads tenants. The id is all it says: what it may do is looked up when it does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The command line on the data directory. Whoever may write there needs no permission of ours.
    Local,
    /// Whoever showed this administrator's token.
    Admin(AdminId),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Admin(id) => id.fmt(f),
        }
    }
}

/// An actor in office: what it may do, as of one view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Officer {
    actor: Actor,
    role: Role,
    home: Place,
}

/// What is to be done, and to what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deed {
    pub(super) action: Action,
    pub(super) resource: Resource,
    pub(super) place: Place,
    /// The administrator it is done to, if it is done to one.
    pub(super) admin: Option<AdminId>,
}

impl Officer {
    /// Who `actor` is now. One that was revoked, or whose home is gone, is nobody.
    pub(super) fn of(actor: Actor, view: &View) -> Result<Self, RegistryError> {
        let unknown = || RegistryError::UnknownActor { actor };
        let role = match actor {
            Actor::Local => Role::PlatformAdmin,
            Actor::Admin(id) => {
                let live = view.admin(id).filter(|admin| admin.revoked_at.is_none());
                live.ok_or_else(unknown)?.role
            }
        };
        let home = role.home(view).ok_or_else(unknown)?;
        Ok(Self { actor, role, home })
    }

    pub(super) const fn role(&self) -> Role {
        self.role
    }

    pub(super) const fn home(&self) -> Place {
        self.home
    }

    /// Its id, if it is an administrator.
    pub(super) const fn admin(&self) -> Option<AdminId> {
        match self.actor {
            Actor::Local => None,
            Actor::Admin(id) => Some(id),
        }
    }

    pub(super) fn may(&self, deed: &Deed) -> bool {
        let row = PERMISSIONS
            .iter()
            .find(|(resource, action, _)| (*resource, *action) == (deed.resource, deed.action));
        let Some((_, _, reaches)) = row else { return false };
        match reaches[column(self.role)] {
            Reach::Nowhere => false,
            Reach::Itself => self.admin().is_none_or(|own| deed.admin == Some(own)),
            Reach::Inside => self.home.contains(&deed.place),
            Reach::Everywhere => true,
        }
    }

    /// Refuses what is not permitted.
    pub(super) fn permit(&self, deed: &Deed) -> Result<(), RegistryError> {
        let Deed { action, resource, .. } = *deed;
        let refused = RegistryError::Forbidden { role: self.role, action, resource };
        if self.may(deed) { Ok(()) } else { Err(refused) }
    }
}

impl Role {
    /// Its name in messages.
    pub const fn name(&self) -> &'static str {
        ROLES[column(*self)]
    }

    /// Where it is at home; nowhere if that is gone.
    pub(super) fn home(&self, view: &View) -> Option<Place> {
        match *self {
            Self::PlatformAdmin | Self::Finance { organization: None } => Some(Place::Platform),
            Self::OrganizationAdmin { organization }
            | Self::Finance { organization: Some(organization) } => {
                view.organization(organization).map(|found| Place::Organization(found.id))
            }
            Self::ProjectMember { project } => view.project(project).map(|found| Place::Project {
                organization: found.organization,
                project: found.id,
            }),
        }
    }
}

/// Roles that may do this somewhere, for telling whom to ask.
pub(super) fn roles(action: Action, resource: Resource) -> Vec<&'static str> {
    let row = PERMISSIONS.iter().find(|row| (row.0, row.1) == (resource, action));
    let reaches = row.map_or([Reach::Nowhere; 4], |(_, _, reaches)| *reaches);
    let named = ROLES.iter().zip(reaches).filter(|(_, reach)| *reach != Reach::Nowhere);
    named.map(|(name, _)| *name).collect()
}

/// Where a role may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Nowhere.
    Nowhere,
    /// To the administrator's own token.
    Itself,
    /// At the role's home and below.
    Inside,
    /// Everywhere.
    Everywhere,
}

const fn column(role: Role) -> usize {
    match role {
        Role::PlatformAdmin => 0,
        Role::OrganizationAdmin { .. } => 1,
        Role::Finance { .. } => 2,
        Role::ProjectMember { .. } => 3,
    }
}

const ROLES: [&str; 4] = ["platform admin", "organization admin", "finance", "project member"];

const I: Reach = Reach::Inside;
const E: Reach = Reach::Everywhere;
const S: Reach = Reach::Itself;
const N: Reach = Reach::Nowhere;

/// Resource, action, and how far each of [`ROLES`] reaches.
///
/// What is governed bounds those below: who is bounded by it may not lift it. A token is rotated by its own
/// administrator alone, or another could act in its name; who replaces somebody revokes and makes a new one.
static PERMISSIONS: &[(Resource, Action, [Reach; 4])] = &[
    (Resource::Organization, Action::Create, [I, N, N, N]),
    (Resource::Organization, Action::Read, [I, I, I, N]),
    (Resource::Organization, Action::List, [I, I, I, N]),
    (Resource::Organization, Action::Update, [I, I, N, N]),
    (Resource::Organization, Action::Govern, [I, N, N, N]),
    (Resource::Organization, Action::Delete, [I, N, N, N]),
    (Resource::Project, Action::Create, [I, I, N, N]),
    (Resource::Project, Action::Read, [I, I, I, I]),
    (Resource::Project, Action::List, [I, I, I, I]),
    (Resource::Project, Action::Update, [I, I, N, N]),
    (Resource::Project, Action::Govern, [I, I, N, N]),
    (Resource::Project, Action::Delete, [I, I, N, N]),
    (Resource::EndUser, Action::Create, [I, I, N, N]),
    (Resource::EndUser, Action::Read, [I, I, I, I]),
    (Resource::EndUser, Action::List, [I, I, I, I]),
    (Resource::EndUser, Action::Update, [I, I, N, N]),
    (Resource::EndUser, Action::Govern, [I, I, N, N]),
    (Resource::EndUser, Action::Delete, [I, I, N, N]),
    (Resource::Key, Action::Create, [I, I, N, I]),
    (Resource::Key, Action::Read, [I, I, I, I]),
    (Resource::Key, Action::List, [I, I, I, I]),
    (Resource::Key, Action::Update, [I, I, N, I]),
    (Resource::Key, Action::Govern, [I, I, N, N]),
    (Resource::Key, Action::Rotate, [I, I, N, I]),
    (Resource::Key, Action::Revoke, [I, I, N, I]),
    (Resource::Admin, Action::Create, [I, I, N, N]),
    (Resource::Admin, Action::Read, [I, I, S, S]),
    (Resource::Admin, Action::List, [I, I, S, S]),
    (Resource::Admin, Action::Update, [I, I, N, N]),
    (Resource::Admin, Action::Rotate, [S, S, S, S]),
    (Resource::Admin, Action::Revoke, [I, I, S, S]),
    (Resource::Price, Action::Create, [I, N, N, N]),
    (Resource::Price, Action::Read, [I, E, E, E]),
    (Resource::Price, Action::List, [I, E, E, E]),
    (Resource::Price, Action::Delete, [I, N, N, N]),
    (Resource::Audit, Action::List, [I, I, I, N]),
    (Resource::Usage, Action::Read, [I, I, I, I]),
    (Resource::Status, Action::Read, [I, N, N, N]),
    (Resource::Worker, Action::Govern, [I, N, N, N]),
    (Resource::Configuration, Action::Govern, [I, N, N, N]),
    (Resource::Ledger, Action::Read, [I, N, I, N]),
];
