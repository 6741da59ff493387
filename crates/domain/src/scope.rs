//! Who a request belongs to: organization, project, key.

use serde::{Deserialize, Serialize};

use crate::{KeyId, OrganizationId, ProjectId};

/// The full path of a caller in the tenant tree. It comes from credentials only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The customer or company.
    pub organization: OrganizationId,
    /// The product team: the border that data never crosses.
    pub project: ProjectId,
    /// The credential used.
    pub key: KeyId,
}

impl Scope {
    /// The three places where limits and budgets may stand, outermost first.
    pub const fn levels(&self) -> [ScopeId; 3] {
        [
            ScopeId::Organization(self.organization),
            ScopeId::Project(self.project),
            ScopeId::Key(self.key),
        ]
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
    /// One key.
    Key(KeyId),
}

impl ScopeId {
    /// Which kind of place it is.
    pub const fn level(&self) -> Level {
        match self {
            Self::Organization(_) => Level::Organization,
            Self::Project(_) => Level::Project,
            Self::Key(_) => Level::Key,
        }
    }
}

impl std::fmt::Display for ScopeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Organization(id) => id.fmt(f),
            Self::Project(id) => id.fmt(f),
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
    /// Keys.
    Key,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Organization => "organization",
            Self::Project => "project",
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
            _ => text.parse().map(Self::Key),
        }
    }
}
