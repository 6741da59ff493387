//! Knows callers by their keys, from memory.
//!
//! The directory keeps everything that is known of tenants, indexed for requests, and swaps in a newer index
//! as a whole: a request sees one consistent state, authentication never waits for a database, and a key
//! written under an old revision never comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::{
    Clock, EndUserId, ModelDigest, ModelName, OrganizationId, Price, ProjectId, Scope, ScopeId,
    SystemClock, Timestamp, with_causes,
};
use tokio::sync::Mutex;

use crate::bearer::{Bearer, BearerTokens};
use crate::claims::{Claim, of_budget};
use crate::tenancy::{
    Amount, Budget, EndUser, Key, Organization, Policy, PriceRecord, Project, Record, Tenants,
    TimeZone, View, Webhook,
};
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
    /// Tokens of identity providers, if any are believed.
    tokens: Option<Arc<BearerTokens>>,
    /// Taken while changes are read, so that they come in order.
    view: Mutex<View>,
    known: ArcSwap<Known>,
}

#[derive(Default)]
struct Known {
    revision: u64,
    keys: HashMap<KeyDigest, KnownKey>,
    projects: HashMap<ProjectId, KnownProject>,
    /// End users for whom something else holds than for every other.
    users: HashMap<EndUserId, Arc<Policy>>,
    webhooks: HashMap<OrganizationId, Webhook>,
    alerting: Vec<Alerting>,
    /// Newest first.
    prices: HashMap<ModelName, Vec<PriceRecord>>,
}

/// A budget of which somebody is told.
struct Alerting {
    organization: OrganizationId,
    scope: ScopeId,
    zone: TimeZone,
    budget: Budget,
}

/// A budget of which somebody is told, in its present window.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Whose it is.
    pub organization: OrganizationId,
    /// The account that counts it.
    pub claim: Claim,
    /// The budget.
    pub amount: Amount,
    /// At which percentages of it.
    pub percentages: Vec<u32>,
}

/// What stands above the callers of a project.
struct KnownProject {
    organization: OrganizationId,
    zone: TimeZone,
    places: [Placed; 2],
    each_end_user: Arc<Policy>,
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
        let directory = Self { tenants, pepper, clock, tokens: None, view, known };
        directory.refresh().await?;
        Ok(directory)
    }

    /// The same, which believes `tokens` as well.
    #[must_use]
    pub fn believing(self, tokens: Arc<BearerTokens>) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// Who presents `text`: an API key, or a token of an identity provider.
    pub fn identify(&self, text: &str) -> Result<Caller, AdmitError> {
        match (ApiKey::parse(text), &self.tokens) {
            (Some(key), _) => self.identify_key(&key),
            // Three parts with points between: nothing else that is sent here has this form.
            (None, Some(tokens)) if text.split('.').count() == 3 => {
                let caller = self.bearer(&tokens.verify(text)?)?;
                caller.check(self.clock.now())?;
                Ok(caller)
            }
            (None, _) => Err(AdmitError::UnknownKey),
        }
    }

    fn bearer(&self, bearer: &Bearer) -> Result<Caller, AdmitError> {
        let known = self.known.load();
        let project = known.projects.get(&bearer.project).ok_or(AdmitError::NoSuchProject)?;
        let user = bearer.subject.as_deref().map(|name| EndUser::id_of(bearer.project, name));
        let scope = Scope {
            organization: project.organization,
            project: bearer.project,
            user,
            key: bearer.credential,
        };
        let mut places = project.places.to_vec();
        if let Some(user) = user {
            let own = known.users.get(&user).unwrap_or(&project.each_end_user);
            places.push(Placed { scope: ScopeId::EndUser(user), policy: Arc::clone(own) });
        }
        let known = KnownCaller { scope, places, zone: project.zone.clone(), revoked: false };
        Ok(Caller { known: Arc::new(known) })
    }

    fn identify_key(&self, key: &ApiKey) -> Result<Caller, AdmitError> {
        let known = self.known.load();
        let found = known.keys.get(&self.pepper.digest(key)).ok_or(AdmitError::UnknownKey)?;
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

    /// Every budget of which somebody is told, in its window at `now`.
    pub fn watched(&self, now: Timestamp) -> Vec<Watched> {
        let watched = |alerting: &Alerting| Watched {
            organization: alerting.organization,
            claim: of_budget(alerting.scope, &alerting.budget, &alerting.zone, now),
            amount: alerting.budget.amount,
            percentages: alerting.budget.alert_percent.clone(),
        };
        self.known.load().alerting.iter().map(watched).collect()
    }

    /// Where an organization is told of its budgets.
    pub fn webhook(&self, organization: OrganizationId) -> Option<Webhook> {
        self.known.load().webhooks.get(&organization).cloned()
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
                tracing::warn!(error = %with_causes(&error), "keys not refreshed");
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
        for record in view.records() {
            if let Record::Project(project) = record
                && let Some(organization) = view.organization(project.organization)
            {
                known.projects.insert(project.id, KnownProject::of(organization, project));
            }
        }
        for record in view.records() {
            known.add_alerts(view, record);
            match record {
                Record::Organization(organization) => {
                    let webhook = organization.webhook.clone();
                    known.webhooks.extend(webhook.map(|webhook| (organization.id, webhook)));
                }
                Record::Key(key) => known.add_key(key),
                Record::EndUser(user) => {
                    known.users.insert(user.id, Arc::new(user.policy.clone()));
                }
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

    /// Budgets of a record of which somebody is told. Those of each end user have no place to look at.
    fn add_alerts(&mut self, view: &View, record: &Record) {
        let Some((organization, scope, policy)) = view.place(record) else { return };
        let Some(organization) = view.organization(organization) else { return };
        let alerting = policy.budgets.iter().filter(|budget| !budget.alert_percent.is_empty());
        self.alerting.extend(alerting.map(|budget| Alerting {
            organization: organization.id,
            scope,
            zone: organization.time_zone.clone(),
            budget: budget.clone(),
        }));
    }

    fn add_key(&mut self, key: &Key) {
        let Some(project) = self.projects.get(&key.project) else { return };
        let caller = Arc::new(project.caller(key));
        for retiring in &key.retiring {
            let known = KnownKey { caller: Arc::clone(&caller), until: Some(retiring.until) };
            self.keys.insert(retiring.digest, known);
        }
        self.keys.insert(key.digest, KnownKey { caller, until: None });
    }
}

impl KnownProject {
    fn of(organization: &Organization, project: &Project) -> Self {
        let place = |scope, policy: &Policy| Placed { scope, policy: Arc::new(policy.clone()) };
        Self {
            organization: organization.id,
            zone: organization.time_zone.clone(),
            places: [
                place(ScopeId::Organization(organization.id), &organization.policy),
                place(ScopeId::Project(project.id), &project.policy),
            ],
            each_end_user: Arc::new(project.each_end_user.clone()),
        }
    }

    fn caller(&self, key: &Key) -> KnownCaller {
        let scope = Scope {
            organization: self.organization,
            project: key.project,
            user: None,
            key: key.id,
        };
        let mut places = self.places.to_vec();
        places.push(Placed { scope: ScopeId::Key(key.id), policy: Arc::new(key.policy.clone()) });
        KnownCaller { scope, places, zone: self.zone.clone(), revoked: key.revoked_at.is_some() }
    }
}

/// How old the directory's knowledge may be.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);
