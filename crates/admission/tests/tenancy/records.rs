//! Records: names, versions, pages, and what cannot go.

use std::time::Duration;

use admission::tenancy::{
    Actor, AdminRevocation, AdminRotation, Amount, BudgetDraft, EndUserDeletion, Enforcement, Fate,
    Kept as _, Key, KeyRevocation, KeyUpdate, Listing, NewEndUser, NewOrganization, NewPrice,
    NewProject, Organization, OrganizationDeletion, OrganizationUpdate, Parent, Patched,
    PriceDeletion, ProjectDeletion, ProjectUpdate, Record, RegistryError, Role, Terms,
    WebhookDraft, Window,
};
use domain::{ModelName, NanoUsd, Price, ScopeId, Secret};

use crate::world::{START, World, places};

#[tokio::test]
async fn a_name_is_taken_where_it_must_be_unique() {
    let world = World::new();
    let acme = world.organization("acme").await;
    let globex = world.organization("globex").await;
    let search = world.project("search", acme.id).await;

    let same = NewOrganization { name: " acme ".to_owned(), ..NewOrganization::default() };
    let refused = world.refused(&same).await;
    assert!(
        matches!(&refused, RegistryError::NameTaken { by, .. } if *by == acme.id.to_string()),
        "{refused}"
    );
    let rename =
        OrganizationUpdate { name: Some("acme".to_owned()), ..OrganizationUpdate::of(globex.id) };
    assert!(matches!(world.refused(&rename).await, RegistryError::NameTaken { .. }));
    let refused = world.refused(&NewProject::called("search", acme.id)).await;
    assert!(matches!(refused, RegistryError::NameTaken { .. }), "{refused}");

    world.project("search", globex.id).await;
    let own = ProjectUpdate { name: Some("search".to_owned()), ..ProjectUpdate::of(search.id) };
    assert_eq!(world.done(&own).await.fate, Fate::Unchanged);
}

#[tokio::test]
async fn an_end_user_is_the_same_wherever_it_is_derived_and_made_once() {
    let world = World::new();
    let acme = world.organization("acme").await;
    let projects =
        [world.project("search", acme.id).await.id, world.project("ads", acme.id).await.id];
    let ann = |project| NewEndUser::called("ann", project);

    let made = world.done(&ann(projects[0])).await.record;
    let elsewhere = world.done(&ann(projects[1])).await.record;
    let refused = world.refused(&ann(projects[0])).await;

    assert_eq!(made.id, admission::tenancy::EndUser::id_of(projects[0], "ann"));
    assert_ne!(made.id, elsewhere.id);
    assert!(matches!(refused, RegistryError::NameTaken { .. }), "{refused}");
    world.done(&EndUserDeletion { end_user: made.id }).await;
    assert_eq!(world.done(&ann(projects[0])).await.record.id, made.id);
}

#[tokio::test]
async fn a_change_of_another_version_than_was_seen_is_refused() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let rename =
        |name: &str| ProjectUpdate { name: Some(name.to_owned()), ..ProjectUpdate::of(project.id) };
    let seen = |version| Terms { expected_version: Some(version), ..Terms::default() };

    let first = world.registry.change(Actor::Local, &rename("one"), &seen(1)).await.unwrap();
    let late = world.registry.change(Actor::Local, &rename("two"), &seen(1)).await.unwrap_err();

    assert_eq!(first.record.version, 2);
    let expected = (1, 2);
    assert!(
        matches!(late, RegistryError::VersionMoved { expected: seen, current, .. } if (seen, current) == expected),
        "{late}"
    );
    world.registry.change(Actor::Local, &rename("two"), &seen(2)).await.unwrap();
}

#[tokio::test]
async fn a_change_of_nothing_leaves_the_version() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, _) = world.key("first", project.id).await;

    let changed = world.done(&KeyUpdate::of(key.id)).await;

    assert_eq!((changed.fate, changed.record.version), (Fate::Unchanged, 1));
}

#[tokio::test]
async fn what_the_ledger_names_stays() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, _) = world.key("first", project.id).await;
    world.done(&KeyRevocation { key: key.id }).await;

    let refused = world.refused(&ProjectDeletion { project: project.id }).await;
    assert!(refused.to_string().contains("1 keys"), "{refused}");
    let organization = project.organization;
    let refused = world.refused(&OrganizationDeletion { organization }).await;
    assert!(refused.to_string().contains("1 projects"), "{refused}");
}

#[tokio::test]
async fn what_is_empty_can_go() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let member = Role::ProjectMember { project: project.id };
    let organization = project.organization;
    let Actor::Admin(admin) = world.admin(member).await else { panic!("an admin") };

    let refused = world.refused(&ProjectDeletion { project: project.id }).await;
    assert!(refused.to_string().contains("1 administrators"), "{refused}");
    world.done(&AdminRevocation { admin }).await;
    world.done(&ProjectDeletion { project: project.id }).await;
    world.done(&OrganizationDeletion { organization }).await;

    let left: Vec<String> = world.kept().await.iter().map(Record::id).collect();
    assert_eq!(left, [admin.to_string()], "who administered it is on record");
}

#[tokio::test]
async fn the_last_platform_admin_cannot_go() {
    let world = World::new();
    let Actor::Admin(first) = world.admin(Role::PlatformAdmin).await else { panic!("an admin") };

    let refused = world.refused(&AdminRevocation { admin: first }).await;
    assert!(matches!(refused, RegistryError::Conflict { .. }), "{refused}");
    world.admin(Role::PlatformAdmin).await;
    world.done(&AdminRevocation { admin: first }).await;

    let refused = world.refused(&AdminRotation { admin: first }).await;
    assert!(matches!(refused, RegistryError::Revoked { .. }), "{refused}");
    let nobody = world.registry.role(Actor::Admin(first)).await.unwrap_err();
    assert!(matches!(nobody, RegistryError::UnknownActor { .. }), "{nobody}");
}

