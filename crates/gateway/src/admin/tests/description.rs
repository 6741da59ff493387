//! The description of the API, and the copy of it that is checked in.

use std::collections::HashSet;
use std::path::Path;

use axum::http::Method;
use serde_json::Value;

use super::super::description::document;
use super::world::World;

#[test]
fn the_checked_in_description_is_the_one_that_is_served() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/admin-api.openapi.json");
    let checked_in = std::fs::read_to_string(&kept).unwrap_or_default();
    if checked_in == document() {
        return;
    }
    let fresh = std::env::current_exe().unwrap().with_file_name("admin-api.openapi.json");
    std::fs::write(&fresh, document()).unwrap();
    panic!(
        "the admin API is not as docs/admin-api.openapi.json says; if it is meant so:\n\
         mkdir -p docs && cp {} docs/admin-api.openapi.json",
        fresh.display()
    );
}

#[tokio::test]
async fn every_route_that_is_described_is_there() {
    let world = World::new().await;
    let document: Value = serde_json::from_str(document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name), "two operations are called {name}");
            assert!(operation["summary"].is_string(), "{name} says what it does");
            let method: Method = method.to_uppercase().parse().unwrap();
            let answered = world.ask(method, path.replace("{id}", "none")).send().await;
            assert_ne!(answered.status, 405, "{name}");
            assert!(!answered.text.contains("no_such_route"), "{name}: {}", answered.text);
        }
    }
    assert!(names.len() > 35, "{names:?}");
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    let document: Value = serde_json::from_str(document()).unwrap();
    let mut references = Vec::new();
    find(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn a_change_of_something_that_is_there_says_that_it_needs_its_version() {
    let document: Value = serde_json::from_str(document()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
            let has = |name: &str| parameters.iter().any(|parameter| parameter["name"] == name);
            let is_write = method != "get";
            let is_of_one = path.contains("{id}");
            assert_eq!(has("If-Match"), is_write && is_of_one, "{method} {path}");
            assert_eq!(has("If-None-Match"), !is_write && is_of_one, "{method} {path}");
            assert_eq!(has("Idempotency-Key") && has("dry_run"), is_write, "{method} {path}");
        }
    }
}

fn find<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "$ref" => references.push(text),
                    value => find(value, references),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find(item, references)),
        _ => {}
    }
}
