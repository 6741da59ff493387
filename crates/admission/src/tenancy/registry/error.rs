//! Why a registry did nothing, and what to do about it.

use std::error::Error;
use std::fmt;

use domain::Problems;

use crate::StoreError;
use crate::tenancy::permissions::{Action, Actor, Resource, roles};
use crate::tenancy::records::Role;

/// Why a registry did nothing.
///
/// It prints as what is wrong and what to do; the two can be had apart. Nothing it says is secret or about
/// what the actor may not read.
#[derive(Debug)]
pub enum RegistryError {
    /// The actor was revoked, or what it administered is gone.
    UnknownActor {
        /// Who.
        actor: Actor,
    },
    /// The actor's role may not do this here.
    Forbidden {
        /// The role.
        role: Role,
        /// What was tried.
        action: Action,
        /// On what.
        resource: Resource,
    },
    /// There is no such thing, as far as the actor may know.
    NotFound {
        /// Of what kind.
        resource: Resource,
        /// Its id, as asked for.
        id: String,
    },
    /// What was asked for makes no sense, in these places.
    Invalid(Problems),
    /// Something else is called that.
    NameTaken {
        /// Of what kind.
        resource: Resource,
        /// The name.
        name: String,
        /// The id of what is called so.
        by: String,
    },
    /// What is there is in the way.
    Conflict {
        /// What is in the way.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Its end is final.
    Revoked {
        /// Its id.
        id: String,
    },
    /// Somebody changed it after it was read.
    VersionMoved {
        /// Its id.
        id: String,
        /// The version that was named.
        expected: u64,
        /// The version it has.
        current: u64,
    },
    /// Something else was asked for under the same idempotency key before.
    RepetitionDiffers {
        /// The key.
        key: String,
    },
    /// Others changed something first, again and again.
    Contended,
    /// Where tenants are kept cannot be reached, or fails.
    Store(StoreError),
}

impl RegistryError {
    /// Names the kind of error in audit lines, answers and metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::UnknownActor { .. } => "unknown_actor",
            Self::Forbidden { .. } => "forbidden",
            Self::NotFound { .. } => "not_found",
            Self::Invalid(_) => "invalid",
            Self::NameTaken { .. } => "name_taken",
            Self::Conflict { .. } => "conflict",
            Self::Revoked { .. } => "revoked",
            Self::VersionMoved { .. } => "version_moved",
            Self::RepetitionDiffers { .. } => "repetition_differs",
            Self::Contended => "contended",
            Self::Store(_) => "unavailable",
        }
    }

    /// What is wrong.
    pub fn detail(&self) -> String {
        match self {
            Self::UnknownActor { actor } => format!("{actor} administers nothing any more"),
            Self::Forbidden { role, action, resource } => {
                let (role, action) = (role.name(), action.name());
                format!("the role {role} may not {action} this {resource}")
            }
            Self::NotFound { resource, id } => format!("there is no {resource} {id}"),
            Self::Invalid(problems) => problems.to_string(),
            Self::NameTaken { resource, name, by } => {
                format!("the {resource} {by} is called `{name}` already")
            }
            Self::Conflict { detail, .. } => detail.clone(),
            Self::Revoked { id } => format!("{id} was revoked, and that is final"),
            Self::VersionMoved { id, expected, current } => {
                format!("{id} is at version {current}, not {expected} any more")
            }
            Self::RepetitionDiffers { key } => {
                format!("something else was asked for under the idempotency key `{key}` before")
            }
            Self::Contended => "others changed something first, again and again".to_owned(),
            Self::Store(_) => "change or read tenants".to_owned(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::UnknownActor { .. } => "ask for a new token".to_owned(),
            Self::Forbidden { action, resource, .. } => {
                match roles(*action, *resource).as_slice() {
                    [] => "nobody may".to_owned(),
                    roles => format!("ask somebody whose role is {}", roles.join(" or ")),
                }
            }
            Self::NotFound { resource, .. } => {
                format!("look for it in the list of what this role sees of the kind {resource}")
            }
            Self::Invalid(_) => "correct the fields that are named, and send it again".to_owned(),
            Self::NameTaken { .. } => "use that one, or choose another name".to_owned(),
            Self::Conflict { remedy, .. } => (*remedy).to_owned(),
            Self::Revoked { .. } => "make a new one".to_owned(),
            Self::VersionMoved { .. } => {
                "read it again, and repeat the change if it is still wanted".to_owned()
            }
            Self::RepetitionDiffers { .. } => {
                "send what was sent then, or choose another key".to_owned()
            }
            Self::Contended => "try again in a moment".to_owned(),
            Self::Store(_) => "try again later; if it goes on, look at the database".to_owned(),
        }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A wrapper says what we were doing; its cause says what is wrong.
            Self::Store(_) => f.write_str(&self.detail()),
            // Every problem says what to do.
            Self::Invalid(problems) => problems.fmt(f),
            _ => write!(f, "{}; {}", self.detail(), self.remedy()),
        }
    }
}

impl Error for RegistryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
