//! Usage, budgets, when keys were used, and whether the ledger adds up.

use std::time::Duration;

use admission::tenancy::{Amount, KeyUpdate, OrganizationUpdate};
use axum::http::Method;
use domain::{KeyId, NanoUsd, OrganizationId, ProjectId, Timestamp};
use futures_util::StreamExt as _;
use proto::Worker as _;
use serde_json::{Value, json};

use super::world::{START, World, daily, row};

#[tokio::test]
async fn usage_is_what_the_rows_say() {
    let world = spent().await;
    let usage = world.get("/admin/v1/usage?group_by=project,day").send().await.is(200).json();

    let lines: Vec<(&Value, &Value, &Value, &Value)> = lines(&usage)
        .iter()
        .map(|line| {
            (&line["group"]["project"], &line["group"]["day"], &line["requests"], &line["charge"])
        })
        .collect();
    let projects = &world.people.projects;
    let usd = |usd: &str, nanos: i64| json!({ "usd": usd, "nano_usd": nanos });
    let day = |day: &str| json!(format!("2026-05-{day}T00:00:00Z"));
    assert_eq!(
        lines,
        [
            (&json!(projects[0].id), &day("27"), &json!(1), &usd("0.000000005", 5)),
            (&json!(projects[0].id), &day("28"), &json!(2), &usd("1.50", 1_500_000_000)),
            (&json!(projects[1].id), &day("28"), &json!(1), &usd("0.000000003", 3)),
            (&json!(projects[2].id), &day("28"), &json!(1), &usd("0.000000007", 7)),
        ]
    );
    assert_eq!((&usage["from"], &usage["to"]), (&json!("2026-04-29T00:00:00Z"), &day("29")));
}

