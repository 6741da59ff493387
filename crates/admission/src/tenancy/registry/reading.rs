//! Reading: single records, pages of them, the audit log, and what may be read elsewhere.

use domain::{OrganizationId, Problems, ProjectId, ScopeId, Timestamp};
use serde_json::{Value, json};

use super::request::{admin_id, seen};
use super::{Registry, RegistryError, shortened};
use crate::ApiKey;
use crate::claims::{Claim, of_budget};
use crate::tenancy::audit::{AuditDraft, AuditEntry};
use crate::tenancy::kept::{Kept, RecordId};
use crate::tenancy::permissions::{Action, Actor, Deed, Officer, Place, Resource};
use crate::tenancy::records::{Admin, Role};
use crate::tenancy::rules::Policy;
use crate::tenancy::view::View;

/// Which records are asked for, and how many at a time.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Only those below this one.
    pub within: Option<Parent>,
    /// Only those with this name (an end user's subject, a price's model).
    pub name: Option<String>,
    /// Only those whose ids come after this one: the last of the page before.
    pub after: Option<String>,
    /// At most so many, from 1 to [`Listing::MAX_LIMIT`].
    pub limit: u32,
}

/// Something that others are below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// An organization.
    Organization(OrganizationId),
    /// A project.
    Project(ProjectId),
}

/// Some of the records that were asked for, in the order of their ids.
#[derive(Clone, Debug)]
pub struct Page<K> {
    /// The records, without secrets.
    pub records: Vec<K>,
    /// What to ask for next as [`Listing::after`]; absent on the last page.
    pub next: Option<String>,
}

/// Some lines of the audit log, oldest first.
#[derive(Clone, Debug)]
pub struct AuditPage {
    /// The lines that the actor may see. There may be none although there are more pages.
    pub entries: Vec<AuditEntry>,
    /// After which number the next page begins; absent on the last page.
    pub next: Option<u64>,
}

/// What stands at one scope.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Whose it is.
    pub organization: OrganizationId,
    /// What stands there.
    pub policy: Policy,
    /// The account that counts each budget in its present window, in the policy's order.
    pub claims: Vec<Claim>,
}

impl Listing {
    /// The most that one page holds.
    pub const MAX_LIMIT: u32 = 1_000;
}

impl Default for Listing {
    /// The first hundred of everything.
    fn default() -> Self {
        Self { within: None, name: None, after: None, limit: 100 }
    }
}

impl From<Parent> for RecordId {
    fn from(parent: Parent) -> Self {
        match parent {
            Parent::Organization(id) => id.into(),
            Parent::Project(id) => id.into(),
        }
    }
}

/// What somebody looks at.
#[derive(Clone, Copy)]
struct Look {
    action: Action,
    resource: Resource,
    /// At which record, or below which.
    at: Option<RecordId>,
}

impl Registry {
    /// What the actor may do, and where it may do it.
    pub async fn role(&self, actor: Actor) -> Result<(Role, Place), RegistryError> {
        let view = self.newest().await?;
        let officer = Officer::of(actor, &view)?;
        Ok((officer.role(), officer.home()))
    }

    /// The administrator whose token this is, if it is one's who was not revoked.
    pub async fn recognize(&self, token: &str) -> Result<Option<Actor>, RegistryError> {
        let Some(token) = ApiKey::parse(token) else { return Ok(None) };
        // Digests are made with a secret, so how long a comparison takes tells nothing about tokens.
        let digest = self.pepper.digest(&token);
        let view = self.newest().await?;
        let holder = |admin: &&Admin| admin.digest == digest && admin.revoked_at.is_none();
        Ok(view.all::<Admin>().find(holder).map(|admin| Actor::Admin(admin.id)))
    }

    /// One record.
    pub async fn read<K: Kept>(&self, actor: Actor, id: K::Id) -> Result<K, RegistryError> {
        let look = Look { action: Action::Read, resource: K::RESOURCE, at: Some(id.into()) };
        let found = self.look(actor, look, |officer, view| {
            seen(officer, view, id.into())?;
            let missing = || RegistryError::NotFound { resource: K::RESOURCE, id: id.to_string() };
            view.find::<K>(id).cloned().ok_or_else(missing)
        });
        Ok(found.await?.without_secrets())
    }

