//! What a refusal looks like.

use axum::http::Method;
use serde_json::{Value, json};

use super::world::{Answered, World};

#[tokio::test]
async fn a_refusal_is_a_problem_that_says_what_to_do() {
    let world = World::new().await;
    let missing = format!("/admin/v1/keys/{}", domain::KeyId::generate());

    let answered = world.get(missing).send().await.is(404);

    assert_eq!(answered.header("content-type"), Some("application/problem+json"));
    let problem = answered.json();
    assert_eq!(problem["type"], "urn:tollgate:problem:not_found");
    assert_eq!(problem["status"], 404);
    assert_eq!(problem["code"], "not_found");
    for text in ["title", "detail", "remedy"] {
        assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
}

#[tokio::test]
async fn the_field_that_is_wrong_is_named_by_its_path() {
    let world = World::new().await;
    let project = world.people.projects[0].id;
    let policy = |policy: Value| json!({ "project": project, "name": "n", "policy": policy });
    let budget = |amount: Value| policy(json!({ "budgets": [{ "amount": amount }] }));
    for (body, field) in [
        (json!({ "project": project }), "name"),
        (json!({ "project": "org_1", "name": "n" }), "project"),
        (json!({ "project": project, "name": "n", "colour": "red" }), "colour"),
        (json!({ "project": project, "name": " " }), "name"),
        (policy(json!({ "colour": 1 })), "policy.colour"),
        (policy(json!({ "limits": [{ "kind": "per_day", "max": 1 }] })), "policy.limits[0].kind"),
        (policy(json!({ "limits": [{ "kind": "tokens_per_day" }] })), "policy.limits[0].max"),
        (policy(json!({ "expires_at": "2020-01-01" })), "policy.expires_at"),
        (policy(json!({ "blocked": null })), "policy.blocked"),
        (budget(json!({ "money": 12.5 })), "policy.budgets[0].amount.money"),
        (budget(json!({ "tokens": u64::MAX })), "policy.budgets[0].amount"),
    ] {
        let answered = world.post("/admin/v1/keys", &body).send().await.is(422);
        assert_eq!(fields(&answered), [field], "{body}: {}", answered.text);
    }
}

#[tokio::test]
async fn every_field_that_makes_no_sense_is_named_at_once() {
    let world = World::new().await;
    let body = json!({
        "name": "",
        "time_zone": "Mars/Olympus",
        "webhook": { "url": "http://example.com", "secret": "short" },
        "policy": { "limits": [{ "kind": "tokens_per_day", "max": u64::MAX }] },
    });

    let answered = world.post("/admin/v1/organizations", &body).send().await.is(422);

    let expected = ["name", "time_zone", "policy.limits[0].max", "webhook.url", "webhook.secret"];
    assert_eq!(fields(&answered), expected);
}

#[tokio::test]
async fn what_the_query_gets_wrong_is_named() {
    let world = World::new().await;
    for (path, field) in [
        ("keys?colour=red", "colour"),
        ("keys?limit=many", "limit"),
        ("keys?limit=0", "limit"),
        ("keys?limit=1001", "limit"),
        ("keys?after=proj_1", "after"),
        ("keys?project=1", "project"),
        ("audit?limit=0", "limit"),
        ("usage?group_by=colour", "group_by"),
        ("usage?group_by=day,hour", "group_by"),
        ("usage?from=yesterday", "from"),
        ("usage?from=2026-05-28T20:01:00Z", "from"),
        ("usage?limit=1001", "limit"),
        ("budgets", "scope"),
        ("budgets?scope=price_1", "scope"),
    ] {
        let answered = world.get(format!("/admin/v1/{path}")).send().await.is(422);
        assert_eq!(fields(&answered), [field], "{path}: {}", answered.text);
    }
    let dry = world.post("/admin/v1/organizations?dry_run=1", &json!({ "name": "n" }));
    assert_eq!(fields(&dry.send().await.is(422)), ["dry_run"]);
}

#[tokio::test]
async fn a_role_is_told_where_it_is_at_home_and_nothing_else() {
    let world = World::new().await;
    let (acme, search) = (world.people.acme.id, world.people.projects[0].id);
    for (body, field) in [
        (json!({ "name": "n", "role": "owner" }), "role"),
        (json!({ "name": "n", "role": "platform_admin", "organization": acme }), "organization"),
        (json!({ "name": "n", "role": "organization_admin" }), "organization"),
        (json!({ "name": "n", "role": "project_member" }), "project"),
        (json!({ "name": "n", "role": "finance", "project": search }), "project"),
    ] {
        let answered = world.post("/admin/v1/admins", &body).send().await.is(422);
        assert_eq!(fields(&answered), [field], "{body}: {}", answered.text);
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_or_too_large_is_refused_before_it_is_read_as_one() {
    let world = World::new().await;
    let post = || world.ask(Method::POST, "/admin/v1/organizations");
    let json = || post().with("content-type", "application/json; charset=utf-8");

    let refused = |answered: Answered| answered.json()["code"].clone();
    assert_eq!(refused(json().body("{").send().await.is(400)), "malformed");
    assert_eq!(refused(json().body("{\"name\": \"n\"} {}").send().await.is(400)), "malformed");
    assert_eq!(refused(json().body("[\"n\"]").send().await.is(400)), "malformed");
    assert_eq!(refused(post().body("name=n").send().await.is(415)), "wrong_media_type");
    let large = format!("{{\"name\": \"{}\"}}", "n".repeat(300 << 10));
    assert_eq!(refused(json().body(&large).send().await.is(413)), "too_large");
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_method_are_problems_too() {
    let world = World::new().await;
    for path in ["/", "/admin/v1", "/admin/v1/colours", "/admin/v2/keys", "/admin/v1/keys/a/b/c"] {
        let answered = world.get(path).send().await.is(404);
        assert_eq!(answered.json()["code"], "no_such_route", "{path}");
    }
    let answered = world.ask(Method::PUT, "/admin/v1/keys").send().await.is(405);
    assert_eq!(answered.json()["code"], "no_such_method");
    let mut allowed: Vec<&str> = answered.header("allow").unwrap().split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn an_id_that_is_none_or_of_another_kind_names_nothing() {
    let world = World::new().await;
    for id in ["1", "key_", &world.people.acme.id.to_string(), "%F0%9F%98%80", "%FF"] {
        world.get(format!("/admin/v1/keys/{id}")).send().await.is(404);
    }
}

#[tokio::test]
async fn what_is_in_the_way_is_a_conflict() {
    let world = World::new().await;
    let people = &world.people;
    let taken = world.post("/admin/v1/organizations", &json!({ "name": "acme" }));
    assert_eq!(taken.send().await.is(409).json()["code"], "name_taken");

    let full = world.ask(Method::DELETE, format!("/admin/v1/organizations/{}", people.acme.id));
    assert_eq!(full.with("if-match", "*").send().await.is(409).json()["code"], "conflict");

    let key = format!("/admin/v1/keys/{}", people.keys[0].id);
    let post = |deed: &str| world.ask(Method::POST, format!("{key}/{deed}")).with("if-match", "*");
    post("revoke").send().await.is(200);
    assert_eq!(post("rotate").send().await.is(409).json()["code"], "revoked");
}

#[tokio::test]
async fn a_grace_that_is_too_long_is_named_as_it_was_sent() {
    let world = World::new().await;
    let path = format!("/admin/v1/keys/{}/rotate", world.people.keys[0].id);
    let rotate = world.post(path, &json!({ "grace_seconds": 1_000_000_000 }));
    let answered = rotate.with("if-match", "*").send().await.is(422);
    assert_eq!(fields(&answered), ["grace_seconds"]);
}

/// The fields that a refusal names.
fn fields(answered: &Answered) -> Vec<String> {
    let problem = answered.json();
    assert_eq!(problem["code"], "invalid", "{problem}");
    let problems = problem["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["field"].as_str().unwrap().to_owned()).collect()
}
