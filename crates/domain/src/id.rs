//! Identities: time-ordered, unguessable enough to be public, and never mixed up with each other.
//!
//! An id prints as its kind's prefix and 32 hexadecimal digits of a version 7 UUID (RFC 9562), so
//! ids sort by creation and say what they name: `org_0190…`, `key_0190…`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// What an [`Id`] names.
pub trait IdKind {
    /// Printed before the underscore.
    const PREFIX: &'static str;
}

/// The kinds of things that have an id.
pub mod kind {
    use super::IdKind;

    /// A customer or company: the top of the tenant tree.
    #[derive(Debug)]
    pub enum Organization {}
    /// A product team inside an organization.
    #[derive(Debug)]
    pub enum Project {}
    /// One API key of a project.
    #[derive(Debug)]
    pub enum Key {}
    /// One HTTP request.
    #[derive(Debug)]
    pub enum Request {}
    /// One hold on quota, and the ledger row that settles it.
    #[derive(Debug)]
    pub enum Hold {}
    /// One budget or limit that stands at a scope.
    #[derive(Debug)]
    pub enum Rule {}
    /// A person or program behind a project's credential.
    #[derive(Debug)]
    pub enum EndUser {}
    /// One gateway's data directory, over all of its restarts.
    #[derive(Debug)]
    pub enum Gateway {}
    /// One token of the admin API.
    #[derive(Debug)]
    pub enum Admin {}
    /// One price of a model, from a day on.
    #[derive(Debug)]
    pub enum Price {}
    /// One life of a worker process, from its start to its end.
    #[derive(Debug)]
    pub enum Incarnation {}

    impl IdKind for Organization {
        const PREFIX: &'static str = "org";
    }
    impl IdKind for Project {
        const PREFIX: &'static str = "proj";
    }
    impl IdKind for Key {
        const PREFIX: &'static str = "key";
    }
    impl IdKind for Request {
        const PREFIX: &'static str = "req";
    }
    impl IdKind for Hold {
        const PREFIX: &'static str = "hold";
    }
    impl IdKind for Rule {
        const PREFIX: &'static str = "rule";
    }
    impl IdKind for EndUser {
        const PREFIX: &'static str = "user";
    }
    impl IdKind for Gateway {
        const PREFIX: &'static str = "gw";
    }
    impl IdKind for Admin {
        const PREFIX: &'static str = "admin";
    }
    impl IdKind for Price {
        const PREFIX: &'static str = "price";
    }
    impl IdKind for Incarnation {
        const PREFIX: &'static str = "inc";
    }
}

/// Names an organization.
pub type OrganizationId = Id<kind::Organization>;
/// Names a project.
pub type ProjectId = Id<kind::Project>;
/// Names an API key; it is public and never changes, unlike the secret.
pub type KeyId = Id<kind::Key>;
/// Names a request, in logs, in answers and on the worker.
pub type RequestId = Id<kind::Request>;
/// Names a hold; the ledger is idempotent by it.
pub type HoldId = Id<kind::Hold>;
/// Names a budget or a limit; what was counted under it stays with it when its figures change.
pub type RuleId = Id<kind::Rule>;
/// Names an end user of a project. Derived from the project and the credential's subject, so that
/// every gateway derives the same.
pub type EndUserId = Id<kind::EndUser>;
/// Names a gateway's data directory.
pub type GatewayId = Id<kind::Gateway>;
/// Names an administrator's token.
pub type AdminId = Id<kind::Admin>;
/// Names a price.
pub type PriceId = Id<kind::Price>;
/// Names one life of a worker process: its accounts begin at zero with it.
pub type IncarnationId = Id<kind::Incarnation>;

/// An identity of something of kind `K`.
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

impl<K: IdKind> Id<K> {
    /// A new id, later than every id this process made before.
    pub fn generate() -> Self {
        Self::from_uuid(Uuid::now_v7())
    }

    /// An id with chosen content, for tests and fixed names.
    pub const fn from_u128(value: u128) -> Self {
        Self::from_uuid(Uuid::from_u128(value))
    }

    /// The id's 16 bytes, for hashing and binary records.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.uuid.as_bytes()
    }

    const fn from_uuid(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }
}

/// The text was not an id of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an id of the form {prefix}_ and 32 hexadecimal digits")]
pub struct IdError {
    text: String,
    prefix: &'static str,
}

impl<K: IdKind> FromStr for Id<K> {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parsed = text
            .strip_prefix(K::PREFIX)
            .and_then(|rest| rest.strip_prefix('_'))
            .filter(|digits| digits.len() == 32)
            .and_then(|digits| Uuid::try_parse(digits).ok());
        match parsed {
            Some(uuid) => Ok(Self::from_uuid(uuid)),
            None => Err(IdError { text: text.to_owned(), prefix: K::PREFIX }),
        }
    }
}

impl<K: IdKind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", K::PREFIX, self.uuid.simple())
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}

impl<K: IdKind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: IdKind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = OrganizationId::generate();
        assert_eq!(id.to_string().parse::<OrganizationId>(), Ok(id));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let project = ProjectId::generate().to_string();
        assert!(project.parse::<OrganizationId>().is_err());
        assert!("org_123".parse::<OrganizationId>().is_err());
    }

    #[test]
    fn later_ids_sort_later() {
        let ids: Vec<HoldId> = (0..1000).map(|_| HoldId::generate()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
