//! The audit log: who sees which lines, and what is never in one.

use admission::tenancy::{
    Actor, AuditEntry, Key, KeyRotation, KeyUpdate, Listing, NewKey, NewOrganization, NewProject,
    OrganizationUpdate, PolicyPatch, Project, Role, Tenants as _, Terms, WebhookDraft,
};
use domain::Secret;

use crate::world::World;

async fn lines(world: &World) -> Vec<AuditEntry> {
    world.tenants.audit(0, u32::MAX).await.unwrap()
}

fn told(lines: &[AuditEntry]) -> Vec<(&str, &str)> {
    lines.iter().map(|line| (line.draft.action.as_str(), line.draft.outcome.as_str())).collect()
}

#[tokio::test]
async fn changes_and_refused_attempts_have_a_line_and_nothing_else_has() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, _) = world.key("first", project.id).await;
    let member = world.admin(Role::ProjectMember { project: project.id }).await;
    let before = lines(&world).await.len();
    let terms = Terms::default();
    let block = PolicyPatch { blocked: Some(true), ..PolicyPatch::default() };
    let block = KeyUpdate { policy: block, ..KeyUpdate::of(key.id) };
    let dry = Terms { dry_run: true, ..Terms::default() };
    let once = Terms { idempotency_key: Some("a".to_owned()), ..Terms::default() };

    // What is done, done again, refused.
    world.registry.change(member, &NewKey::called("second", project.id), &once).await.unwrap();
    world.registry.change(member, &NewKey::called("second", project.id), &once).await.unwrap();
    world.registry.change(member, &block, &terms).await.unwrap_err();
    world.registry.change(member, &NewKey::called("", project.id), &terms).await.unwrap_err();
    world.registry.read::<Project>(member, project.id).await.unwrap();
    world.registry.change(member, &KeyUpdate::of(key.id), &terms).await.unwrap();
    world.registry.change(member, &KeyRotation::of(key.id), &dry).await.unwrap();
    let organization = project.organization;
    world.registry.change(member, &NewProject::called("x", organization), &dry).await.unwrap_err();
    world
        .registry
        .list::<admission::tenancy::Organization>(member, &Listing::default())
        .await
        .unwrap_err();
    world.registry.read::<Key>(member, domain::KeyId::generate()).await.unwrap_err();

    let lines = lines(&world).await;
    let expected = [
        ("key.create", "done"),
        ("key.create", "replayed"),
        ("key.update", "forbidden"),
        ("key.create", "invalid"),
        ("project.create", "not_found"),
        ("organization.list", "forbidden"),
    ];
    assert_eq!(told(&lines[before..]), expected);
    let line = &lines[before + 2].draft;
    assert_eq!((&line.actor, &line.resource), (&member.to_string(), &key.id.to_string()));
    assert_eq!(line.organization, Some(organization));
    assert_eq!(line.detail["request"]["policy"]["blocked"], true);
    assert!(line.detail["reason"].as_str().unwrap().contains("govern"));
}

#[tokio::test]
async fn no_line_holds_a_secret() {
    let world = World::new();
    let hidden = "0123456789abcdef";
    let webhook = |secret: &str| {
        let secret = Some(Secret::new(secret.to_owned()));
        Some(WebhookDraft { url: "https://example.com".to_owned(), secret })
    };
    let request =
        NewOrganization { name: "acme".to_owned(), webhook: webhook(hidden), ..Default::default() };
    let acme = world.done(&request).await.record;
    let short = NewOrganization { webhook: webhook("hunter2"), ..request.clone() };
    world.refused(&short).await;
    let update = OrganizationUpdate {
        webhook: admission::tenancy::Patched::Set(webhook(hidden).unwrap()),
        name: Some(String::new()),
        ..OrganizationUpdate::of(acme.id)
    };
    world.refused(&update).await;
    let project = world.project("search", acme.id).await;
    let (key, secret) = world.key("first", project.id).await;
    let rotated = world.done(&KeyRotation::of(key.id)).await.secret.unwrap();

    let log = serde_json::to_string(&lines(&world).await).unwrap();

    for secret in [hidden, "hunter2", &secret.expose()[6..], &rotated.expose()[6..]] {
        assert!(!log.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn an_organization_sees_its_own_lines() {
    let world = World::new();
    let people = world.peopled().await;
    let admin = |wanted: &str| {
        let found = people.admins.iter().find(|(name, _)| *name == wanted).unwrap();
        Actor::Admin(found.1)
    };
    // An attempt from outside is the business of whose key it is.
    let rotation = KeyRotation::of(people.keys[0].id);
    world.registry.change(admin("globex admin"), &rotation, &Terms::default()).await.unwrap_err();

    let seen = all_lines(&world, admin("acme admin")).await;

    let all = lines(&world).await;
    assert_eq!(all_lines(&world, Actor::Local).await, all);
    let own: Vec<AuditEntry> =
        all.into_iter().filter(|line| line.draft.organization == Some(people.acme.id)).collect();
    assert_eq!(seen, own);
    let last = &seen.last().unwrap().draft;
    assert_eq!((last.action.as_str(), last.outcome.as_str()), ("key.rotate", "not_found"));
    world.registry.audit(admin("search member"), 0, 10).await.unwrap_err();
}

#[tokio::test]
async fn a_large_request_is_left_out_of_its_line() {
    let world = World::new();
    let request = NewOrganization { name: "n".repeat(1 << 20), ..NewOrganization::default() };

    world.refused(&request).await;

    let line = serde_json::to_string(&lines(&world).await[0]).unwrap();
    assert!(line.len() < 2_000 && line.contains("omitted_bytes"), "{}", line.len());
}

/// Every line the actor may see, by pages of two.
async fn all_lines(world: &World, actor: Actor) -> Vec<AuditEntry> {
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = world.registry.audit(actor, after, 2).await.unwrap();
        assert!(page.entries.len() <= 2);
        seen.extend(page.entries);
        let Some(next) = page.next else { return seen };
        after = next;
    }
}