#[tokio::test]
async fn a_price_that_has_begun_stays() {
    let world = World::new();
    let price = |effective_from| NewPrice {
        model: ModelName::new("m"),
        digest: None,
        effective_from,
        price: Price::GpuTime { per_hour: NanoUsd::from_dollars(1), markup_percent: 100 },
    };
    let later = START.plus(Duration::from_hours(1));

    let now = world.done(&price(None)).await.record;
    let next = world.done(&price(Some(later))).await.record;
    let refused = world.refused(&price(Some(later))).await;
    assert!(matches!(refused, RegistryError::Conflict { .. }), "{refused}");
    let refused = world.refused(&PriceDeletion { price: now.id }).await;
    assert!(matches!(refused, RegistryError::Conflict { .. }), "{refused}");
    world.done(&PriceDeletion { price: next.id }).await;
    world.clock.advance(Duration::from_hours(2));
    assert_eq!(places(&world.refused(&price(Some(later))).await), ["effective_from"]);
}

#[tokio::test]
async fn a_webhook_keeps_its_secret_when_only_its_address_changes() {
    let world = World::new();
    let acme = world.organization("acme").await;
    let webhook = |url: &str, secret: Option<&str>| OrganizationUpdate {
        webhook: Patched::Set(WebhookDraft {
            url: url.to_owned(),
            secret: secret.map(|secret| Secret::new(secret.to_owned())),
        }),
        ..OrganizationUpdate::of(acme.id)
    };

    let refused = world.refused(&webhook("https://a.example", None)).await;
    world.done(&webhook("https://a.example", Some("0123456789abcdef"))).await;
    world.done(&webhook("https://b.example", None)).await;

    assert_eq!(places(&refused), ["webhook.secret"]);
    let kept = world.record::<Organization>(acme.id).await.unwrap().webhook.unwrap();
    assert_eq!(
        (kept.url.as_str(), kept.secret.expose().as_str()),
        ("https://b.example", "0123456789abcdef")
    );
    let cleared =
        OrganizationUpdate { webhook: Patched::Cleared, ..OrganizationUpdate::of(acme.id) };
    assert!(world.done(&cleared).await.record.webhook.is_none());
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let world = World::new();
    let acme = world.organization("acme").await;
    let projects =
        [world.project("search", acme.id).await.id, world.project("ads", acme.id).await.id];
    let mut made = Vec::new();
    for number in 0..7 {
        made.push(world.key(&format!("key {number}"), projects[number % 2]).await.0.id);
    }

    let mut seen = Vec::new();
    let mut listing = Listing { limit: 3, ..Listing::default() };
    loop {
        let page = world.registry.list::<Key>(Actor::Local, &listing).await.unwrap();
        assert!(page.records.len() == 3 || page.next.is_none());
        seen.extend(page.records.iter().map(|key| key.id));
        let Some(next) = page.next else { break };
        listing.after = Some(next);
    }

    assert_eq!(seen, made);
    let within = Some(Parent::Project(projects[1]));
    let listing = Listing { within, ..Listing::default() };
    let page = world.registry.list::<Key>(Actor::Local, &listing).await.unwrap();
    assert!(page.records.len() == 3 && page.records.iter().all(|key| key.project == projects[1]));
    let within = Some(Parent::Organization(acme.id));
    let listing = Listing { within, name: Some("key 4".to_owned()), ..Listing::default() };
    let page = world.registry.list::<Key>(Actor::Local, &listing).await.unwrap();
    assert!(page.records.len() == 1 && page.records[0].name() == "key 4");
}

#[tokio::test]
async fn a_listing_that_makes_no_sense_is_refused() {
    let world = World::new();
    let acme = world.organization("acme").await;
    let listing = Listing {
        within: Some(Parent::Organization(acme.id)),
        after: Some("key_1".to_owned()),
        limit: 0,
        name: None,
    };

    let refused = world.registry.list::<Organization>(Actor::Local, &listing).await.unwrap_err();

    assert_eq!(places(&refused), ["limit", "after", "within"]);
}

#[tokio::test]
async fn what_stands_at_a_scope_is_told_with_the_account_of_each_budget() {
    let world = World::new();
    let people = world.peopled().await;
    let budget = |enforcement| BudgetDraft {
        id: None,
        amount: Amount::Tokens(5),
        window: Window::Day,
        enforcement,
        alert_percent: Vec::new(),
        model: None,
    };
    let key = people.keys[0].id;
    let mut update = KeyUpdate::of(key);
    update.policy.budgets = Some(vec![budget(Enforcement::Soft), budget(Enforcement::Hard)]);
    let policy = world.done(&update).await.record.policy;

    let (_, member) = people.admins.iter().find(|(name, _)| *name == "search member").unwrap();
    let member = Actor::Admin(*member);
    let standing = world.registry.standing(member, ScopeId::Key(key)).await.unwrap();

    assert_eq!((standing.organization, &standing.policy), (people.acme.id, &policy));
    let accounts: Vec<_> = standing.claims.iter().map(|claim| claim.account.rule).collect();
    assert_eq!(accounts, [policy.budgets[0].id, policy.budgets[1].id]);
    assert!(standing.claims.iter().all(|claim| claim.bounds.start <= START));
    let organization = ScopeId::Organization(people.acme.id);
    for hidden in [organization, ScopeId::Key(people.keys[1].id)] {
        let refused = world.registry.standing(member, hidden).await.unwrap_err();
        assert!(matches!(refused, RegistryError::NotFound { .. }), "{refused}");
    }
}
