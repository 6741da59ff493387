//! Keys: made, rotated and revoked by those who use them, bounded by those above them.
//!
//! A secret that was replaced stays good until its own grace is over, or the grace of a later rotation, if
//! that is sooner; so a rotation without grace ends every older secret at once. Rotating again under the same
//! name changes nothing. A revoked key is never good again, and stays on record: the ledger names it.

use std::time::Duration;

use domain::{KeyId, Problems, ProjectId};
use serde::{Serialize, Serializer};

use super::error::RegistryError;
use super::policy::PolicyPatch;
use super::request::{Desk, Planned, Request, checked, to_change};
use super::words::{MetadataPatch, check_repetition, name, new_metadata, patch_metadata};
use crate::tenancy::kept::RecordId;
use crate::tenancy::permissions::Action;
use crate::tenancy::records::{Key, Metadata, RetiringDigest};
use crate::tenancy::rules::Policy;

/// Makes a key. Its secret is told once.
#[derive(Clone, Debug, Serialize)]
pub struct NewKey {
    /// In which project.
    pub project: ProjectId,
    /// Its name, for people.
    pub name: String,
    /// What stands there.
    pub policy: PolicyPatch,
    /// Words about it.
    pub metadata: Metadata,
}

/// Changes a key. What is not named stays.
#[derive(Clone, Debug, Serialize)]
pub struct KeyUpdate {
    /// Which one.
    pub key: KeyId,
    /// Its new name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is to stand there.
    #[serde(skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    /// Words about it.
    #[serde(skip_serializing_if = "MetadataPatch::is_empty")]
    pub metadata: MetadataPatch,
}

/// Replaces the secret of a key. The new one is told once.
#[derive(Clone, Debug, Serialize)]
pub struct KeyRotation {
    /// Which one.
    pub key: KeyId,
    /// What the asker calls this rotation. Asking again under the same name changes nothing, and tells the
    /// new secret again for a day.
    pub rotation: Option<String>,
    /// How long the old secret is still good.
    #[serde(rename = "grace_millis", serialize_with = "millis")]
    pub grace: Duration,
}

/// Ends a key for good.
#[derive(Clone, Debug, Serialize)]
pub struct KeyRevocation {
    /// Which one.
    pub key: KeyId,
}

impl NewKey {
    /// A key that nothing bounds but what stands above it.
    pub fn called(name: impl Into<String>, project: ProjectId) -> Self {
        let (policy, metadata) = (PolicyPatch::default(), Metadata::new());
        Self { project, name: name.into(), policy, metadata }
    }
}

impl KeyUpdate {
    /// A change of nothing, to be filled in.
    pub fn of(key: KeyId) -> Self {
        Self { key, name: None, policy: PolicyPatch::default(), metadata: MetadataPatch::new() }
    }
}

impl KeyRotation {
    /// How long an old secret is good if nothing else is said.
    pub const DEFAULT_GRACE: Duration = Duration::from_hours(24);

    /// A rotation with the usual grace.
    pub const fn of(key: KeyId) -> Self {
        Self { key, rotation: None, grace: Self::DEFAULT_GRACE }
    }
}

impl Request for NewKey {
    type Record = Key;
    const ACTION: Action = Action::Create;

    fn subject(&self) -> Option<RecordId> {
        Some(self.project.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Key>, RegistryError> {
        let mut problems = Problems::default();
        let key = Key {
            id: KeyId::generate(),
            version: 0,
            project: self.project,
            name: name(&self.name, "name", &mut problems),
            digest: desk.digest,
            retiring: Vec::new(),
            rotation: None,
            policy: self.policy.apply(&Policy::default(), desk.now, "policy", &mut problems),
            metadata: new_metadata(&self.metadata, &mut problems),
            created_at: desk.now,
            revoked_at: None,
        };
        checked(key, problems).map(Planned::with_secret)
    }
}

impl Request for KeyUpdate {
    type Record = Key;
    const ACTION: Action = Action::Update;

    fn subject(&self) -> Option<RecordId> {
        Some(self.key.into())
    }

    fn needs(&self) -> Vec<Action> {
        let governs = !self.policy.is_empty();
        let updates = self.name.is_some() || !self.metadata.is_empty();
        to_change(updates, governs)
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Key>, RegistryError> {
        let before = desk.record::<Key>(self.key)?;
        let mut problems = Problems::default();
        let mut key = before.clone();
        if let Some(text) = &self.name {
            key.name = name(text, "name", &mut problems);
        }
        key.policy = self.policy.apply(&before.policy, desk.now, "policy", &mut problems);
        key.metadata = patch_metadata(&before.metadata, &self.metadata, &mut problems);
        checked(key, problems).map(Planned::kept)
    }
}

impl Request for KeyRotation {
    type Record = Key;
    const ACTION: Action = Action::Rotate;

    fn subject(&self) -> Option<RecordId> {
        Some(self.key.into())
    }

    fn repetition(&self) -> Option<&str> {
        self.rotation.as_deref()
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Key>, RegistryError> {
        let before = desk.record::<Key>(self.key)?;
        if before.revoked_at.is_some() {
            return Err(RegistryError::Revoked { id: self.key.to_string() });
        }
        if self.rotation.is_some() && before.rotation == self.rotation {
            return Ok(Planned::kept(before.clone()));
        }
        let mut problems = Problems::default();
        if let Some(rotation) = &self.rotation {
            check_repetition(rotation, "rotation_id", &mut problems);
        }
        if self.grace > MAX_GRACE {
            problems.add("grace", format!("must be at most {} days", MAX_GRACE.as_secs() / 86_400));
        }
        let until = desk.now.plus(self.grace);
        let mut retiring = before.retiring.clone();
        retiring.retain(|old| old.until > desk.now && !self.grace.is_zero());
        for old in &mut retiring {
            old.until = old.until.min(until);
        }
        if retiring.len() >= MAX_RETIRING {
            let detail = format!("{MAX_RETIRING} old secrets of key {} are still good", self.key);
            let remedy = "wait until the oldest ends, or rotate without grace, which ends them all";
            return Err(RegistryError::Conflict { detail, remedy });
        }
        retiring.push(RetiringDigest { digest: before.digest, until });
        let rotation = self.rotation.clone();
        let key = Key { digest: desk.digest, retiring, rotation, ..before.clone() };
        checked(key, problems).map(Planned::with_secret)
    }
}

impl Request for KeyRevocation {
    type Record = Key;
    const ACTION: Action = Action::Revoke;

    fn subject(&self) -> Option<RecordId> {
        Some(self.key.into())
    }

    fn plan(&self, desk: &Desk<'_>) -> Result<Planned<Key>, RegistryError> {
        let before = desk.record::<Key>(self.key)?;
        let revoked_at = Some(before.revoked_at.unwrap_or(desk.now));
        Ok(Planned::kept(Key { revoked_at, ..before.clone() }))
    }
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

const MAX_GRACE: Duration = Duration::from_hours(24 * 90);
const MAX_RETIRING: usize = 8;
