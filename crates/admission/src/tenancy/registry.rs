//! The only way in which tenants are read and changed by people.
//!
//! A [`Registry`] checks whether an actor may do what it asks, plans the change on the newest view of
//! everything, and commits it on condition that nothing changed meanwhile; if something did, it looks again.
//! So whatever a plan relied on (a name that was free, a role that was not revoked, a version) still holds
//! when the change becomes durable.
//!
//! Promises: every change has a line in the audit log, durable with it, and every refused attempt has one
//! too; no line holds a secret. Records come out without secrets. A secret is told when it is made, and again
//! only to whoever asks for the same thing under the same idempotency key within a day; nothing that is kept
//! suffices to find it out without the pepper.
//!
//! Knows nothing of HTTP, SQL or the command line.

mod admins;
mod end_users;
mod error;
mod first;
mod keys;
mod organizations;
mod policy;
mod prices;
mod projects;
mod reading;
mod request;
mod words;

use std::sync::Arc;

use domain::{Clock, OrganizationId, Problems, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

pub use admins::{AdminRevocation, AdminRotation, AdminUpdate, NewAdmin};
pub use end_users::{EndUserDeletion, EndUserUpdate, NewEndUser};
pub use error::RegistryError;
pub use first::Established;
pub use keys::{KeyRevocation, KeyRotation, KeyUpdate, NewKey};
pub use organizations::{NewOrganization, OrganizationDeletion, OrganizationUpdate, WebhookDraft};
pub use policy::{BudgetDraft, LimitDraft, PolicyPatch};
pub use prices::{NewPrice, PriceDeletion};
pub use projects::{NewProject, ProjectDeletion, ProjectUpdate};
pub use reading::{AuditPage, Listing, Page, Parent, Standing};
pub use request::{Desk, Planned, Request};
pub use words::{MetadataPatch, Patched};

use self::request::permit;
use self::words::check_repetition;
use super::audit::AuditDraft;
use super::kept::Kept;
use super::permissions::{Action, Actor, Officer};
use super::port::{Change, Committed, Idempotency, Tenants};
use super::records::Record;
use super::view::View;
use crate::key::Seed;
use crate::{ApiKey, Pepper};

/// Tenants, as administrators see and change them.
pub struct Registry {
    tenants: Arc<dyn Tenants>,
    pepper: Pepper,
    clock: Arc<dyn Clock>,
    /// Taken while a change is planned and committed: changes of one process take turns, and only another
    /// process can make a plan outdated.
    view: Mutex<View>,
}

/// Under which terms a change is asked for. The default: now, whatever the version, once more each time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The version of the record that the asker saw; another one refuses the change.
    pub expected_version: Option<u64>,
    /// What the asker calls this change. Asked for again under the same key within a day, it is not done
    /// again, and the answer is the one of the first time. A refusal does not count as an answer.
    pub idempotency_key: Option<String>,
    /// Only say what would be. Nothing changes, no key is used up, and ids of new things are made up.
    pub dry_run: bool,
}

/// What became of a change.
#[derive(Clone, Debug)]
pub struct Changed<K> {
    /// The record as it is now, without secrets; one that was removed, as it was.
    pub record: K,
    /// The new secret, if there is one. Not after a dry run.
    pub secret: Option<ApiKey>,
    /// How it came about.
    pub fate: Fate,
}

/// How an answer came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was done now.
    Done,
    /// There was nothing to do.
    Unchanged,
    /// It was done before, and this is what was answered then.
    Replayed,
    /// It would be done.
    Planned,
}

/// A request with all that belongs to one attempt at it.
struct Attempt<'a, R> {
    actor: Actor,
    request: &'a R,
    terms: &'a Terms,
    now: Timestamp,
    /// Made before the first try, so that every try plans with the same secret.
    seed: Seed,
    secret: ApiKey,
}

/// What names a change that is to be done once only.
struct Repetition {
    /// As its asker calls it.
    name: String,
    /// The same, with the asker.
    key: String,
    fingerprint: String,
}

/// What is kept of an answer, to give it again.
#[derive(Serialize, Deserialize)]
struct Answer<K> {
    record: K,
    seed: Option<Seed>,
}

impl Registry {
    /// The tenants kept in `tenants`.
    pub fn new(tenants: Arc<dyn Tenants>, pepper: Pepper, clock: Arc<dyn Clock>) -> Self {
        Self { tenants, pepper, clock, view: Mutex::default() }
    }

