//! Every route, with every kind of token and without one, against the one table of permissions.

use admission::tenancy::{Action, Actor, NewKey, RecordId, RegistryError, Resource, Tenants as _};
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::description::document;
use super::world::{Administrator, Answered, World};

/// A use of a route, and what it is to the table of permissions.
struct Deed {
    /// The route's name in the description.
    operation: &'static str,
    path: String,
    body: Option<Value>,
    action: Action,
    resource: Resource,
    at: At,
}

/// Where a deed is done.
#[derive(Clone, Copy)]
enum At {
    /// Wherever the role is at home.
    Home,
    /// At the platform.
    Platform,
    /// At this record, or in it.
    Record(RecordId),
    /// At the administrator's own token.
    Itself,
}

#[tokio::test]
async fn each_role_may_do_on_every_route_what_the_table_says_and_nothing_else() {
    let world = World::new().await;
    let before = records(&world).await;

    for deed in deeds(&world) {
        for admin in &world.people.admins {
            let expected = expected(&world, admin, &deed).await;
            let answered = ask(&world, &deed, Some(&admin.token)).await;
            let who = format!("{} {} {}", admin.name, deed.operation, deed.path);
            match expected {
                None => assert!(answered.status.is_success(), "{who}: {}", answered.text),
                Some(status) => assert_eq!(answered.status, status, "{who}: {}", answered.text),
            }
        }
    }

    assert_eq!(records(&world).await, before, "a dry run changes nothing");
}

#[tokio::test]
async fn nobody_does_anything_without_a_token() {
    let world = World::new().await;
    let new = NewKey::called("k", world.people.projects[0].id);
    let key = world.done(&new).await.secret.unwrap();

    for deed in deeds(&world) {
        for wrong in [None, Some("sk-tg-0"), Some(key.expose())] {
            let answered = ask(&world, &deed, wrong).await;
            assert_eq!(answered.status, StatusCode::UNAUTHORIZED, "{} {wrong:?}", deed.operation);
            assert_eq!(answered.json()["code"], "unauthenticated");
            assert_eq!(answered.header("www-authenticate"), Some("Bearer"));
        }
    }
}

#[tokio::test]
async fn the_table_of_deeds_names_every_route_that_needs_a_token() {
    let world = World::new().await;
    let document: Value = serde_json::from_str(document()).unwrap();

    let mut described: Vec<String> = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let name = operation["operationId"].as_str().unwrap();
            if operation.get("security").is_some() {
                described.push(name.to_owned());
            } else {
                assert!(OPEN.contains(&name), "{name} at {path} needs no token");
            }
        }
    }
    let mut tried: Vec<String> =
        deeds(&world).iter().map(|deed| deed.operation.to_owned()).collect();
    described.sort();
    tried.sort();
    tried.dedup();

    assert_eq!(tried, described);
}

#[tokio::test]
async fn an_administrator_without_any_right_to_others_may_replace_and_end_its_own_token() {
    let world = World::new().await;
    let member = world.admin("search member");
    let own = format!("/admin/v1/admins/{}", member.id);

    let list = world.get("/admin/v1/admins").by(&member.token).send().await.is(200).json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "it sees itself alone: {list}");

    let rotate = world.ask(Method::POST, format!("{own}/rotate")).by(&member.token);
    let token = rotate.with("if-match", "\"1\"").send().await.is(200).json()["token"].clone();
    world.get("/admin/v1/whoami").by(&member.token).send().await.is(401);
    let token = token.as_str().unwrap();
    world.get("/admin/v1/whoami").by(token).send().await.is(200);

    let revoke = world.ask(Method::POST, format!("{own}/revoke")).by(token);
    revoke.with("if-match", "\"2\"").send().await.is(200);
    world.get("/admin/v1/whoami").by(token).send().await.is(401);
}

#[tokio::test]
async fn probes_metrics_and_the_description_need_no_token() {
    let world = World::new().await;
    world.get("/healthz").by_nobody().send().await.is(200);
    world.get("/readyz").by_nobody().send().await.is(503);
    let metrics = world.get("/metrics").by_nobody().send().await.is(200);
    assert!(metrics.text.contains("open_holds"), "{}", metrics.text);
    world.get("/admin/v1/openapi.json").by_nobody().send().await.is(200);
}

/// The status of the refusal that the registry's table asks for; none if it permits.
async fn expected(world: &World, admin: &Administrator, deed: &Deed) -> Option<StatusCode> {
    let (registry, actor) = (&world.registry, Actor::Admin(admin.id));
    let Deed { action, resource, at, .. } = *deed;
    let decided = match at {
        At::Itself => Ok(()),
        At::Platform => registry.authorize(actor, action, resource).await,
        At::Home => registry.confine(actor, action, resource, None).await.map(drop),
        At::Record(id) => registry.confine(actor, action, resource, Some(id)).await.map(drop),
    };
    match decided {
        Ok(()) => None,
        Err(RegistryError::Forbidden { .. }) => Some(StatusCode::FORBIDDEN),
        Err(RegistryError::NotFound { .. }) => Some(StatusCode::NOT_FOUND),
        Err(other) => panic!("{other}"),
    }
}

