//! Every seed of the fuzz targets, and what they are to show.

use self::seeds::seeds;
use super::*;

#[path = "../../../../fuzz/seeds.rs"]
mod seeds;

/// The names of the seeds that are what they claim to be, in order.
fn good(target: &str, read: impl Fn(&[u8]) -> bool) -> Vec<String> {
    seeds(target).into_iter().filter(|(_, seed)| read(seed)).map(|(name, _)| name).collect()
}

#[test]
fn gguf_seeds_are_models_or_errors() {
    let folder = Folder::new("gguf-seeds").unwrap();
    let models = good("gguf", |seed| gguf(&folder, seed).unwrap());
    assert_eq!(models, ["llama-tiny", "llama-with-tokens", "qwen2-tiny"]);
}

#[test]
fn safetensors_seeds_are_models_or_errors() {
    let folder = Folder::new("safetensors-seeds").unwrap();
    let models = good("safetensors", |seed| safetensors(&folder, seed).unwrap());
    assert_eq!(models, ["bert-tiny", "llama-tiny"]);
}

#[test]
fn grammar_seeds_compile_or_are_refused() {
    let formats = good("grammar", grammar);
    assert!(formats.iter().any(|name| name == "schema-person"), "{formats:?}");
    assert!(formats.iter().any(|name| name == "lark-list"), "{formats:?}");
    assert!(formats.iter().any(|name| name == "regex-plain"), "{formats:?}");
}