    /// A page of the records that the actor may read.
    pub async fn list<K: Kept>(
        &self,
        actor: Actor,
        listing: &Listing,
    ) -> Result<Page<K>, RegistryError> {
        check_listing::<K>(listing)?;
        let at = listing.within.map(RecordId::from);
        let look = Look { action: Action::List, resource: K::RESOURCE, at };
        let page = self.look(actor, look, |officer, view| {
            let within = at.map(|parent| seen(officer, view, parent)).transpose()?;
            let (place, admin) = (officer.home(), officer.admin());
            officer.permit(&Deed { action: Action::List, resource: K::RESOURCE, place, admin })?;
            Ok(page(officer, view, within, listing))
        });
        page.await
    }

    /// Lines of the audit log after number `after`, at most `limit` of them.
    ///
    /// An administrator of one organization gets its lines without those between; who sees all of them can
    /// check the chain with [`AuditEntry::follows`].
    pub async fn audit(
        &self,
        actor: Actor,
        after: u64,
        limit: u32,
    ) -> Result<AuditPage, RegistryError> {
        let home = self.confine(actor, Action::List, Resource::Audit, None).await?;
        let limit = limit.clamp(1, Listing::MAX_LIMIT);
        let asked = if home == Place::Platform { limit } else { Listing::MAX_LIMIT };
        let mut entries = self.tenants.audit(after, asked).await?;
        let is_full = entries.len() >= asked as usize;
        let mut next = entries.last().filter(|_| is_full).map(|last| last.number);
        if let Some(organization) = home.organization() {
            entries.retain(|line| line.draft.organization == Some(organization));
        }
        if entries.len() > limit as usize {
            entries.truncate(limit as usize);
            next = entries.last().map(|last| last.number);
        }
        Ok(AuditPage { entries, next })
    }

    /// Refuses an actor who may not do this to what is the platform's.
    pub async fn authorize(
        &self,
        actor: Actor,
        action: Action,
        resource: Resource,
    ) -> Result<(), RegistryError> {
        let deed = Deed { action, resource, place: Place::Platform, admin: None };
        let look = Look { action, resource, at: None };
        self.look(actor, look, |officer, _| officer.permit(&deed)).await
    }

    /// Tells the audit log of something that was done to what is the platform's and is kept elsewhere. Whoever
    /// did it was [authorized](Self::authorize) before.
    pub async fn tell(
        &self,
        actor: Actor,
        (action, resource): (Action, Resource),
        name: &str,
        detail: Value,
    ) -> Result<(), RegistryError> {
        let line = AuditDraft {
            at: self.clock.now(),
            actor: actor.to_string(),
            action: format!("{}.{}", resource.name(), action.name()),
            resource: name.to_owned(),
            organization: None,
            outcome: "done".to_owned(),
            detail,
        };
        self.tenants.note(&line).await.map_err(RegistryError::Store)
    }

    /// The part of the tenant tree to which an answer must be confined: where `within` is, or all that is
    /// below the actor's home.
    pub async fn confine(
        &self,
        actor: Actor,
        action: Action,
        resource: Resource,
        within: Option<RecordId>,
    ) -> Result<Place, RegistryError> {
        let look = Look { action, resource, at: within };
        let place = self.look(actor, look, |officer, view| {
            let within = within.map(|parent| seen(officer, view, parent)).transpose()?;
            let place = within.unwrap_or(officer.home());
            officer.permit(&Deed { action, resource, place, admin: None })?;
            Ok(place)
        });
        place.await
    }

    /// What stands at a scope whose usage the actor may read. End users without a record have none of their
    /// own: what stands there is their project's.
    pub async fn standing(&self, actor: Actor, scope: ScopeId) -> Result<Standing, RegistryError> {
        let (at, now) = (RecordId::from(scope), self.clock.now());
        let look = Look { action: Action::Read, resource: Resource::Usage, at: Some(at) };
        let standing = self.look(actor, look, |officer, view| {
            let place = seen(officer, view, at)?;
            officer.permit(&Deed {
                action: Action::Read,
                resource: Resource::Usage,
                place,
                admin: None,
            })?;
            let missing =
                || RegistryError::NotFound { resource: at.resource(), id: at.to_string() };
            standing(view, at, now).ok_or_else(missing)
        });
        standing.await
    }

