//! Idempotency keys: once done, told again, never something else.

use std::time::Duration;

use admission::tenancy::{
    Actor, Fate, Key, KeyRevocation, NewKey, NewOrganization, NewProject, Organization,
    ProjectDeletion, RegistryError, Role, Tenants as _, Terms, WebhookDraft,
};
use admission::{ApiKey, Pepper};
use domain::Secret;

use crate::world::{START, World, places};

fn once(key: &str) -> Terms {
    Terms { idempotency_key: Some(key.to_owned()), ..Terms::default() }
}

fn text(secret: Option<&ApiKey>) -> String {
    secret.expect("there is a secret").expose().to_owned()
}

#[tokio::test]
async fn a_repeated_request_is_done_once_and_tells_its_secret_again() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let request = NewKey::called("first", project.id);

    let first = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();
    let again = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();

    assert_eq!((first.fate, again.fate), (Fate::Done, Fate::Replayed));
    assert_eq!(again.record, first.record);
    assert_eq!(text(again.secret.as_ref()), text(first.secret.as_ref()));
    let digest = world.record::<Key>(first.record.id).await.unwrap().digest;
    assert_eq!(world.pepper.digest(&again.secret.unwrap()), digest);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let request = NewKey::called("first", project.id);
    let made = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();

    let renamed = NewKey::called("second", project.id);
    let revocation = KeyRevocation { key: made.record.id };
    let refused = [
        world.registry.change(Actor::Local, &renamed, &once("a")).await.unwrap_err(),
        world.registry.change(Actor::Local, &revocation, &once("a")).await.unwrap_err(),
    ];

    for error in refused {
        assert!(
            matches!(&error, RegistryError::RepetitionDiffers { key } if key == "a"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_secret_that_differs_makes_another_request() {
    let world = World::new();
    let webhook = |secret: &str| {
        let secret = Some(Secret::new(secret.to_owned()));
        Some(WebhookDraft { url: "https://example.com".to_owned(), secret })
    };
    let request = |webhook| NewOrganization {
        name: "acme".to_owned(),
        webhook,
        ..NewOrganization::default()
    };
    let first = request(webhook("0123456789abcdef"));
    world.registry.change(Actor::Local, &first, &once("a")).await.unwrap();

    let second = request(webhook("fedcba9876543210"));
    let refused = world.registry.change(Actor::Local, &second, &once("a")).await.unwrap_err();

    assert!(matches!(refused, RegistryError::RepetitionDiffers { .. }), "{refused}");
}

#[tokio::test]
async fn keys_of_two_administrators_are_apart() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let member = world.admin(Role::ProjectMember { project: project.id }).await;
    let request = NewKey::called("first", project.id);

    let first = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();
    let second = world.registry.change(member, &request, &once("a")).await.unwrap();

    assert_eq!(second.fate, Fate::Done);
    assert_ne!(first.record.id, second.record.id);
    assert_ne!(text(first.secret.as_ref()), text(second.secret.as_ref()));
}

#[tokio::test]
async fn after_a_day_the_same_key_means_a_new_request() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let request = NewKey::called("first", project.id);

    let first = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();
    world.clock.advance(Duration::from_hours(24));
    let second = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();

    assert_eq!(second.fate, Fate::Done);
    assert_ne!(text(first.secret.as_ref()), text(second.secret.as_ref()));
}

#[tokio::test]
async fn a_refusal_leaves_the_key_free() {
    let world = World::new();
    let acme = world.organization("acme").await;
    let blank = NewProject::called(" ", acme.id);
    let good = NewProject::called("search", acme.id);

    let refused = world.registry.change(Actor::Local, &blank, &once("a")).await.unwrap_err();
    let made = world.registry.change(Actor::Local, &good, &once("a")).await.unwrap();

    assert_eq!(places(&refused), ["name"]);
    assert_eq!(made.fate, Fate::Done);
}

#[tokio::test]
async fn a_deletion_can_be_repeated() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let deletion = ProjectDeletion { project: project.id };

    world.registry.change(Actor::Local, &deletion, &once("a")).await.unwrap();
    let again = world.registry.change(Actor::Local, &deletion, &once("a")).await.unwrap();

    assert_eq!((again.fate, again.record.id), (Fate::Replayed, project.id));
    let refused = world.refused(&deletion).await;
    assert!(matches!(refused, RegistryError::NotFound { .. }), "{refused}");
}

#[tokio::test]
async fn a_dry_run_uses_no_key_up() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let request = NewKey::called("first", project.id);

    let dry = Terms { dry_run: true, ..once("a") };
    let planned = world.registry.change(Actor::Local, &request, &dry).await.unwrap();
    let made = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();

    assert_eq!((planned.fate, made.fate), (Fate::Planned, Fate::Done));
    assert!(planned.secret.is_none());
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let world = World::new();
    let request = NewOrganization { name: "acme".to_owned(), ..NewOrganization::default() };
    for key in ["", "two words", "line\nbreak", "\u{e4}", &"k".repeat(256)] {
        let refused = world.registry.change(Actor::Local, &request, &once(key)).await.unwrap_err();
        assert_eq!(places(&refused), ["idempotency_key"]);
    }
}

#[tokio::test]
async fn what_is_kept_of_an_answer_tells_no_secret_without_the_pepper() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let request = NewKey::called("first", project.id);
    let made = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();
    let secret = text(made.secret.as_ref());

    let kept = world.tenants.answered("local a", START).await.unwrap().expect("the answer is kept");

    assert!(!format!("{kept:?}").contains(&secret[6..]));
    // Who has the database and another pepper gets another secret out of it.
    let thief = admission::tenancy::Registry::new(
        std::sync::Arc::clone(&world.tenants) as _,
        Pepper::generate(),
        std::sync::Arc::clone(&world.clock) as _,
    );
    let refused = thief.change(Actor::Local, &request, &once("a")).await.unwrap_err();
    assert!(matches!(refused, RegistryError::RepetitionDiffers { .. }), "{refused}");
}

#[tokio::test]
async fn a_replayed_organization_does_not_show_its_webhook_secret() {
    let world = World::new();
    let secret = "0123456789abcdef";
    let webhook = WebhookDraft {
        url: "https://example.com".to_owned(),
        secret: Some(Secret::new(secret.to_owned())),
    };
    let request = NewOrganization {
        name: "acme".to_owned(),
        webhook: Some(webhook),
        ..NewOrganization::default()
    };

    let first = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();
    let again = world.registry.change(Actor::Local, &request, &once("a")).await.unwrap();
    let read: Organization = world.registry.read(Actor::Local, first.record.id).await.unwrap();

    for shown in [&first.record, &again.record, &read] {
        assert_eq!(shown.webhook.as_ref().unwrap().secret.expose(), "");
    }
    let kept: Organization = world.record(first.record.id).await.unwrap();
    assert_eq!(kept.webhook.unwrap().secret.expose(), secret);
    let answer = world.tenants.answered("local a", START).await.unwrap().unwrap();
    assert!(!answer.response.to_string().contains(secret));
}
