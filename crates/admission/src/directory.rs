//! Knows callers by their keys, from memory.
//!
//! The directory keeps everything that is known of tenants, indexed for requests, and swaps in a newer index
//! as a whole: a request sees one consistent state, authentication never waits for a database, and a key
//! written under an old revision never comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::{Clock, ModelDigest, ModelName, Price, Scope, ScopeId, SystemClock, Timestamp};
use tokio::sync::Mutex;

use crate::tenancy::{Key, Policy, PriceRecord, Record, Tenants, TimeZone, View};
use crate::{AdmitError, ApiKey, KeyDigest, Pepper, StoreError};

/// Somebody whose key was checked. Made only by [`Directory::identify`].
#[derive(Clone, Debug)]
pub struct Caller {
    known: Arc<KnownCaller>,
}

#[derive(Debug)]
struct KnownCaller {
    scope: Scope,
    places: Vec<Placed>,
    zone: TimeZone,
    revoked: bool,
}

/// What stands at one place on a caller's path.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Where.
    pub scope: ScopeId,
    /// What stands there.
    pub policy: Arc<Policy>,
}

impl Caller {
    /// Who it is.
    pub fn scope(&self) -> &Scope {
        &self.known.scope
    }

    /// What stands on the caller's path, outermost first.
    pub fn places(&self) -> &[Placed] {
        &self.known.places
    }

    /// The zone of the organization's calendar.
    pub fn zone(&self) -> &TimeZone {
        &self.known.zone
    }

    /// Whether the caller may use `model`.
    pub fn may_use(&self, model: &ModelName) -> bool {
        let allows = |policy: &Policy| policy.models.is_empty() || policy.models.contains(model);
        self.known.places.iter().all(|place| allows(&place.policy))
    }

    /// Refuses a caller of whom a place on the path is blocked or has expired.
    fn check(&self, now: Timestamp) -> Result<(), AdmitError> {
        for Placed { scope, policy } in self.places() {
            if policy.blocked {
                return Err(AdmitError::Blocked { scope: *scope });
            }
            if policy.expires_at.is_some_and(|end| end <= now) {
                return Err(AdmitError::Expired { scope: *scope });
            }
        }
        Ok(())
    }
}

/// Every key and every price, in memory.
pub struct Directory {
    tenants: Arc<dyn Tenants>,
    pepper: Pepper,
    clock: Arc<dyn Clock>,
    /// Taken while changes are read, so that they come in order.
    view: Mutex<View>,
    known: ArcSwap<Known>,
}

#[derive(Default)]
struct Known {
    revision: u64,
    keys: HashMap<KeyDigest, KnownKey>,
    /// Newest first.
    prices: HashMap<ModelName, Vec<PriceRecord>>,
}

struct KnownKey {
    caller: Arc<KnownCaller>,
    /// From when on this secret is worth nothing, if it was replaced.
    until: Option<Timestamp>,
}

impl Directory {
    /// Reads everything once.
    pub async fn open(tenants: Arc<dyn Tenants>, pepper: Pepper) -> Result<Self, StoreError> {
        Self::open_with_clock(tenants, pepper, Arc::new(SystemClock)).await
    }

    /// The same with a clock of its own.
    pub async fn open_with_clock(
        tenants: Arc<dyn Tenants>,
        pepper: Pepper,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let (view, known) = (Mutex::default(), ArcSwap::default());
        let directory = Self { tenants, pepper, clock, view, known };
        directory.refresh().await?;
        Ok(directory)
    }

    /// Who presents `text` as a key.
    pub fn identify(&self, text: &str) -> Result<Caller, AdmitError> {
        let key = ApiKey::parse(text).ok_or(AdmitError::UnknownKey)?;
        let known = self.known.load();
        let found = known.keys.get(&self.pepper.digest(&key)).ok_or(AdmitError::UnknownKey)?;
        let now = self.clock.now();
        let id = found.caller.scope.key;
        if found.caller.revoked {
            return Err(AdmitError::KeyRevoked { key: id });
        }
        if found.until.is_some_and(|end| end <= now) {
            return Err(AdmitError::KeyRotated { key: id });
        }
        let caller = Caller { known: Arc::clone(&found.caller) };
        caller.check(now)?;
        Ok(caller)
    }

    /// What `model` costs a tenant now, if there is a price for it; one for its exact version goes first.
    pub fn price(&self, model: &ModelName, digest: &ModelDigest) -> Option<Price> {
        let known = self.known.load();
        let now = self.clock.now();
        let prices = known.prices.get(model)?;
        let mut begun = prices.iter().filter(|price| price.effective_from <= now);
        let exact = begun.clone().find(|price| price.digest.as_ref() == Some(digest));
        exact.or_else(|| begun.find(|price| price.digest.is_none())).map(|price| price.price)
    }

    /// The revision that callers are known by.
    pub fn revision(&self) -> u64 {
        self.known.load().revision
    }

    /// Follows changes until it is dropped, so that a revocation counts within half a second everywhere.
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
        let mut view = self.view.lock().await;
        if self.tenants.revision().await? == view.revision() {
            return Ok(());
        }
        let before = view.revision();
        view.apply(self.tenants.changes(before).await?);
        if view.revision() > before {
            self.known.store(Arc::new(Known::of(&view)));
        }
        Ok(())
    }
}

impl Known {
    fn of(view: &View) -> Self {
        let mut known = Self { revision: view.revision(), ..Self::default() };
        let mut policies = Policies::default();
        for record in view.records() {
            match record {
                Record::Key(key) => known.add_key(view, key, &mut policies),
                Record::Price(price) => {
                    known.prices.entry(price.model.clone()).or_default().push(price.clone());
                }
                _ => {}
            }
        }
        for prices in known.prices.values_mut() {
            prices.sort_by_key(|price| std::cmp::Reverse((price.effective_from, price.id)));
        }
        known
    }

    fn add_key(&mut self, view: &View, key: &Key, policies: &mut Policies) {
        let Some(caller) = known_caller(view, key, policies) else { return };
        let caller = Arc::new(caller);
        for retiring in &key.retiring {
            let known = KnownKey { caller: Arc::clone(&caller), until: Some(retiring.until) };
            self.keys.insert(retiring.digest, known);
        }
        self.keys.insert(key.digest, KnownKey { caller, until: None });
    }
}

/// Policies by place: keys of one project share what stands above them.
#[derive(Default)]
struct Policies(HashMap<ScopeId, Arc<Policy>>);

impl Policies {
    fn place(&mut self, scope: ScopeId, policy: &Policy) -> Placed {
        let policy = self.0.entry(scope).or_insert_with(|| Arc::new(policy.clone()));
        Placed { scope, policy: Arc::clone(policy) }
    }
}

fn known_caller(view: &View, key: &Key, policies: &mut Policies) -> Option<KnownCaller> {
    let project = view.project(key.project)?;
    let organization = view.organization(project.organization)?;
    let scope =
        Scope { organization: organization.id, project: project.id, user: None, key: key.id };
    let above = [&organization.policy, &project.policy];
    let [at_organization, at_project, at_key] = scope.levels();
    let mut places: Vec<Placed> = [at_organization, at_project]
        .into_iter()
        .zip(above)
        .map(|(scope, policy)| policies.place(scope, policy))
        .collect();
    places.push(Placed { scope: at_key, policy: Arc::new(key.policy.clone()) });
    let (zone, revoked) = (organization.time_zone.clone(), key.revoked_at.is_some());
    Some(KnownCaller { scope, places, zone, revoked })
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
