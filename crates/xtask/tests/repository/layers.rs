//! Holds the arrows between the crates, and who alone may name which library.
//!
//! A crate knows what its manifest lets it know. Dependencies that only tests have are free: they tie
//! nothing together that is shipped.

use std::fs;

use toml::{Table, Value};

use crate::files::root;

#[test]
fn crates_know_only_the_crates_below_them() {
    let packages = packages();
    for package in &packages {
        let (_, below) =
            LAYERS.iter().find(|(name, _)| *name == package.name).unwrap_or_else(|| {
                panic!("`{}` has no row in LAYERS: what may it know?", package.name)
            });
        for dependency in &package.dependencies {
            let ours = packages.iter().any(|package| package.name == *dependency);
            assert!(
                !ours || below.contains(&dependency.as_str()),
                "`{}` must not know `{dependency}`; if it has to, a noun is missing in `domain`",
                package.name
            );
        }
    }
}

#[test]
fn every_layer_exists() {
    let packages = packages();
    for (name, _) in LAYERS {
        assert!(packages.iter().any(|package| package.name == *name), "`{name}` is no package");
    }
}

#[test]
fn a_library_of_the_outer_world_is_named_by_its_owner_alone() {
    for package in packages() {
        for dependency in &package.dependencies {
            let Some((_, owner)) = OWNERS.iter().find(|(start, _)| dependency.starts_with(start))
            else {
                continue;
            };
            assert_eq!(package.name, *owner, "only `{owner}` may name `{dependency}`");
        }
    }
}

#[test]
fn dependencies_are_found_wherever_a_manifest_names_them() {
    let manifest = "
        [dependencies]
        one.workspace = true
        [build-dependencies]
        two = { package = 'real-two', version = '1' }
        [target.'cfg(unix)'.dependencies]
        three = '1'
        [dev-dependencies]
        free = '1'
    ";
    let workspace = "[workspace.dependencies]\none = { package = 'real-one', version = '1' }";

    let found = dependencies(&manifest.parse().unwrap(), &workspace.parse().unwrap());

    assert_eq!(found, ["real-one", "real-two", "three"]);
}

struct Package {
    name: String,
    dependencies: Vec<String>,
}

fn packages() -> Vec<Package> {
    let workspace = manifest("Cargo.toml");
    let crates = fs::read_dir(root().join("crates")).unwrap();
    let mut folders: Vec<String> = crates
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| format!("crates/{}", entry.file_name().display()))
        .collect();
    folders.extend(["tests", "load-tests", "tests/simulation/fleet"].map(str::to_owned));

    let package = |folder: &String| {
        let manifest = manifest(&format!("{folder}/Cargo.toml"));
        let name = manifest["package"]["name"].as_str().unwrap().to_owned();
        Package { name, dependencies: dependencies(&manifest, &workspace) }
    };
    folders.iter().map(package).collect()
}

fn manifest(path: &str) -> Table {
    let text =
        fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a package is built with, by the names its dependencies have in the registry.
fn dependencies(manifest: &Table, workspace: &Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(Value::as_table);
    let platforms = platforms.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    std::iter::once(manifest)
        .chain(platforms)
        .flat_map(|table| [table.get("dependencies"), table.get("build-dependencies")])
        .filter_map(|section| section?.as_table())
        .flatten()
        .map(|(key, value)| {
            let shared = &workspace["workspace"]["dependencies"];
            let renamed = value.get("package").or_else(|| shared.get(key)?.get("package"));
            renamed.and_then(Value::as_str).unwrap_or(key).to_owned()
        })
        .collect()
}

/// What each package may know of the others.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("admission", &["domain"]),
    ("cache", &["domain"]),
    ("engine", &["domain"]),
    ("hub", &["domain"]),
    ("proto", &["domain"]),
    ("routing", &["domain", "proto"]),
    ("store", &["domain", "admission", "cache", "routing"]),
    ("gateway", &["domain", "admission", "cache", "proto", "routing", "store"]),
    ("worker", &["domain", "engine", "proto"]),
    ("tollgate", &["domain", "admission", "engine", "gateway", "hub", "worker"]),
    ("xtask", &[]),
    ("system-tests", &[]),
    // It also measures what happens between workers, where no client sees it.
    ("load-tests", &["domain", "proto", "routing", "worker"]),
    ("fleet", &["domain", "proto", "routing"]),
];

/// Libraries whose name starts like this, and the one package that may know them.
const OWNERS: &[(&str, &str)] = &[
    ("candle", "engine"),
    // A worker asks its machine's metadata service over HTTP, and serves nothing.
    ("http-body", "worker"),
    ("object_store", "hub"),
    ("pingora", "gateway"),
    ("prost", "proto"),
    ("redis", "store"),
    ("sqlx", "store"),
    ("tonic", "proto"),
];