    /// Does what is asked, or says why not; either way the audit log tells.
    ///
    /// A dry run that would go well leaves no line, and neither does a change of nothing.
    pub async fn change<R: Request>(
        &self,
        actor: Actor,
        request: &R,
        terms: &Terms,
    ) -> Result<Changed<R::Record>, RegistryError> {
        let seed = Seed::generate();
        let secret = self.pepper.key(&seed);
        let attempt = Attempt { actor, request, terms, now: self.clock.now(), seed, secret };
        let done = self.attempt(&attempt).await;
        match &done {
            // Whether it was done is not known; if it was, its line is there.
            Err(RegistryError::Store(_)) => {}
            Err(error) => {
                let line = attempt.refused(error, &*self.view.lock().await);
                self.note(&line).await;
            }
            Ok(Changed { fate: Fate::Replayed, record, .. }) => {
                let place = record.place(&*self.view.lock().await);
                let resource = record.id().to_string();
                self.note(&attempt.line(resource, "replayed", place.organization())).await;
            }
            Ok(_) => {}
        }
        done
    }

    async fn attempt<R: Request>(
        &self,
        attempt: &Attempt<'_, R>,
    ) -> Result<Changed<R::Record>, RegistryError> {
        let repetition = self.repetition(attempt)?;
        for _ in 0..MAX_TRIES {
            let view = self.newest().await?;
            let officer = Officer::of(attempt.actor, &view)?;
            if let Some(repetition) = &repetition
                && let Some(answered) = self.tenants.answered(&repetition.key, attempt.now).await?
            {
                return self.replay(answered, repetition);
            }
            permit(attempt.request, &officer, &view)?;
            check_version(attempt, &view)?;
            let digest = self.pepper.digest(&attempt.secret);
            let planned = attempt.request.plan(&Desk { view: &view, now: attempt.now, digest })?;
            let (changed, change) = attempt.decide(planned, &view, repetition.as_ref());
            let Some(change) = change else { return Ok(changed) };
            match self.tenants.commit(&change).await? {
                Committed::Done(_) => return Ok(changed),
                Committed::Outdated => {}
            }
        }
        Err(RegistryError::Contended)
    }

    /// What names the change, if it is to be done once only.
    fn repetition<R: Request>(
        &self,
        attempt: &Attempt<'_, R>,
    ) -> Result<Option<Repetition>, RegistryError> {
        let Attempt { actor, request, terms, .. } = attempt;
        let (name, key) = match (request.repetition(), &terms.idempotency_key) {
            _ if terms.dry_run => return Ok(None),
            (Some(name), _) => (name, format!("{actor} {} {name}", attempt.subject())),
            (None, Some(name)) => {
                let mut problems = Problems::default();
                check_repetition(name, "idempotency_key", &mut problems);
                problems.into_result(()).map_err(RegistryError::Invalid)?;
                (name.as_str(), format!("{actor} {name}"))
            }
            (None, None) => return Ok(None),
        };
        let secret = request.secret().map_or("", |secret| secret.expose());
        let fingerprint = self.pepper.fingerprint(&[
            Attempt::<R>::action().as_bytes(),
            b"\0",
            attempt.json().to_string().as_bytes(),
            b"\0",
            secret.as_bytes(),
        ]);
        Ok(Some(Repetition { name: name.to_owned(), key, fingerprint }))
    }

    /// What was answered before.
    fn replay<K: Kept>(
        &self,
        answered: Idempotency,
        repetition: &Repetition,
    ) -> Result<Changed<K>, RegistryError> {
        let differs = || RegistryError::RepetitionDiffers { key: repetition.name.clone() };
        if answered.request != repetition.fingerprint {
            return Err(differs());
        }
        let answer: Answer<K> = serde_json::from_value(answered.response).map_err(|_| differs())?;
        let secret = answer.seed.map(|seed| self.pepper.key(&seed));
        Ok(Changed { record: answer.record, secret, fate: Fate::Replayed })
    }

    /// The view, with everything in it that was committed before.
    async fn newest(&self) -> Result<MutexGuard<'_, View>, RegistryError> {
        let mut view = self.view.lock().await;
        if self.tenants.revision().await? != view.revision() {
            let changes = self.tenants.changes(view.revision()).await?;
            view.apply(changes);
        }
        Ok(view)
    }

    /// Tells the audit log about an attempt that changed nothing. It changes nothing for whoever tried.
    async fn note(&self, line: &AuditDraft) {
        if let Err(error) = self.tenants.note(line).await {
            let AuditDraft { actor, action, outcome, .. } = line;
            tracing::warn!(actor, action, outcome, error = ?error, "audit line not written");
        }
    }
}