    /// Looks, and tells the audit log if that is refused.
    async fn look<T>(
        &self,
        actor: Actor,
        look: Look,
        find: impl FnOnce(&Officer, &View) -> Result<T, RegistryError> + Send,
    ) -> Result<T, RegistryError> {
        let (found, line) = {
            let view = self.newest().await?;
            let found = Officer::of(actor, &view).and_then(|officer| find(&officer, &view));
            let error = found.as_ref().err();
            let line = error.and_then(|error| self.refused_look(actor, look, error, &view));
            (found, line)
        };
        if let Some(line) = line {
            self.note(&line).await;
        }
        found
    }

    /// The line of a refused look. To look for what is not there is no attempt at anything.
    fn refused_look(
        &self,
        actor: Actor,
        look: Look,
        error: &RegistryError,
        view: &View,
    ) -> Option<AuditDraft> {
        let Look { action, resource, at } = look;
        let place = at.and_then(|id| id.place(view));
        if matches!(error, RegistryError::NotFound { .. }) && place.is_none() {
            return None;
        }
        let home = || Some(Officer::of(actor, view).ok()?.home());
        Some(AuditDraft {
            at: self.clock.now(),
            actor: actor.to_string(),
            action: format!("{}.{}", resource.name(), action.name()),
            resource: at.map(|id| id.to_string()).unwrap_or_default(),
            organization: place.or_else(home).and_then(|place| place.organization()),
            outcome: error.label().to_owned(),
            detail: json!({ "reason": shortened(&error.to_string()) }),
        })
    }
}

fn standing(view: &View, at: RecordId, now: Timestamp) -> Option<Standing> {
    let (organization, scope, policy) = view.place(view.record(at)?)?;
    let zone = &view.organization(organization)?.time_zone;
    let claims = policy.budgets.iter().map(|budget| of_budget(scope, budget, zone, now)).collect();
    Some(Standing { organization, policy: policy.clone(), claims })
}

fn check_listing<K: Kept>(listing: &Listing) -> Result<(), RegistryError> {
    let Listing { within, after, limit, .. } = listing;
    let mut problems = Problems::default();
    if !(1..=Listing::MAX_LIMIT).contains(limit) {
        problems.add("limit", format!("must be from 1 to {}", Listing::MAX_LIMIT));
    }
    let begins = format!("{}_", K::PREFIX);
    if after.as_ref().is_some_and(|after| !after.starts_with(&begins)) {
        problems.add("after", format!("must be an id that begins with `{begins}`"));
    }
    let is_fitting = match within {
        None => true,
        Some(Parent::Organization(_)) => {
            !matches!(K::RESOURCE, Resource::Organization | Resource::Price)
        }
        Some(Parent::Project(_)) => {
            matches!(K::RESOURCE, Resource::EndUser | Resource::Key | Resource::Admin)
        }
    };
    if !is_fitting {
        problems.add("within", format!("has no list of the kind {}; leave it out", K::RESOURCE));
    }
    problems.into_result(()).map_err(RegistryError::Invalid)
}

fn page<K: Kept>(
    officer: &Officer,
    view: &View,
    within: Option<Place>,
    listing: &Listing,
) -> Page<K> {
    let Listing { name, after, limit, .. } = listing;
    let limit = *limit as usize;
    let is_asked_for = |record: &&K| {
        let place = record.place(view);
        let id = record.id().into();
        let deed = Deed { action: Action::Read, resource: K::RESOURCE, place, admin: admin_id(id) };
        within.is_none_or(|within| within.contains(&place))
            && name.as_ref().is_none_or(|name| record.name() == name)
            && officer.may(&deed)
    };
    let after = view.after::<K>(after.as_deref().unwrap_or(K::PREFIX));
    let mut records: Vec<K> = after.filter(is_asked_for).take(limit + 1).cloned().collect();
    let is_last = records.len() <= limit;
    records.truncate(limit);
    let next = records.last().filter(|_| !is_last).map(|last| last.id().to_string());
    Page { records: records.into_iter().map(K::without_secrets).collect(), next }
}
