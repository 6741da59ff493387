//! Two registries on one store, taking turns at every step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use admission::tenancy::{
    Actor, Admin, AdminRevocation, AuditDraft, AuditEntry, Change, Changes, Committed, Fate,
    Idempotency, Kept as _, Key, MemoryTenants, NewKey, NewOrganization, NewProject, Organization,
    Project, ProjectUpdate, Record, Registry, RegistryError, Role, Tenants, Terms,
};
use admission::{Pepper, StoreError};
use async_trait::async_trait;
use domain::{Clock, ManualClock, Timestamp};
use tokio::task::JoinSet;

use crate::world::START;

/// Tenants that let somebody else go first, at every call.
struct Polite {
    tenants: MemoryTenants,
    /// So many commits are outdated whatever they say.
    outdated: AtomicU32,
}

#[async_trait]
impl Tenants for Polite {
    async fn revision(&self) -> Result<u64, StoreError> {
        tokio::task::yield_now().await;
        self.tenants.revision().await
    }

    async fn changes(&self, after: u64) -> Result<Changes, StoreError> {
        tokio::task::yield_now().await;
        self.tenants.changes(after).await
    }

    async fn commit(&self, change: &Change) -> Result<Committed, StoreError> {
        tokio::task::yield_now().await;
        let less = |left: u32| left.checked_sub(1);
        if self.outdated.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Ok(Committed::Outdated);
        }
        self.tenants.commit(change).await
    }

    async fn note(&self, draft: &AuditDraft) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        self.tenants.note(draft).await
    }

    async fn answered(&self, key: &str, now: Timestamp) -> Result<Option<Idempotency>, StoreError> {
        tokio::task::yield_now().await;
        self.tenants.answered(key, now).await
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        self.tenants.audit(after, limit).await
    }
}

/// Two gateways of one installation.
fn two_registries() -> (Arc<Polite>, [Arc<Registry>; 2]) {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(START));
    let tenants = MemoryTenants::new(Arc::clone(&clock));
    let tenants = Arc::new(Polite { tenants, outdated: AtomicU32::new(0) });
    let pepper = Pepper::generate();
    let registry =
        || Arc::new(Registry::new(Arc::clone(&tenants) as _, pepper.clone(), Arc::clone(&clock)));
    let registries = [registry(), registry()];
    (tenants, registries)
}

async fn project(registry: &Registry) -> Project {
    let acme = NewOrganization { name: "acme".to_owned(), ..NewOrganization::default() };
    let acme = registry.change(Actor::Local, &acme, &Terms::default()).await.unwrap().record;
    let project = NewProject::called("search", acme.id);
    registry.change(Actor::Local, &project, &Terms::default()).await.unwrap().record
}

#[tokio::test]
async fn one_of_many_gets_a_name() {
    let (tenants, registries) = two_registries();
    let organization = project(&registries[0]).await.organization;
    let mut tasks = JoinSet::new();
    for number in 0..24 {
        let registry = Arc::clone(&registries[number % 2]);
        let request = NewProject::called(format!("name {}", number % 3), organization);
        tasks
            .spawn(async move { registry.change(Actor::Local, &request, &Terms::default()).await });
    }

    let results = tasks.join_all().await;

    let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (3, 21));
    let is_taken =
        |result: &Result<_, RegistryError>| matches!(result, Err(RegistryError::NameTaken { .. }));
    assert!(refused.iter().all(is_taken));
    let lines = tenants.audit(0, 100).await.unwrap();
    assert_eq!(lines.len(), 2 + 24, "each attempt has its line");
    assert!(lines[1..].iter().zip(&lines).all(|(line, last)| line.follows(Some(last))));
}

