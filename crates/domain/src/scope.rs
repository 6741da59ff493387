//! Who a request belongs to: organization, project, key.

use serde::{Deserialize, Serialize};

use crate::{EndUserId, KeyId, OrganizationId, ProjectId};

/// The full path of a caller in the tenant tree. It comes from credentials only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The customer or company.
    pub organization: OrganizationId,
    /// The product team: the border that data never crosses.
    pub project: ProjectId,
    /// The person or program behind the credential, if the credential says who it is.
    #[serde(default)]
    pub user: Option<EndUserId>,
    /// The credential used.
    pub key: KeyId,
}

impl Scope {
    /// The three places every caller has, outermost first.
    pub const fn levels(&self) -> [ScopeId; 3] {
        [
            ScopeId::Organization(self.organization),
            ScopeId::Project(self.project),
            ScopeId::Key(self.key),
        ]
    }

    /// The places where limits and budgets may stand, outermost first.
    pub fn path(&self) -> impl Iterator<Item = ScopeId> + use<> {
        let user = self.user.map(ScopeId::EndUser);
        [ScopeId::Organization(self.organization), ScopeId::Project(self.project)]
            .into_iter()
            .chain(user)
            .chain([ScopeId::Key(self.key)])
    }
}

/// One place where limits and budgets may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScopeId {
    /// A whole organization.
    Organization(OrganizationId),
    /// One project.
    Project(ProjectId),
    /// One end user of a project.
    EndUser(EndUserId),
    /// One key.
    Key(KeyId),
}

impl ScopeId {
    /// Which kind of place it is.
    pub const fn level(&self) -> Level {
        match self {
            Self::Organization(_) => Level::Organization,
            Self::Project(_) => Level::Project,
            Self::EndUser(_) => Level::EndUser,
            Self::Key(_) => Level::Key,
        }
    }
}

impl std::fmt::Display for ScopeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Organization(id) => id.fmt(f),
            Self::Project(id) => id.fmt(f),
            Self::EndUser(id) => id.fmt(f),
            Self::Key(id) => id.fmt(f),
        }
    }
}

/// A level of the tenant tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Organizations.
    Organization,
    /// Projects.
    Project,
    /// End users.
    EndUser,
    /// Keys.
    Key,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Organization => "organization",
            Self::Project => "project",
            Self::EndUser => "end user",
            Self::Key => "key",
        })
    }
}

impl std::str::FromStr for ScopeId {
    type Err = crate::IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('_').map(|(prefix, _)| prefix) {
            Some("org") => text.parse().map(Self::Organization),
            Some("proj") => text.parse().map(Self::Project),
            Some("user") => text.parse().map(Self::EndUser),
            _ => text.parse().map(Self::Key),
        }
    }
}