async fn ask(world: &World, deed: &Deed, token: Option<&str>) -> Answered {
    let method = match deed.operation.split_once('_').map_or("", |(verb, _)| verb) {
        "create" | "rotate" | "revoke" | "drain" | "load" | "unload" | "reload" => Method::POST,
        "update" => Method::PATCH,
        "price" => Method::PUT,
        "delete" => Method::DELETE,
        _ => Method::GET,
    };
    let is_write = method != Method::GET;
    let dry = if is_write { "?dry_run=true" } else { "" };
    let asking = world.ask(method, format!("/admin/v1{}{dry}", deed.path));
    let asking = if is_write { asking.with("if-match", "*") } else { asking };
    let asking = match token {
        Some(token) => asking.by(token),
        None => asking.by_nobody(),
    };
    match &deed.body {
        Some(body) => asking.json(body).send().await,
        None => asking.send().await,
    }
}

async fn records(world: &World) -> Vec<String> {
    let records = world.database.changes(0).await.unwrap().records;
    let mut texts: Vec<String> =
        records.iter().map(|record| format!("{} {}", record.id(), record.version())).collect();
    texts.sort();
    texts
}

fn deeds(world: &World) -> Vec<Deed> {
    let mut deeds = deeds_on_tenants(world);
    deeds.extend(deeds_on_credentials(world));
    deeds.extend(deeds_on_money(world));
    deeds
}

/// Organizations, projects and end users; what bounds one is a deed of its own.
fn deeds_on_tenants(world: &World) -> Vec<Deed> {
    let people = &world.people;
    let (acme, search, ann) = (people.acme.id, people.projects[0].id, people.end_user.id);
    let (vacant, idle) = (people.vacant.id, people.idle.id);
    let org = |action| (action, Resource::Organization);
    let project = |action| (action, Resource::Project);
    let user = |action| (action, Resource::EndUser);
    let (here, there) = (At::Record(acme.into()), At::Record(search.into()));
    let them = At::Record(ann.into());
    let words = || Some(json!({ "metadata": { "a": "b" } }));
    let bounds = || Some(json!({ "policy": { "blocked": true } }));
    let new = Some(json!({ "name": "n" }));
    let new_project = Some(json!({ "organization": acme, "name": "n" }));
    let new_user = Some(json!({ "project": search, "subject": "bob" }));
    let (o, p) = (format!("/organizations/{acme}"), format!("/projects/{search}"));
    let u = format!("/end_users/{ann}");
    vec![
        deed("list_organizations", "/organizations", None, org(Action::List), At::Home),
        deed("create_organization", "/organizations", new, org(Action::Create), At::Platform),
        deed("read_organization", &o, None, org(Action::Read), here),
        deed("update_organization", &o, words(), org(Action::Update), here),
        deed("update_organization", &o, bounds(), org(Action::Govern), here),
        deed(
            "delete_organization",
            &format!("/organizations/{vacant}"),
            None,
            org(Action::Delete),
            At::Record(vacant.into()),
        ),
        deed("list_projects", "/projects", None, project(Action::List), At::Home),
        deed("create_project", "/projects", new_project, project(Action::Create), here),
        deed("read_project", &p, None, project(Action::Read), there),
        deed("update_project", &p, words(), project(Action::Update), there),
        deed("update_project", &p, bounds(), project(Action::Govern), there),
        deed(
            "delete_project",
            &format!("/projects/{idle}"),
            None,
            project(Action::Delete),
            At::Record(idle.into()),
        ),
        deed("list_end_users", "/end_users", None, user(Action::List), At::Home),
        deed("create_end_user", "/end_users", new_user, user(Action::Create), there),
        deed("read_end_user", &u, None, user(Action::Read), them),
        deed("update_end_user", &u, words(), user(Action::Update), them),
        deed("update_end_user", &u, bounds(), user(Action::Govern), them),
        deed("delete_end_user", &u, None, user(Action::Delete), them),
    ]
}

