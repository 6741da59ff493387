//! A platform with two organizations, three projects, and an administrator of every role.

use std::sync::Arc;
use std::time::Duration;

use admission::tenancy::{
    Actor, Changed, EndUser, Kept, Key, MemoryTenants, NewAdmin, NewEndUser, NewKey,
    NewOrganization, NewPrice, NewProject, Organization, PriceRecord, Project, Record, Registry,
    RegistryError, Request, Role, Tenants, Terms,
};
use admission::{ApiKey, Directory, Pepper};
use domain::{
    AdminId, ManualClock, ModelName, NanoUsd, OrganizationId, Price, Problem, ProjectId, Timestamp,
};

/// Everything a test holds on to.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) tenants: Arc<MemoryTenants>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) pepper: Pepper,
}

/// Who and what there is in a [`World::peopled`].
pub(crate) struct People {
    pub(crate) acme: Organization,
    pub(crate) globex: Organization,
    /// Of acme, acme and globex.
    pub(crate) projects: [Project; 3],
    pub(crate) keys: [Key; 3],
    pub(crate) end_users: [EndUser; 3],
    pub(crate) price: PriceRecord,
    /// Each role, with its name in the matrix.
    pub(crate) admins: Vec<(&'static str, AdminId)>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::at(START));
        let tenants = Arc::new(MemoryTenants::new(Arc::clone(&clock) as _));
        let pepper = Pepper::generate();
        let registry =
            Registry::new(Arc::clone(&tenants) as _, pepper.clone(), Arc::clone(&clock) as _);
        Self { registry, tenants, clock, pepper }
    }

    /// Does something as the command line would, without terms.
    pub(crate) async fn done<R: Request>(&self, request: &R) -> Changed<R::Record> {
        self.registry.change(Actor::Local, request, &Terms::default()).await.unwrap()
    }

    pub(crate) async fn refused<R: Request>(&self, request: &R) -> RegistryError {
        self.registry.change(Actor::Local, request, &Terms::default()).await.unwrap_err()
    }

    pub(crate) async fn organization(&self, name: &str) -> Organization {
        self.done(&NewOrganization { name: name.to_owned(), ..NewOrganization::default() })
            .await
            .record
    }

    pub(crate) async fn project(&self, name: &str, organization: OrganizationId) -> Project {
        self.done(&NewProject::called(name, organization)).await.record
    }

    pub(crate) async fn key(&self, name: &str, project: ProjectId) -> (Key, ApiKey) {
        let made = self.done(&NewKey::called(name, project)).await;
        (made.record, made.secret.expect("a new key has a secret"))
    }

    pub(crate) async fn admin(&self, role: Role) -> Actor {
        let made = self.done(&NewAdmin { name: role.name().to_owned(), role }).await;
        Actor::Admin(made.record.id)
    }

    /// An organization and a project in it.
    pub(crate) async fn project_of_acme(&self) -> Project {
        let acme = self.organization("acme").await;
        self.project("search", acme.id).await
    }

    pub(crate) async fn peopled(&self) -> People {
        let acme = self.organization("acme").await;
        let globex = self.organization("globex").await;
        let projects = [
            self.project("search", acme.id).await,
            self.project("ads", acme.id).await,
            self.project("maps", globex.id).await,
        ];
        let mut keys = Vec::new();
        let mut end_users = Vec::new();
        for project in &projects {
            keys.push(self.key("key", project.id).await.0);
            end_users.push(self.done(&NewEndUser::called("ann", project.id)).await.record);
        }
        let price = NewPrice {
            model: ModelName::new("m"),
            digest: None,
            effective_from: Some(START.plus(Duration::from_hours(1))),
            price: Price::GpuTime { per_hour: NanoUsd::from_dollars(1), markup_percent: 100 },
        };
        let price = self.done(&price).await.record;
        let project = projects[0].id;
        let mut admins = Vec::new();
        for (name, role) in [
            ("platform", Role::PlatformAdmin),
            ("acme admin", Role::OrganizationAdmin { organization: acme.id }),
            ("finance", Role::Finance { organization: None }),
            ("acme finance", Role::Finance { organization: Some(acme.id) }),
            ("search member", Role::ProjectMember { project }),
            ("globex admin", Role::OrganizationAdmin { organization: globex.id }),
        ] {
            let admin = self.done(&NewAdmin { name: name.to_owned(), role }).await.record;
            admins.push((name, admin.id));
        }
        let (keys, end_users) = (keys.try_into().unwrap(), end_users.try_into().unwrap());
        People { acme, globex, projects, keys, end_users, price, admins }
    }

    /// Every record, as it is kept.
    pub(crate) async fn kept(&self) -> Vec<Record> {
        let mut records = self.tenants.changes(0).await.unwrap().records;
        records.sort_by_key(Record::id);
        records
    }

    /// The record as it is kept.
    pub(crate) async fn record<K: Kept>(&self, id: K::Id) -> Option<K> {
        let id = id.to_string();
        self.kept().await.iter().find(|record| record.id() == id).and_then(K::of).cloned()
    }

    /// Callers, as gateways know them.
    pub(crate) async fn directory(&self) -> Directory {
        let (tenants, clock) = (Arc::clone(&self.tenants) as _, Arc::clone(&self.clock) as _);
        Directory::open_with_clock(tenants, self.pepper.clone(), clock).await.unwrap()
    }
}

/// Where problems are, in order.
pub(crate) fn places(error: &RegistryError) -> Vec<&str> {
    let RegistryError::Invalid(problems) = error else { panic!("{error}") };
    problems.iter().map(|Problem { at, .. }| at.as_str()).collect()
}

pub(crate) const START: Timestamp = Timestamp::from_millis(1_780_000_000_000);