#[tokio::test]
async fn usage_is_grouped_and_narrowed_as_asked() {
    let world = spent().await;
    let people = &world.people;
    let (acme, search, key) = (people.acme.id, people.projects[0].id, people.keys[0].id);
    let total = async |query: String| {
        let usage = world.get(format!("/admin/v1/usage?{query}")).send().await.is(200).json();
        lines(&usage).iter().map(|line| line["requests"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(total(String::new()).await, 5);
    assert_eq!(
        total("group_by=organization,project,end_user,key,model,gateway,hour".into()).await,
        5
    );
    assert_eq!(total(format!("organization={acme}")).await, 4);
    assert_eq!(total(format!("project={search}")).await, 3);
    assert_eq!(total(format!("organization={acme}&project={search}")).await, 3);
    assert_eq!(total(format!("key={key}&model=m")).await, 2);
    assert_eq!(total(format!("key={key}&model=other")).await, 1);
    assert_eq!(total("from=2026-05-28&to=2026-05-29".into()).await, 4);
    assert_eq!(total("from=2026-05-28T20:15:00Z&to=2026-05-28T20:30:00Z".into()).await, 1);

    let none = world.get("/admin/v1/usage?from=2020-01-01&to=2020-01-02").send().await.is(200);
    assert_eq!(none.json()["items"], json!([]));
    let mismatch = format!("/admin/v1/usage?organization={}&project={search}", people.globex.id);
    world.get(mismatch).send().await.is(422);
    let usage = world.get("/admin/v1/usage?group_by=end_user").send().await.is(200).json();
    assert_eq!(lines(&usage)[0]["group"], json!({ "end_user": null }));
}

#[tokio::test]
async fn pages_of_usage_show_every_line_once() {
    let world = spent().await;
    let whole = world.pages("/admin/v1/usage?group_by=key,hour&limit=1000").await;
    let pages = world.pages("/admin/v1/usage?group_by=key,hour&limit=2").await;
    assert_eq!((whole.len(), pages.len()), (1, 2));
    assert_eq!(pages.concat(), whole[0]);
}

#[tokio::test]
async fn an_administrator_sees_the_usage_of_its_own_part_alone() {
    let world = spent().await;
    for (name, requests) in [
        ("platform", 5),
        ("finance", 5),
        ("acme admin", 4),
        ("search member", 3),
        ("globex admin", 1),
    ] {
        let admin = world.admin(name);
        let usage = world.get("/admin/v1/usage").by(&admin.token).send().await.is(200).json();
        assert_eq!(lines(&usage)[0]["requests"], requests, "{name}");
    }
    let globex = world.admin("globex admin");
    let key = format!("/admin/v1/usage?key={}", world.people.keys[0].id);
    let foreign = world.get(key).by(&globex.token).send().await.is(200).json();
    assert_eq!(foreign["items"], json!([]), "another's key was never used here");
}

#[tokio::test]
async fn a_budget_shows_what_was_spent_of_it_in_its_present_window() {
    let world = spent().await;
    let acme = world.people.acme.id;
    let mut update = OrganizationUpdate::of(acme);
    update.time_zone = Some("Europe/Berlin".to_owned());
    update.policy.budgets =
        Some(vec![daily(Amount::Money(NanoUsd::from_dollars(2))), daily(Amount::Tokens(15))]);
    world.done(&update).await;
    let mut update = KeyUpdate::of(world.people.keys[0].id);
    update.policy.budgets = Some(vec![daily(Amount::Money(NanoUsd::from_nanos(1)))]);
    world.done(&update).await;

    let stand = world.get(format!("/admin/v1/budgets?scope={acme}")).send().await.is(200).json();

    assert_eq!(stand["organization"], json!(acme));
    let money = &stand["budgets"][0];
    assert_eq!(money["spent"]["money"], json!({ "usd": "1.500000003", "nano_usd": 1_500_000_003 }));
    assert_eq!(money["remaining"]["money"]["usd"], "0.499999997");
    assert_eq!(money["window_start"], "2026-05-27T22:00:00Z", "midnight in Berlin");
    assert_eq!(money["window_end"], "2026-05-28T22:00:00Z");
    assert_eq!(money["id"], stand["policy"]["budgets"][0]["id"]);
    assert_eq!(stand["budgets"][1]["spent"], json!({ "tokens": 21 }));
    assert_eq!(stand["budgets"][1]["remaining"], json!({ "tokens": 0 }));

    world.clock.advance(Duration::from_hours(24));
    let path = format!("/admin/v1/budgets?scope={}", world.people.keys[0].id);
    let member = world.admin("search member");
    let next = world.get(path).by(&member.token).send().await.is(200).json();
    assert_eq!(next["budgets"][0]["spent"]["money"]["nano_usd"], 0, "a new window");
}

#[tokio::test]
async fn a_key_tells_when_it_was_last_used() {
    let world = spent().await;
    let path = format!("/admin/v1/keys/{}", world.people.keys[0].id);
    let read = world.get(path).send().await.is(200).json();
    let list = world.get("/admin/v1/keys").send().await.is(200).json();
    assert_eq!(read["last_used_at"], "2026-05-28T20:15:00Z");
    assert_eq!(list["items"][0], read);

    let body = json!({ "project": world.people.projects[0].id, "name": "new" });
    let new = world.post("/admin/v1/keys", &body).send().await.is(201).json();
    assert_eq!(new["last_used_at"], Value::Null);
}

#[tokio::test]
async fn the_ledger_is_verified_as_a_whole() {
    let world = spent().await;
    let found = world.get("/admin/v1/ledger/verification").send().await.is(200).json();
    assert_eq!((&found["clean"], &found["rows"]), (&json!(true), &json!(5)), "{found}");
}

#[tokio::test]
async fn a_worker_costs_what_it_is_told_to_cost_and_the_audit_log_knows() {
    let world = World::new().await;
    let draft = json!({ "worker": "scripted", "price_per_hour": "1.20", "capacity": "spot" });

    let told = world.ask(Method::PUT, "/admin/v1/workers/price").json(&draft).send().await;

    assert_eq!(told.is(200).json()["price_per_hour"]["nano_usd"], 1_200_000_000);
    let state = world.worker.watch().await.unwrap().next().await.unwrap();
    assert_eq!(state.price_per_hour.nanos(), 1_200_000_000);
    assert_eq!(state.capacity, domain::Capacity::Spot);
    let audit = world.get("/admin/v1/audit?limit=1000").send().await.is(200).text;
    assert!(audit.contains("worker.govern") && audit.contains("scripted"), "{audit}");
    let unknown = json!({ "worker": "nobody", "price_per_hour": "1" });
    let refused = world.ask(Method::PUT, "/admin/v1/workers/price").json(&unknown).send().await;
    assert_eq!(refused.is(422).json()["problems"][0]["field"], "worker");
}

#[tokio::test]
async fn a_worker_that_is_told_to_leave_takes_nothing_new_and_the_audit_log_knows() {
    let world = World::new().await;
    let draft = json!({ "worker": "scripted", "leaves_in_seconds": 90 });
    let state = async || world.worker.watch().await.unwrap().next().await.unwrap();

    let planned = world.post("/admin/v1/workers/drain?dry_run=true", &draft).send().await;
    assert_eq!(planned.is(200).json(), draft);
    assert!(state().await.takes_work(), "a dry run changes nothing");
    let told = world.post("/admin/v1/workers/drain", &draft).send().await;

    assert_eq!(told.is(200).json(), draft);
    assert!(!state().await.takes_work());
    let audit = world.get("/admin/v1/audit?limit=1000").send().await.is(200).text;
    assert!(audit.contains("worker.govern") && audit.contains("leaves_in_seconds"), "{audit}");
    let unknown = json!({ "worker": "nobody" });
    let refused = world.post("/admin/v1/workers/drain", &unknown).send().await;
    assert_eq!(refused.is(422).json()["problems"][0]["field"], "worker");
}

#[tokio::test]
async fn the_status_has_what_watchers_look_for() {
    let world = World::new().await;
    let status = world.get("/admin/v1/status").send().await.is(200).json();
    assert_eq!(
        status,
        json!({
            "workers": [{ "name": "scripted", "reachable": false }],
            "open_holds": 0,
            "requests_in_flight": 0,
        })
    );
}

/// A world in which five requests were paid for.
async fn spent() -> World {
    let world = World::new().await;
    let people = &world.people;
    let who = |at: usize| -> (OrganizationId, ProjectId, KeyId) {
        let project = &people.projects[at];
        (project.organization, project.id, people.keys[at].id)
    };
    let yesterday = Timestamp::from_millis(START.millis() - 24 * 60 * 60 * 1_000);
    let rows = [
        row(who(0), "m", yesterday, 5),
        row(who(0), "m", START, 1_000_000_000),
        row(who(0), "other", START.plus(Duration::from_mins(15)), 500_000_000),
        row(who(1), "m", START, 3),
        row(who(2), "m", START, 7),
    ];
    world.database.append(&rows).await.unwrap();
    world
}

fn lines(usage: &Value) -> &[Value] {
    usage["items"].as_array().unwrap()
}
