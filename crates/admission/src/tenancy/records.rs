//! Who exists: the records that tenants are made of.
//!
//! A record has an immutable id and a version that grows with every change of it; writers say which
//! version they saw. Everything is kept as records, so a store needs to know none of their fields.

use std::collections::BTreeMap;

use domain::{
    AdminId, EndUserId, KeyId, ModelDigest, ModelName, OrganizationId, Price, PriceId, ProjectId,
    Secret, Timestamp,
};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::rules::{Policy, TimeZone};
use crate::KeyDigest;

/// Words of the platform's users about a thing; never interpreted.
pub type Metadata = BTreeMap<String, String>;

/// Anything that is kept. Its id names it over all kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A customer or company.
    Organization(Organization),
    /// A product team.
    Project(Project),
    /// An end user with a policy of its own.
    EndUser(EndUser),
    /// An API key.
    Key(Key),
    /// An administrator's token.
    Admin(Admin),
    /// A price of a model.
    Price(PriceRecord),
}

/// A customer or company: the top of the tenant tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// Names it.
    pub id: OrganizationId,
    /// Grows with every change.
    pub version: u64,
    /// Its name, for people; unique.
    pub name: String,
    /// The zone of its calendar windows.
    #[serde(default)]
    pub time_zone: TimeZone,
    /// What stands here.
    #[serde(default)]
    pub policy: Policy,
    /// Where alerts go.
    #[serde(default)]
    pub webhook: Option<Webhook>,
    /// Words about it.
    #[serde(default)]
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Where an organization's alerts are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// An `https://` address, or `http://` on loopback.
    pub url: String,
    /// Keys the signature (HMAC-SHA-256 over time stamp and body).
    #[serde(serialize_with = "expose")]
    pub secret: Secret<String>,
}

/// Records are kept whole: who signs needs the secret itself.
fn expose<S: Serializer>(secret: &Secret<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// A product team inside an organization: the border that data never crosses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Project {
    /// Names it.
    pub id: ProjectId,
    /// Grows with every change.
    pub version: u64,
    /// Whose it is.
    pub organization: OrganizationId,
    /// Its name, for people; unique in the organization.
    pub name: String,
    /// What stands here.
    #[serde(default)]
    pub policy: Policy,
    /// What stands at each end user that has no record of its own.
    #[serde(default)]
    pub each_end_user: Policy,
    /// Words about it.
    #[serde(default)]
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An end user of a project for whom something else holds than for every other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndUser {
    /// Names it; derived from project and subject.
    pub id: EndUserId,
    /// Grows with every change.
    pub version: u64,
    /// Whose user.
    pub project: ProjectId,
    /// What credentials call this user.
    pub subject: String,
    /// What stands here, instead of the project's policy for each end user.
    #[serde(default)]
    pub policy: Policy,
    /// Words about it.
    #[serde(default)]
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
}

impl EndUser {
    /// The id of the end user that credentials call `subject`: on every gateway the same.
    pub fn id_of(project: ProjectId, subject: &str) -> EndUserId {
        let hash = Sha256::new()
            .chain_update(b"tollgate end user 1\0")
            .chain_update(project.as_bytes())
            .chain_update(subject.as_bytes())
            .finalize();
        let (first, _) = hash.split_first_chunk::<16>().expect("a hash has 32 bytes");
        // The bits that make it a UUID of version 8 (RFC 9562): its content is ours to choose.
        let content = u128::from_be_bytes(*first) & !VERSION_AND_VARIANT;
        EndUserId::from_u128(content | VERSION_8)
    }
}

/// An API key. The secret is not here: only what is kept of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Names it, for ever; the secret may change.
    pub id: KeyId,
    /// Grows with every change.
    pub version: u64,
    /// Whose it is.
    pub project: ProjectId,
    /// Its name, for people.
    pub name: String,
    /// What is kept of its secret.
    pub digest: KeyDigest,
    /// What is kept of secrets that rotations replaced, oldest first.
    #[serde(default)]
    pub retiring: Vec<RetiringDigest>,
    /// What whoever asked for the last rotation called it, so that asking again changes nothing.
    #[serde(default)]
    pub rotation: Option<String>,
    /// What stands here.
    #[serde(default)]
    pub policy: Policy,
    /// Words about it.
    #[serde(default)]
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked, if it was. Final.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

/// A secret that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiringDigest {
    /// What is kept of it.
    pub digest: KeyDigest,
    /// From when on it is worth nothing.
    pub until: Timestamp,
}

/// A token of the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admin {
    /// Names it.
    pub id: AdminId,
    /// Grows with every change.
    pub version: u64,
    /// Its name, for people.
    pub name: String,
    /// What is kept of the token.
    pub digest: KeyDigest,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked, if it was. Final.
    #[serde(default)]
    pub revoked_at: Option<Timestamp>,
}

/// What an administrator may do, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    /// Everything, everywhere.
    PlatformAdmin,
    /// Everything inside one organization, but its own limits, budgets and prices.
    OrganizationAdmin {
        /// Which one.
        organization: OrganizationId,
    },
    /// Reads everything about money and changes nothing, everywhere or in one organization.
    Finance {
        /// Which one; absent means everywhere.
        #[serde(default)]
        organization: Option<OrganizationId>,
    },
    /// Makes and revokes keys of one project, and reads its usage.
    ProjectMember {
        /// Which one.
        project: ProjectId,
    },
}

/// What a model costs a tenant from a moment on. The newest one that has begun counts; one for the
/// exact version of a model goes before one for its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceRecord {
    /// Names it.
    pub id: PriceId,
    /// Grows with every change.
    pub version: u64,
    /// The model.
    pub model: ModelName,
    /// Its exact version; absent means every version.
    #[serde(default)]
    pub digest: Option<ModelDigest>,
    /// The first moment it counts.
    pub effective_from: Timestamp,
    /// The price.
    pub price: Price,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Record {
    /// Its id, as text.
    pub fn id(&self) -> String {
        match self {
            Self::Organization(record) => record.id.to_string(),
            Self::Project(record) => record.id.to_string(),
            Self::EndUser(record) => record.id.to_string(),
            Self::Key(record) => record.id.to_string(),
            Self::Admin(record) => record.id.to_string(),
            Self::Price(record) => record.id.to_string(),
        }
    }

    /// Its version.
    pub const fn version(&self) -> u64 {
        match self {
            Self::Organization(record) => record.version,
            Self::Project(record) => record.version,
            Self::EndUser(record) => record.version,
            Self::Key(record) => record.version,
            Self::Admin(record) => record.version,
            Self::Price(record) => record.version,
        }
    }
}

const VERSION_AND_VARIANT: u128 = (0xF << 76) | (0x3 << 62);
const VERSION_8: u128 = (0x8 << 76) | (0x2 << 62);
