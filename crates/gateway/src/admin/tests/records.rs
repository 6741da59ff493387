//! The life of each kind of record, and lists of them.

use std::collections::HashSet;

use admission::tenancy::NewKey;
use axum::http::Method;
use serde_json::{Value, json};

use super::world::World;

#[tokio::test]
async fn an_organization_is_made_changed_and_removed() {
    let world = World::new().await;
    let body = json!({
        "name": "initech",
        "time_zone": "Europe/Berlin",
        "policy": {
            "limits": [{ "kind": "requests_per_minute", "max": 60 }],
            "budgets": [{ "amount": { "money": "12.50" }, "window": "month", "alert_percent": [80] }],
        },
        "webhook": { "url": "https://initech.example/hook", "secret": SIGNING_SECRET },
        "metadata": { "contract": "7" },
    });

    let made = world.post("/admin/v1/organizations", &body).send().await.is(201);
    let path = made.header("location").unwrap().to_owned();
    let record = made.json();
    assert_eq!(record["webhook"], json!({ "url": "https://initech.example/hook" }));
    let money = json!({ "money": { "usd": "12.50", "nano_usd": 12_500_000_000_i64 } });
    assert_eq!(record["policy"]["budgets"][0]["amount"], money);
    assert_eq!(record["policy"]["budgets"][0]["enforcement"], "hard");
    assert_eq!(record["created_at"], "2026-05-28T20:00:00Z");
    assert_eq!(world.get(path.as_str()).send().await.is(200).json(), record);

    let patch = json!({ "webhook": null, "metadata": { "contract": null, "tier": "gold" } });
    let changed = world.patch(path.as_str(), &patch).with("if-match", &made.tag());
    let changed = changed.send().await.is(200);
    assert_eq!(changed.json()["webhook"], Value::Null);
    assert_eq!(changed.json()["metadata"], json!({ "tier": "gold" }));
    assert_eq!(changed.json()["policy"], record["policy"], "what is not named stays");

    let delete = world.ask(Method::DELETE, path.as_str()).with("if-match", &changed.tag());
    let gone = delete.send().await.is(200);
    assert_eq!((gone.json()["name"].as_str(), gone.header("etag")), (Some("initech"), None));
    world.get(path).send().await.is(404);
}

#[tokio::test]
async fn a_policy_that_an_answer_shows_can_be_sent_back_as_it_is() {
    let world = World::new().await;
    let path = format!("/admin/v1/projects/{}", world.people.projects[0].id);
    let policy = json!({
        "limits": [
            { "kind": "tokens_per_minute", "max": 5, "model": "m" },
            { "kind": "gpu_millis_per_minute", "max": 7 },
        ],
        "budgets": [
            { "amount": { "money": "0.000000001" }, "window": "day", "enforcement": "soft" },
            { "amount": { "tokens": 9 }, "model": "m" },
            { "amount": { "gpu_nanos": 11 }, "window": "week" },
        ],
        "models": ["m", "n"],
        "expires_at": "2027-01-01",
        "blocked": true,
    });
    let body = json!({ "policy": policy, "each_end_user": policy });
    let set = world.patch(path.as_str(), &body).with("if-match", "*").send().await.is(200);
    let shown = set.json();
    assert_eq!(shown["policy"]["expires_at"], "2027-01-01T00:00:00Z");

    let body = json!({ "policy": shown["policy"], "each_end_user": shown["each_end_user"] });
    let again = world.patch(path.as_str(), &body).with("if-match", "*").send().await.is(200);

    assert_eq!(again.json(), shown);
    let none = json!({ "policy": { "limits": null, "budgets": [], "expires_at": null } });
    let cleared = world.patch(path, &none).with("if-match", "*").send().await.is(200).json();
    assert_eq!(cleared["policy"]["limits"], json!([]));
    assert_eq!(cleared["policy"]["budgets"], json!([]));
    assert_eq!(cleared["policy"]["expires_at"], Value::Null);
    assert_eq!(cleared["policy"]["models"], json!(["m", "n"]));
}

#[tokio::test]
async fn projects_end_users_administrators_and_prices_are_made_and_found_again() {
    let world = World::new().await;
    let (acme, search) = (world.people.acme.id, world.people.projects[0].id);
    let tokens = json!({ "tokens": { "input": "0.10", "cached_input": "0.05", "output": "0.4" } });
    for (kind, body, filter) in [
        ("projects", json!({ "organization": acme, "name": "new" }), "name=new"),
        ("end_users", json!({ "project": search, "subject": "new" }), "subject=new"),
        ("keys", json!({ "project": search, "name": "new" }), "name=new"),
        (
            "admins",
            json!({ "name": "new", "role": "organization_admin", "organization": acme }),
            "name=new",
        ),
        ("prices", json!({ "model": "new", "price": tokens }), "model=new"),
    ] {
        let made = world.post(format!("/admin/v1/{kind}"), &body).send().await.is(201);
        let path = made.header("location").unwrap();
        let read = world.get(path).send().await.is(200);
        assert_eq!(read.tag(), made.tag());
        let mut shown = made.json();
        for secret in ["api_key", "token"] {
            shown.as_object_mut().unwrap().shift_remove(secret);
        }
        assert_eq!(read.json(), shown, "{kind}");
        let found = world.get(format!("/admin/v1/{kind}?{filter}")).send().await.is(200).json();
        assert_eq!(found["items"], json!([shown]), "{kind}");
    }
}

