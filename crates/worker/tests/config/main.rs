//! `config/worker.toml` is true: every setting is in it, with its default.

use worker::{RawWorker, WorkerSettings};

const EXAMPLE: &str = include_str!("../../../../config/worker.toml");

/// Settings whose default is "none", or depends on the machine; the file shows an example of each.
const EXAMPLES: &[&str] = &[
    "token_file",
    "[tls]",
    "certificate",
    "key",
    "client_roots",
    "worker_roots",
    "worker_name",
    "path",
    "quantize",
    "tokenizer",
    "kv_bytes",
    "compute_threads",
    "[[notices]]",
    "source",
    "address",
    "every",
    "machine",
    "[announce]",
    "redis",
    "[[adapters]]",
    "of",
    "[[models]]",
    "[loading]",
    "folder",
    "endpoint",
];

/// One header for every table there is; the empty one is the file itself.
const TABLES: &[&str] = &[
    "",
    "[tls]",
    "[[notices]]",
    "[announce]",
    "[hub]",
    "[model]",
    "[[models]]",
    "[loading]",
    "[[adapters]]",
    "[engine]",
];

#[test]
fn the_example_is_a_worker_as_it_stands() {
    settings(EXAMPLE);
}

#[test]
fn every_setting_may_be_set_as_the_example_shows() {
    settings(&uncommented(|_| true));
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    let written_out = settings(&uncommented(|setting| !EXAMPLES.contains(&setting)));

    assert_eq!(format!("{written_out:?}"), format!("{:?}", settings(EXAMPLE)));
}

#[test]
fn the_example_leaves_no_setting_out() {
    for table in TABLES {
        for setting in settings_of(table) {
            let shown = EXAMPLE.lines().any(|line| name(line.trim_start_matches("# ")) == setting);
            let is_table = TABLES.iter().any(|table| table.trim_matches(['[', ']']) == setting);
            assert!(shown || is_table, "`{setting}` of `{table}` is not in the example");
        }
    }
}

#[test]
fn an_unknown_setting_is_refused() {
    for table in TABLES {
        assert!(refusal(table).contains("unknown field `nonsense`"), "{}", refusal(table));
    }
}

fn settings(text: &str) -> WorkerSettings {
    let raw: RawWorker = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    raw.check().unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The example with those settings in force that are only shown, if they are `wanted`.
fn uncommented(wanted: impl Fn(&str) -> bool) -> String {
    // What a table that is only shown has in it is only shown too.
    let mut table = true;
    let line = |line: &str| {
        let shown = line.strip_prefix("# ").unwrap_or(line);
        if shown.starts_with('[') && TABLES.contains(&shown) {
            table = shown == line || wanted(shown);
        }
        let in_force = is_setting(shown) && table && wanted(name(shown));
        if in_force { format!("{shown}\n") } else { format!("{line}\n") }
    };
    EXAMPLE.lines().map(line).collect()
}

fn is_setting(line: &str) -> bool {
    TABLES.contains(&line) && !line.is_empty() || line.contains(" = ") && !name(line).contains(' ')
}

fn name(line: &str) -> &str {
    line.split(" = ").next().unwrap_or_default()
}

/// What parsing says to a setting that does not exist: among other things, which ones do.
fn refusal(table: &str) -> String {
    let text = format!("{table}\nnonsense = 1\n");
    toml::from_str::<RawWorker>(&text).expect_err("there is no such setting").to_string()
}

fn settings_of(table: &str) -> Vec<String> {
    let refusal = refusal(table);
    let (_, known) = refusal.split_once("expected ").expect("it names what is known");
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
