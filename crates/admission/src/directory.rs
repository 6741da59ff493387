//! Knows callers by their keys, from memory.
//!
//! The directory holds every key's digest and swaps in a newer snapshot as a whole, so a request
//! sees one consistent state, authentication never waits for a database, and a key written under an
//! old revision never comes back.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::{ModelName, Scope};

use crate::policy::{KeyRecord, Place, Tenants};
use crate::{AdmitError, ApiKey, KeyDigest, Pepper, StoreError};

/// Somebody whose key was checked. Made only by [`Directory::identify`].
#[derive(Clone, Debug)]
pub struct Caller {
    key: Arc<KeyRecord>,
}

impl Caller {
    /// Who it is.
    pub fn scope(&self) -> &Scope {
        &self.key.scope
    }

    /// The limits and budgets that apply, outermost first.
    pub fn places(&self) -> &[Place; 3] {
        &self.key.places
    }

    /// Whether the caller may use `model`.
    pub fn may_use(&self, model: &ModelName) -> bool {
        self.key.models.is_empty() || self.key.models.contains(model)
    }
}

/// Every key, in memory.
pub struct Directory {
    tenants: Arc<dyn Tenants>,
    pepper: Pepper,
    known: RwLock<Arc<Known>>,
}

#[derive(Default)]
struct Known {
    revision: u64,
    keys: HashMap<KeyDigest, Arc<KeyRecord>>,
}

impl Directory {
    /// Reads every key once.
    pub async fn open(tenants: Arc<dyn Tenants>, pepper: Pepper) -> Result<Self, StoreError> {
        let directory = Self { tenants, pepper, known: RwLock::default() };
        directory.reload().await?;
        Ok(directory)
    }

    /// Who presents `text` as a key.
    pub fn identify(&self, text: &str) -> Result<Caller, AdmitError> {
        let key = ApiKey::parse(text).ok_or(AdmitError::UnknownKey)?;
        let digest = self.pepper.digest(&key);
        let known = Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        let record = known.keys.get(&digest).ok_or(AdmitError::UnknownKey)?;
        if record.revoked_at.is_some() {
            return Err(AdmitError::KeyRevoked { key: record.scope.key });
        }
        Ok(Caller { key: Arc::clone(record) })
    }

    /// Follows changes until it is dropped, so that a revocation counts within
    /// half a second everywhere.
    pub async fn follow(&self) {
        let mut ticks = tokio::time::interval(REFRESH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.refresh().await {
                tracing::warn!(error = %chain(&error), "keys not refreshed");
            }
        }
    }

    /// Takes in changes now, if there are any.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).revision;
        if self.tenants.revision().await? == known {
            return Ok(());
        }
        self.reload().await
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let snapshot = self.tenants.snapshot().await?;
        let keys = snapshot.keys.into_iter().map(|key| (key.digest, Arc::new(key))).collect();
        let newer = Arc::new(Known { revision: snapshot.revision, keys });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if newer.revision >= known.revision {
            *known = newer;
        }
        Ok(())
    }
}

/// An error and its causes as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// How old the directory's knowledge may be.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
