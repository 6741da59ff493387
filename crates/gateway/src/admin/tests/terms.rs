//! Versions, idempotency keys and dry runs.

use axum::http::Method;
use serde_json::{Value, json};

use super::world::World;

#[tokio::test]
async fn a_record_is_changed_at_the_version_that_was_seen_and_at_no_other() {
    let world = World::new().await;
    let path = format!("/admin/v1/projects/{}", world.people.projects[0].id);
    let rename = |name: &str| world.patch(path.as_str(), &json!({ "name": name }));
    let seen = world.get(path.as_str()).send().await.is(200).tag();
    assert_eq!(seen, "\"1\"");

    let changed = rename("find").with("if-match", &seen).send().await.is(200);
    assert_eq!(changed.tag(), "\"2\"");
    assert_eq!(changed.json()["name"], "find");

    let late = rename("seek").with("if-match", &seen).send().await.is(412);
    assert_eq!(late.json()["code"], "version_moved");
    for foreign in ["W/\"2\"", "2", "\"02\"", "\"\"", "\"2\", \"3\"", "\"two\""] {
        rename("seek").with("if-match", foreign).send().await.is(412);
    }
    let forced = rename("seek").with("if-match", "*").send().await.is(200);
    assert_eq!(forced.tag(), "\"3\"");
}

#[tokio::test]
async fn a_change_that_does_not_say_what_was_seen_is_refused() {
    let world = World::new().await;
    let people = &world.people;
    let changes = [
        (Method::PATCH, format!("organizations/{}", people.acme.id)),
        (Method::DELETE, format!("organizations/{}", people.vacant.id)),
        (Method::PATCH, format!("projects/{}", people.projects[0].id)),
        (Method::DELETE, format!("projects/{}", people.idle.id)),
        (Method::PATCH, format!("end_users/{}", people.end_user.id)),
        (Method::DELETE, format!("end_users/{}", people.end_user.id)),
        (Method::PATCH, format!("keys/{}", people.keys[0].id)),
        (Method::POST, format!("keys/{}/rotate", people.keys[0].id)),
        (Method::POST, format!("keys/{}/revoke", people.keys[0].id)),
        (Method::PATCH, format!("admins/{}", people.others[0])),
        (Method::POST, format!("admins/{}/rotate", people.others[0])),
        (Method::POST, format!("admins/{}/revoke", people.others[0])),
        (Method::DELETE, format!("prices/{}", people.price.id)),
    ];
    for (method, path) in changes {
        let answered = world.ask(method, format!("/admin/v1/{path}")).send().await.is(428);
        assert_eq!(answered.json()["code"], "precondition_required", "{path}");
    }
}

#[tokio::test]
async fn a_reader_who_knows_the_version_gets_no_body() {
    let world = World::new().await;
    let path = format!("/admin/v1/organizations/{}", world.people.acme.id);
    let read = |tag: &str| world.get(path.as_str()).with("if-none-match", tag);

    for known in ["\"1\"", "W/\"1\"", "*", "\"7\", \"1\""] {
        let answered = read(known).send().await.is(304);
        assert_eq!((answered.text.as_str(), answered.tag().as_str()), ("", "\"1\""));
    }
    read("\"2\"").send().await.is(200);
}

#[tokio::test]
async fn the_same_change_under_the_same_key_is_done_once_and_answered_alike() {
    let world = World::new().await;
    let body = json!({ "project": world.people.projects[0].id, "name": "ci" });
    let make = |body: &Value| world.post("/admin/v1/keys", body).with("idempotency-key", "k-1");

    let first = make(&body).send().await.is(201);
    let again = make(&body).send().await.is(201);

    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json(), again.json(), "the secret included");
    assert!(first.json()["api_key"].as_str().unwrap().starts_with("sk-tg-"));
    assert_eq!(first.header("location"), again.header("location"));
    let listed = world.get("/admin/v1/keys?name=ci").send().await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);

    let other = make(&json!({ "project": world.people.projects[0].id, "name": "cd" }));
    assert_eq!(other.send().await.is(422).json()["code"], "repetition_differs");
    let bad = world.post("/admin/v1/keys", &body).with("idempotency-key", "two words");
    bad.send().await.is(422);
}

#[tokio::test]
async fn a_rotation_that_is_repeated_shows_the_same_secret_though_the_version_moved() {
    let world = World::new().await;
    let path = format!("/admin/v1/keys/{}/rotate", world.people.keys[0].id);
    let body = json!({ "rotation_id": "spring", "grace_seconds": 60 });
    let rotate = || world.post(path.as_str(), &body).with("if-match", "\"1\"");

    let first = rotate().send().await.is(200);
    let again = rotate().send().await.is(200);

    assert_eq!(first.json()["api_key"], again.json()["api_key"]);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json()["rotation_id"], "spring");
    assert_eq!(first.json()["retiring_until"], json!(["2026-05-28T20:01:00Z"]));
}

#[tokio::test]
async fn a_rotation_needs_no_body_and_leaves_the_old_secret_good_for_a_day() {
    let world = World::new().await;
    let path = format!("/admin/v1/keys/{}/rotate", world.people.keys[0].id);
    let rotate = || world.ask(Method::POST, path.as_str()).with("if-match", "*");

    let bare = rotate().send().await.is(200).json();
    let null = rotate().json(&Value::Null).send().await.is(200).json();

    assert_ne!(bare["api_key"], null["api_key"]);
    assert_eq!(bare["retiring_until"], json!(["2026-05-29T20:00:00Z"]));
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let world = World::new().await;
    let before = world.pages("/admin/v1/organizations?limit=100").await;
    let audited = world.pages("/admin/v1/audit?limit=1000").await;

    let made = world.post("/admin/v1/organizations?dry_run=true", &json!({ "name": "new" }));
    let made = made.send().await.is(200);
    assert_eq!((made.header("dry-run"), made.header("location")), (Some("true"), None));
    assert_eq!(made.json()["name"], "new");
    let vacant = format!("/admin/v1/organizations/{}?dry_run=true", world.people.vacant.id);
    world.ask(Method::DELETE, vacant).with("if-match", "*").send().await.is(200);
    let body = json!({ "project": world.people.projects[0].id, "name": "n" });
    let key = world.post("/admin/v1/keys?dry_run=true", &body).send().await.is(200).json();
    assert_eq!(key.get("api_key"), None, "a key that is not there has no secret");
    world
        .post("/admin/v1/organizations?dry_run=true", &json!({ "name": "acme" }))
        .send()
        .await
        .is(409);

    assert_eq!(world.pages("/admin/v1/organizations?limit=100").await, before);
    let lines = world.pages("/admin/v1/audit?limit=1000").await;
    assert_eq!(lines[0].len(), audited[0].len() + 1, "the refusal alone has a line");
}