#[tokio::test]
async fn nobody_overwrites_what_somebody_else_just_wrote() {
    let (_, registries) = two_registries();
    let project = project(&registries[0]).await;
    let mut tasks = JoinSet::new();
    for number in 0..12 {
        let registry = Arc::clone(&registries[number % 2]);
        let id = project.id;
        tasks.spawn(async move {
            // Reads a counter and writes it back one higher, until nobody came between.
            loop {
                let seen = registry.read::<Project>(Actor::Local, id).await.unwrap();
                let count: u32 = seen.metadata.get("count").map_or(0, |text| text.parse().unwrap());
                let words = [("count".to_owned(), Some((count + 1).to_string()))];
                let metadata = words.into_iter().collect();
                let request = ProjectUpdate { metadata, ..ProjectUpdate::of(id) };
                let expected_version = Some(seen.version);
                let terms = Terms { expected_version, ..Terms::default() };
                match registry.change(Actor::Local, &request, &terms).await {
                    Ok(_) => return,
                    Err(RegistryError::VersionMoved { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }

    tasks.join_all().await;

    let counted = registries[1].read::<Project>(Actor::Local, project.id).await.unwrap();
    assert_eq!(counted.metadata["count"], "12");
    assert_eq!(counted.version, 13);
}

#[tokio::test]
async fn one_idempotency_key_makes_one_key_with_one_secret() {
    let (tenants, registries) = two_registries();
    let project = project(&registries[0]).await;
    let mut tasks = JoinSet::new();
    for number in 0..8 {
        let registry = Arc::clone(&registries[number % 2]);
        let request = NewKey::called("first", project.id);
        let terms = Terms { idempotency_key: Some("a".to_owned()), ..Terms::default() };
        tasks.spawn(async move {
            let made = registry.change(Actor::Local, &request, &terms).await.unwrap();
            (made.fate, made.record.id, made.secret.unwrap().expose().to_owned())
        });
    }

    let made = tasks.join_all().await;

    assert_eq!(made.iter().filter(|(fate, ..)| *fate == Fate::Done).count(), 1);
    assert!(made.iter().all(|(_, id, secret)| (id, secret) == (&made[0].1, &made[0].2)));
    let records = tenants.changes(0).await.unwrap().records;
    assert_eq!(records.iter().filter_map(Key::of).count(), 1);
}

#[tokio::test]
async fn two_gateways_that_start_together_establish_one_installation() {
    let (tenants, registries) = two_registries();
    let [first, second] =
        registries.map(|registry| tokio::spawn(async move { registry.establish().await.unwrap() }));

    let made = [first.await.unwrap(), second.await.unwrap()];

    assert_eq!(made.iter().filter(|made| made.admin.is_some()).count(), 1);
    assert_eq!(made[0].project.id, made[1].project.id);
    let records = tenants.changes(0).await.unwrap().records;
    let counts = [
        records.iter().filter_map(Organization::of).count(),
        records.iter().filter_map(Project::of).count(),
        records.iter().filter_map(Admin::of).count(),
    ];
    assert_eq!(counts, [1, 1, 1]);
}

#[tokio::test]
async fn an_administrator_that_is_revoked_elsewhere_changes_nothing_any_more() {
    let (_, [here, there]) = two_registries();
    let project = project(&here).await;
    let role = Role::ProjectMember { project: project.id };
    let member = admission::tenancy::NewAdmin { name: "member".to_owned(), role };
    let member = here.change(Actor::Local, &member, &Terms::default()).await.unwrap().record.id;
    let request = NewKey::called("first", project.id);
    here.change(Actor::Admin(member), &request, &Terms::default()).await.unwrap();

    let revocation = AdminRevocation { admin: member };
    there.change(Actor::Local, &revocation, &Terms::default()).await.unwrap();

    let refused = here.change(Actor::Admin(member), &request, &Terms::default()).await.unwrap_err();
    assert!(matches!(refused, RegistryError::UnknownActor { .. }), "{refused}");
}

#[tokio::test]
async fn who_is_always_too_late_gives_up() {
    let (tenants, [registry, _]) = two_registries();
    let request = NewOrganization { name: "acme".to_owned(), ..NewOrganization::default() };

    tenants.outdated.store(15, Ordering::SeqCst);
    registry.change(Actor::Local, &request, &Terms::default()).await.unwrap();
    tenants.outdated.store(16, Ordering::SeqCst);
    let other = NewOrganization { name: "globex".to_owned(), ..NewOrganization::default() };
    let refused = registry.change(Actor::Local, &other, &Terms::default()).await.unwrap_err();

    assert!(matches!(refused, RegistryError::Contended), "{refused}");
    let records = tenants.changes(0).await.unwrap().records;
    assert!(matches!(records.as_slice(), [Record::Organization(_)]));
}
