//! Tenants in SQLite.

use admission::{ApiKey, Budget, Limits, NewKey, Pepper, Place, Tenants};
use domain::{KeyId, ModelName, NanoUsd, ScopeId};

use crate::world::database;

fn new_key(name: &str, project: &str) -> NewKey {
    NewKey {
        name: name.to_owned(),
        project: project.to_owned(),
        digest: Pepper::generate().digest(&ApiKey::generate()),
        limits: Limits { requests_per_minute: Some(7), ..Limits::default() },
        budget: Some(Budget { amount: NanoUsd::from_dollars(2) }),
        models: vec![ModelName::new("a"), ModelName::new("b c")],
    }
}

#[tokio::test]
async fn a_key_reads_back_as_it_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = database(folder.path()).await;
    let key = new_key("first", "search");

    let made = tenants.create_key(key.clone()).await.unwrap();

    let again = database(folder.path()).await.snapshot().await.unwrap();
    assert_eq!(again.keys, vec![made.clone()]);
    assert_eq!((made.digest, &made.name, &made.models), (key.digest, &key.name, &key.models));
    let [_, _, place] = made.places;
    assert_eq!((place.limits, place.budget), (key.limits, key.budget));
}

#[tokio::test]
async fn keys_of_one_project_share_it_and_projects_are_apart() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = database(folder.path()).await;

    let first = tenants.create_key(new_key("1", "search")).await.unwrap().scope;
    let second = tenants.create_key(new_key("2", "search")).await.unwrap().scope;
    let third = tenants.create_key(new_key("3", "ads")).await.unwrap().scope;

    assert_eq!(first.project, second.project);
    assert_ne!(first.project, third.project);
    assert_eq!(first.organization, third.organization);
}

#[tokio::test]
async fn every_change_moves_the_revision() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = database(folder.path()).await;
    let mut before = tenants.revision().await.unwrap();
    let mut moved = async || {
        let now = tenants.revision().await.unwrap();
        std::mem::replace(&mut before, now) < now
    };

    let key = tenants.create_key(new_key("1", "search")).await.unwrap();
    assert!(moved().await, "a new key");
    assert!(tenants.revoke_key(key.scope.key).await.unwrap());
    assert!(moved().await, "a revoked key");
    let place = Place {
        scope: ScopeId::Project(key.scope.project),
        limits: Limits::default(),
        budget: Some(Budget { amount: NanoUsd::from_dollars(9) }),
    };
    assert!(tenants.set_place(&place).await.unwrap());
    assert!(moved().await, "a new budget");
    assert_eq!(tenants.snapshot().await.unwrap().keys[0].places[1], place);
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_since_the_first_time() {
    let folder = tempfile::tempdir().unwrap();
    let tenants = database(folder.path()).await;
    let key = tenants.create_key(new_key("1", "search")).await.unwrap().scope.key;

    tenants.revoke_key(key).await.unwrap();
    let first = tenants.snapshot().await.unwrap().keys[0].revoked_at;
    tenants.revoke_key(key).await.unwrap();

    assert!(first.is_some());
    assert_eq!(tenants.snapshot().await.unwrap().keys[0].revoked_at, first);
    assert!(!tenants.revoke_key(KeyId::generate()).await.unwrap(), "there is no such key");
}