/// Keys of two projects, and administrators.
fn deeds_on_credentials(world: &World) -> Vec<Deed> {
    let people = &world.people;
    let key = |action| (action, Resource::Key);
    let admin = |action| (action, Resource::Admin);
    let mut deeds = vec![
        deed("list_keys", "/keys", None, key(Action::List), At::Home),
        deed("list_admins", "/admins", None, admin(Action::List), At::Itself),
        deed("whoami", "/whoami", None, admin(Action::Read), At::Itself),
    ];
    for (project, owned) in people.projects.iter().zip(&people.keys) {
        let (path, at) = (format!("/keys/{}", owned.id), At::Record(owned.id.into()));
        let new = Some(json!({ "project": project.id, "name": "n" }));
        let in_project = At::Record(project.id.into());
        let words = Some(json!({ "name": "n" }));
        let bounds = Some(json!({ "policy": { "models": ["m"] } }));
        let new_admin = json!({ "name": "n", "role": "project_member", "project": project.id });
        deeds.extend([
            deed("create_key", "/keys", new, key(Action::Create), in_project),
            deed("read_key", &path, None, key(Action::Read), at),
            deed("update_key", &path, words, key(Action::Update), at),
            deed("update_key", &path, bounds, key(Action::Govern), at),
            deed("rotate_key", &format!("{path}/rotate"), None, key(Action::Rotate), at),
            deed("revoke_key", &format!("{path}/revoke"), None, key(Action::Revoke), at),
            deed("create_admin", "/admins", Some(new_admin), admin(Action::Create), in_project),
        ]);
    }
    // A second one of each: what an administrator may do to its own token is another matter.
    for other in &people.others {
        let (path, at) = (format!("/admins/{other}"), At::Record((*other).into()));
        let name = Some(json!({ "name": "n" }));
        deeds.extend([
            deed("read_admin", &path, None, admin(Action::Read), at),
            deed("update_admin", &path, name, admin(Action::Update), at),
            deed("rotate_admin", &format!("{path}/rotate"), None, admin(Action::Rotate), at),
            deed("revoke_admin", &format!("{path}/revoke"), None, admin(Action::Revoke), at),
        ]);
    }
    deeds
}

/// Prices, usage, budgets, and what is the platform's.
fn deeds_on_money(world: &World) -> Vec<Deed> {
    let people = &world.people;
    let price = |action| (action, Resource::Price);
    let usage = (Action::Read, Resource::Usage);
    let (one, at) = (format!("/prices/{}", people.price.id), At::Record(people.price.id.into()));
    let tariff = json!({ "gpu_time": { "per_hour": "2.00", "markup_percent": 100 } });
    let new = Some(json!({ "model": "n", "price": tariff }));
    let rent = Some(json!({ "worker": "scripted", "price_per_hour": "1.20" }));
    let leaving = Some(json!({ "worker": "scripted" }));
    let model = Some(json!({ "worker": "scripted", "name": "n", "path": "p" }));
    let unloaded = Some(json!({ "worker": "scripted", "name": "n" }));
    let worker = (Action::Govern, Resource::Worker);
    let configuration = (Action::Govern, Resource::Configuration);
    let mut deeds = vec![
        deed("list_prices", "/prices", None, price(Action::List), At::Home),
        deed("create_price", "/prices", new, price(Action::Create), At::Platform),
        deed("read_price", &one, None, price(Action::Read), at),
        deed("delete_price", &one, None, price(Action::Delete), at),
        deed("read_usage", "/usage", None, usage, At::Home),
        deed("list_audit", "/audit", None, (Action::List, Resource::Audit), At::Home),
        deed("read_status", "/status", None, (Action::Read, Resource::Status), At::Platform),
        deed("price_worker", "/workers/price", rent, worker, At::Platform),
        deed("drain_worker", "/workers/drain", leaving, worker, At::Platform),
        deed("load_model", "/workers/load", model, worker, At::Platform),
        deed("unload_model", "/workers/unload", unloaded, worker, At::Platform),
        deed("reload_configuration", "/configuration/reload", None, configuration, At::Platform),
        deed(
            "verify_ledger",
            "/ledger/verification",
            None,
            (Action::Read, Resource::Ledger),
            At::Platform,
        ),
    ];
    for organization in [people.acme.id, people.globex.id] {
        let path = format!("/usage?organization={organization}");
        deeds.push(deed("read_usage", &path, None, usage, At::Record(organization.into())));
        let path = format!("/budgets?scope={organization}");
        deeds.push(deed("read_budgets", &path, None, usage, At::Record(organization.into())));
    }
    for key in &people.keys {
        let path = format!("/budgets?scope={}", key.id);
        deeds.push(deed("read_budgets", &path, None, usage, At::Record(key.id.into())));
    }
    deeds
}

fn deed(
    operation: &'static str,
    path: &str,
    body: Option<Value>,
    (action, resource): (Action, Resource),
    at: At,
) -> Deed {
    Deed { operation, path: path.to_owned(), body, action, resource, at }
}

/// Routes that need no token.
const OPEN: [&str; 4] = ["healthz", "readyz", "metrics", "describe"];
