//! Every seed of the fuzz targets, and what they are to show.

use self::seeds::seeds;
use super::*;

#[path = "../../../../fuzz/seeds.rs"]
mod seeds;

#[test]
fn chat_template_seeds_are_rendered_or_refused() {
    for (name, seed) in seeds("chat_template") {
        let rendered = chat_template(&seed);
        assert_eq!(rendered.is_some(), !name.starts_with("refused"), "{name}");
    }
}

#[test]
fn tool_call_seeds_have_their_calls_however_they_are_cut() {
    for (name, seed) in seeds("tool_calls") {
        let calls = tool_calls(&seed).unwrap_or_default();
        assert_eq!(calls > 0, !name.starts_with("none"), "{name}");
    }
}

#[test]
fn request_seeds_are_read_or_refused_as_the_callers_mistake() {
    for (name, seed) in seeds("request") {
        assert_eq!(request(&seed), !name.starts_with("refused"), "{name}");
    }
}