#[tokio::test]
async fn a_token_that_was_shown_is_good_for_what_its_role_says() {
    let world = World::new().await;
    let body = json!({ "name": "f", "role": "finance", "organization": world.people.acme.id });
    let made = world.post("/admin/v1/admins", &body).send().await.is(201).json();

    let token = made["token"].as_str().unwrap();
    let me = world.get("/admin/v1/whoami").by(token).send().await.is(200).json();

    assert_eq!(me["id"], made["id"]);
    assert_eq!((me["role"].as_str(), me["name"].as_str()), (Some("finance"), Some("f")));
    let acme = json!(world.people.acme.id);
    assert_eq!((&me["organization"], &me["home"]["organization"]), (&acme, &acme));
    let member = world.admin("search member");
    let me = world.get("/admin/v1/whoami").by(&member.token).send().await.is(200).json();
    let search = json!(world.people.projects[0].id);
    assert_eq!(me["home"], json!({ "organization": acme, "project": search }));
}

#[tokio::test]
async fn pages_show_everything_once() {
    let world = World::new().await;
    let search = world.people.projects[0].id;
    for at in 0..7 {
        world.done(&NewKey::called(format!("k{at}"), search)).await;
    }
    for path in ["keys", "admins", "organizations", "projects", "audit"] {
        let whole = world.pages(&format!("/admin/v1/{path}?limit=1000")).await;
        assert_eq!(whole.len(), 1);
        for limit in [1, 3] {
            let pages = world.pages(&format!("/admin/v1/{path}?limit={limit}")).await;
            assert!(pages.iter().all(|page| page.len() <= limit), "{path}");
            assert_eq!(pages.concat(), whole[0], "{path} by {limit}");
        }
    }
}

#[tokio::test]
async fn lists_are_narrowed_to_an_organization_or_a_project() {
    let world = World::new().await;
    let (acme, search) = (world.people.acme.id, world.people.projects[0].id);
    let number = async |path: String| {
        let list = world.get(format!("/admin/v1/{path}")).send().await.is(200).json();
        list["items"].as_array().unwrap().len()
    };
    assert_eq!(number("keys".to_owned()).await, 3);
    assert_eq!(number(format!("keys?organization={acme}")).await, 2);
    assert_eq!(number(format!("keys?project={search}")).await, 1);
    assert_eq!(number(format!("projects?organization={acme}")).await, 3);
    let both = format!("/admin/v1/keys?organization={acme}&project={search}");
    world.get(both).send().await.is(422);
    let globex = world.admin("globex admin");
    let foreign = world.get(format!("/admin/v1/keys?project={search}")).by(&globex.token);
    foreign.send().await.is(404);
}

#[tokio::test]
async fn no_secret_is_shown_but_by_the_answer_that_made_it() {
    let world = World::new().await;
    let mut secrets = HashSet::from([SIGNING_SECRET.to_owned()]);
    let search = world.people.projects[0].id;
    let key = json!({ "project": search, "name": "shown once" });
    let key = world.post("/admin/v1/keys", &key).send().await.is(201);
    assert_eq!(key.header("cache-control"), Some("no-store"));
    let rotate = format!("{}/rotate", key.header("location").unwrap());
    let rotated = world.ask(Method::POST, rotate).with("if-match", "*").send().await.is(200);
    let admin = json!({ "name": "a", "role": "platform_admin" });
    let admin = world.post("/admin/v1/admins", &admin).send().await.is(201);
    let hook = json!({ "url": "https://acme.example", "secret": SIGNING_SECRET });
    let acme = format!("/admin/v1/organizations/{}", world.people.acme.id);
    let hook = world.patch(acme, &json!({ "webhook": hook })).with("if-match", "*");
    let hook = hook.send().await.is(200);
    secrets.insert(key.json()["api_key"].as_str().unwrap().to_owned());
    secrets.insert(rotated.json()["api_key"].as_str().unwrap().to_owned());
    secrets.insert(admin.json()["token"].as_str().unwrap().to_owned());

    let mut texts = vec![hook.text];
    for path in ["organizations", "projects", "end_users", "keys", "admins", "prices", "audit"] {
        let path = format!("/admin/v1/{path}?limit=1000");
        texts.push(world.get(path).send().await.is(200).text);
    }
    texts.push(world.get(key.header("location").unwrap()).send().await.is(200).text);

    assert_eq!(secrets.len(), 4);
    for text in texts {
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
        for word in ["sk-tg-", "digest\":\"", "api_key", "token\":"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
}

#[tokio::test]
async fn the_audit_log_tells_what_was_done_and_what_was_refused() {
    let world = World::new().await;
    let member = world.admin("search member");
    let body = json!({ "name": "mine" });
    world.post("/admin/v1/organizations", &body).by(&member.token).send().await.is(403);
    world.post("/admin/v1/organizations", &body).send().await.is(201);

    let lines = world.pages("/admin/v1/audit?limit=1000").await.concat();

    let [.., refused, done] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(refused["actor"], json!(member.id));
    assert_eq!(refused["outcome"], "forbidden");
    assert_eq!(done["actor"], json!(world.admin("platform").id));
    assert_eq!(
        (done["action"].as_str(), done["outcome"].as_str()),
        (Some("organization.create"), Some("done"))
    );
    assert_eq!(done["detail"]["request"]["name"], "mine");
    assert_eq!(done["at"], "2026-05-28T20:00:00Z");
}

const SIGNING_SECRET: &str = "a secret of the test that signs what is sent";
