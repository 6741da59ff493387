//! Secrets of keys: made, rotated, revoked, as gateways see them.

use std::time::Duration;

use admission::tenancy::{Actor, Fate, Key, KeyRevocation, KeyRotation, RegistryError, Terms};
use admission::{AdmitError, ApiKey, Directory};

use crate::world::World;

fn is_good(directory: &Directory, secret: &ApiKey) -> bool {
    directory.identify(secret.expose()).is_ok()
}

#[tokio::test]
async fn a_new_key_is_good_and_only_its_digest_is_kept() {
    let world = World::new();
    let project = world.project_of_acme().await;

    let (key, secret) = world.key("first", project.id).await;

    let caller = world.directory().await.identify(secret.expose()).unwrap();
    assert_eq!(caller.scope().key, key.id);
    let kept = serde_json::to_string(&world.kept().await).unwrap();
    assert!(!kept.contains(&secret.expose()[6..]));
}

#[tokio::test]
async fn an_old_secret_is_good_until_its_grace_is_over() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, old) = world.key("first", project.id).await;

    let rotated = world.done(&KeyRotation::of(key.id)).await;
    let new = rotated.secret.unwrap();

    assert_eq!((rotated.record.id, rotated.record.version), (key.id, 2));
    let directory = world.directory().await;
    assert!(is_good(&directory, &old) && is_good(&directory, &new));
    world.clock.advance(KeyRotation::DEFAULT_GRACE.saturating_sub(Duration::from_millis(1)));
    assert!(is_good(&directory, &old));
    world.clock.advance(Duration::from_millis(1));
    assert!(is_good(&directory, &new));
    let refused = directory.identify(old.expose()).unwrap_err();
    assert!(matches!(refused, AdmitError::KeyRotated { key: id } if id == key.id), "{refused}");
}

#[tokio::test]
async fn a_second_rotation_does_not_cut_the_grace_of_the_first() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, oldest) = world.key("first", project.id).await;

    let old = world.done(&KeyRotation::of(key.id)).await.secret.unwrap();
    let new = world.done(&KeyRotation::of(key.id)).await.secret.unwrap();

    let directory = world.directory().await;
    assert!([&oldest, &old, &new].into_iter().all(|secret| is_good(&directory, secret)));
}

#[tokio::test]
async fn a_rotation_without_grace_ends_every_older_secret() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, oldest) = world.key("first", project.id).await;
    let old = world.done(&KeyRotation::of(key.id)).await.secret.unwrap();

    let leak = KeyRotation { grace: Duration::ZERO, ..KeyRotation::of(key.id) };
    let new = world.done(&leak).await.secret.unwrap();

    let directory = world.directory().await;
    assert!(!is_good(&directory, &oldest) && !is_good(&directory, &old));
    assert!(is_good(&directory, &new));
}

#[tokio::test]
async fn old_secrets_that_are_still_good_are_few() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, _) = world.key("first", project.id).await;

    for _ in 0..8 {
        world.done(&KeyRotation::of(key.id)).await;
    }
    let refused = world.refused(&KeyRotation::of(key.id)).await;

    assert!(matches!(refused, RegistryError::Conflict { .. }), "{refused}");
    world.clock.advance(KeyRotation::DEFAULT_GRACE);
    world.done(&KeyRotation::of(key.id)).await;
    assert_eq!(world.record::<Key>(key.id).await.unwrap().retiring.len(), 1);
}

#[tokio::test]
async fn a_rotation_of_the_same_name_is_done_once_and_told_again_for_a_day() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, _) = world.key("first", project.id).await;
    let rotation = KeyRotation { rotation: Some("june".to_owned()), ..KeyRotation::of(key.id) };

    let first = world.done(&rotation).await;
    let again = world.done(&rotation).await;
    world.clock.advance(Duration::from_hours(24));
    let later = world.done(&rotation).await;

    assert_eq!((first.fate, again.fate, later.fate), (Fate::Done, Fate::Replayed, Fate::Unchanged));
    let text = |secret: Option<ApiKey>| secret.map(|secret| secret.expose().to_owned());
    assert_eq!(text(again.secret), text(first.secret));
    assert!(later.secret.is_none(), "after a day nobody knows it any more");
    assert_eq!(world.record::<Key>(key.id).await.unwrap().version, 2);
}

#[tokio::test]
async fn the_same_name_for_rotations_of_two_keys_means_two_rotations() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (first, _) = world.key("first", project.id).await;
    let (second, _) = world.key("second", project.id).await;

    for key in [first.id, second.id] {
        let rotation = KeyRotation { rotation: Some("june".to_owned()), ..KeyRotation::of(key) };
        assert_eq!(world.done(&rotation).await.fate, Fate::Done);
    }
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_since_the_first_time() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, secret) = world.key("first", project.id).await;
    let old = world.done(&KeyRotation::of(key.id)).await.secret.unwrap();

    let first = world.done(&KeyRevocation { key: key.id }).await;
    world.clock.advance(Duration::from_secs(9));
    let again = world.done(&KeyRevocation { key: key.id }).await;

    assert_eq!((first.fate, again.fate), (Fate::Done, Fate::Unchanged));
    assert_eq!(again.record.revoked_at, first.record.revoked_at);
    let directory = world.directory().await;
    for secret in [secret, old] {
        let refused = directory.identify(secret.expose()).unwrap_err();
        assert!(matches!(refused, AdmitError::KeyRevoked { .. }), "{refused}");
    }
    let refused = world.refused(&KeyRotation::of(key.id)).await;
    assert!(matches!(refused, RegistryError::Revoked { .. }), "{refused}");
}

#[tokio::test]
async fn a_rotation_that_is_only_planned_tells_no_secret() {
    let world = World::new();
    let project = world.project_of_acme().await;
    let (key, old) = world.key("first", project.id).await;
    let terms = Terms { dry_run: true, ..Terms::default() };

    let planned = world.registry.change(Actor::Local, &KeyRotation::of(key.id), &terms).await;

    let planned = planned.unwrap();
    assert_eq!((planned.fate, planned.secret.is_none()), (Fate::Planned, true));
    assert!(is_good(&world.directory().await, &old));
    assert_eq!(world.record::<Key>(key.id).await.unwrap().version, 1);
}
