//! Holds what we ship for Prometheus, Grafana and autoscalers to the figures that there are.

use std::collections::BTreeSet;

use crate::files::{File, rust, texts};

#[test]
fn every_figure_that_a_rule_or_a_dashboard_asks_for_is_told_by_a_gateway() {
    let source: String = rust()
        .into_iter()
        .filter(|file| file.path.starts_with("crates"))
        .map(|file| file.text)
        .collect();
    let asked: BTreeSet<String> = shipped().iter().flat_map(|file| figures(&file.text)).collect();
    assert!(asked.len() > 10, "the deployment asks for figures: {asked:?}");

    let unknown: Vec<_> = asked.iter().filter(|name| !is_told(name, &source)).collect();

    assert!(unknown.is_empty(), "no gateway tells these: {unknown:?}");
}

#[test]
fn every_figure_that_an_autoscaler_asks_for_is_recorded_by_a_rule() {
    let files = shipped();
    let rules = files.iter().find(|file| file.path.ends_with("prometheus/rules.yaml")).unwrap();
    let scalers = files.iter().filter(|file| file.text.contains("kind: ScaledObject"));
    let queries = scalers.flat_map(|file| file.text.lines().filter_map(query));
    let queries: Vec<&str> = queries.collect();
    assert!(!queries.is_empty(), "there is an autoscaler");

    for query in queries {
        assert!(rules.text.contains(&format!("record: {query}\n")), "no rule records {query}");
    }
}

fn shipped() -> Vec<File> {
    let is_deployed =
        |file: &File| file.path.starts_with("deploy") && file.has_extension(&["yaml", "json"]);
    texts().into_iter().filter(is_deployed).collect()
}

fn query(line: &str) -> Option<&str> {
    line.trim().strip_prefix("query: ")
}

/// Names of figures in a text, without what Prometheus adds to those of histograms.
fn figures(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (start, _) in text.match_indices("tollgate_") {
        let rest = &text[start..];
        let end = rest.find(|letter: char| !(letter.is_ascii_lowercase() || letter == '_'));
        let name = &rest[..end.unwrap_or(rest.len())];
        let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        names.insert(whole.unwrap_or(name).to_owned());
    }
    names
}

/// Whether the source has this name, or makes it of a word that it has.
fn is_told(name: &str, source: &str) -> bool {
    let made = name.strip_prefix("tollgate_routing_").and_then(|word| word.strip_suffix("_total"));
    let word = made.unwrap_or(name);
    source.contains(&format!("\"{word}\"")) || source.contains(&format!("# TYPE {word} "))
}