impl<R: Request> Attempt<'_, R> {
    fn action() -> String {
        format!("{}.{}", R::Record::RESOURCE.name(), R::ACTION.name())
    }

    /// The id of the record that is to be changed; empty for a new one.
    fn subject(&self) -> String {
        let subject = self.request.subject().filter(|_| R::ACTION != Action::Create);
        subject.map(|id| id.to_string()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::to_value(self.request).unwrap_or_default()
    }

    /// The answer, and what to commit for it, if there is something to commit.
    fn decide(
        &self,
        planned: Planned<R::Record>,
        view: &View,
        repetition: Option<&Repetition>,
    ) -> (Changed<R::Record>, Option<Change>) {
        let Planned { record, removed, has_secret } = planned;
        let before = view.find::<R::Record>(record.id());
        if !removed && before == Some(&record) {
            let record = record.without_secrets();
            return (Changed { record, secret: None, fate: Fate::Unchanged }, None);
        }
        let version = before.map_or(1, |before| before.version() + 1);
        let record = if removed { record } else { record.at_version(version) };
        let shown = record.clone().without_secrets();
        if self.terms.dry_run {
            return (Changed { record: shown, secret: None, fate: Fate::Planned }, None);
        }
        let id = record.id().to_string();
        let mut audit = self.line(id.clone(), "done", record.place(view).organization());
        audit.detail["version"] = record.version().into();
        let (upserts, removals) =
            if removed { (Vec::new(), vec![id]) } else { (vec![record.into()], Vec::new()) };
        let idempotency = repetition.map(|Repetition { key, fingerprint, .. }| {
            let seed = has_secret.then(|| self.seed.clone());
            let answer = serde_json::to_value(Answer { record: shown.clone(), seed });
            let response = answer.unwrap_or_default();
            Idempotency { key: key.clone(), request: fingerprint.clone(), response }
        });
        let expected_revision = view.revision();
        let change = Change { expected_revision, upserts, removals, audit, idempotency };
        let secret = has_secret.then(|| self.secret.clone());
        (Changed { record: shown, secret, fate: Fate::Done }, Some(change))
    }

    /// The audit line of a refusal.
    fn refused(&self, error: &RegistryError, view: &View) -> AuditDraft {
        let place = self.request.subject().and_then(|subject| subject.place(view));
        let home = || Some(Officer::of(self.actor, view).ok()?.home());
        let organization = place.or_else(home).and_then(|place| place.organization());
        let mut line = self.line(self.subject(), error.label(), organization);
        line.detail["reason"] = shortened(&error.to_string()).into();
        line
    }

    fn line(
        &self,
        resource: String,
        outcome: &str,
        organization: Option<OrganizationId>,
    ) -> AuditDraft {
        let mut request = self.json();
        let bytes = request.to_string().len();
        if bytes > MAX_DETAIL_BYTES {
            request = json!({ "omitted_bytes": bytes });
        }
        AuditDraft {
            at: self.now,
            actor: self.actor.to_string(),
            action: Self::action(),
            resource,
            organization,
            outcome: outcome.to_owned(),
            detail: json!({ "request": request }),
        }
    }
}

/// Refuses a change of a record that is not at the version its asker saw.
fn check_version<R: Request>(attempt: &Attempt<'_, R>, view: &View) -> Result<(), RegistryError> {
    let subject = attempt.request.subject().filter(|_| R::ACTION != Action::Create);
    let (Some(expected), Some(subject)) = (attempt.terms.expected_version, subject) else {
        return Ok(());
    };
    let current = view.record(subject).map_or(0, Record::version);
    if expected == current {
        return Ok(());
    }
    Err(RegistryError::VersionMoved { id: subject.to_string(), expected, current })
}

/// A text that fits into a line of the audit log.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARACTERS).collect()
}

/// Each try fails only because another one succeeded elsewhere.
const MAX_TRIES: u32 = 16;
const MAX_DETAIL_BYTES: usize = 16 << 10;
const MAX_REASON_CHARACTERS: usize = 1_000;
