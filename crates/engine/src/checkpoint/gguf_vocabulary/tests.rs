//! Tokenizers made of a file's own tokens against other implementations: see `tests/tokenizers/make.py`.

use std::path::PathBuf;

use candle_core::quantized::gguf_file::{Content, Value as Entry};
use serde::Deserialize;
use tokenizers::Tokenizer;

use super::*;

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
}

/// The entries of one vocabulary, with one changed or taken away.
fn changed(name: &str, key: &str, value: Option<Entry>) -> Metadata {
    let path = folder().join(name).join("vocabulary.gguf");
    let mut file = std::fs::File::open(path).unwrap();
    let mut entries = Content::read(&mut file).unwrap().metadata;
    entries.remove(key);
    entries.extend(value.map(|value| (key.to_owned(), value)));
    Metadata::new(entries)
}

fn tokenizer(metadata: &Metadata) -> Tokenizer {
    let bytes = tokenizer_json(metadata, ANY_VOCABULARY).unwrap();
    Tokenizer::from_bytes(bytes).unwrap()
}

fn problem(metadata: &Metadata) -> String {
    tokenizer_json(metadata, ANY_VOCABULARY).unwrap_err().to_string()
}

#[test]
fn texts_become_the_tokens_that_other_implementations_say() {
    for name in names() {
        let tokenizer = tokenizer(&changed(&name, "", None));
        let golden = std::fs::read(folder().join(&name).join("golden.json")).unwrap();
        let golden: Vec<Case> = serde_json::from_slice(&golden).unwrap();
        for Case { text, ids } in golden {
            let found = tokenizer.encode_fast(text.as_str(), true).unwrap();
            assert_eq!(found.get_ids(), ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn tokens_become_their_texts_again() {
    for name in names() {
        let tokenizer = tokenizer(&changed(&name, "", None));
        for text in ["it's  12345\n\n and \u{1F642}", " Größe, 漢字\t\tx"] {
            let ids = tokenizer.encode_fast(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn the_same_entries_make_the_same_file() {
    let made = || tokenizer_json(&changed("llama-bpe", "", None), ANY_VOCABULARY).unwrap();
    assert_eq!(made(), made());
}

#[test]
fn what_is_unknown_or_missing_is_named_with_the_remedy() {
    let text = |text: &str| Some(Entry::String(text.to_owned()));
    for (name, key, value) in [
        ("qwen2", PRE, text("klingon")),
        ("qwen2", MODEL, text("rwkv")),
        ("llama", CHARACTERS, text("x")),
        ("qwen2", "tokenizer.ggml.add_sep_token", Some(Entry::Bool(true))),
    ] {
        let problem = problem(&changed(name, key, value));
        let named = problem.contains(key) && problem.contains("tokenizer.json");
        assert!(named, "{key}: {problem}");
    }
    for (name, key) in
        [("qwen2", MODEL), ("qwen2", PRE), ("qwen2", TOKENS), ("qwen2", MERGES), ("llama", SCORES)]
    {
        let problem = problem(&changed(name, key, None));
        let named = problem.contains(key) && problem.contains("tokenizer.json");
        assert!(named, "{key}: {problem}");
    }
    let key = "tokenizer.ggml.bos_token_id";
    let problem = problem(&changed("llama-bpe", key, None));
    assert!(problem.contains(key), "{problem}");
}

#[test]
fn entries_that_contradict_each_other_are_errors() {
    let texts = |texts: &[&str]| {
        Some(Entry::Array(texts.iter().map(|text| Entry::String((*text).to_owned())).collect()))
    };
    let merged = problem(&changed("gpt-2", MERGES, texts(&["a nowhere"])));
    assert!(merged.contains("a nowhere"), "{merged}");
    let shorter = problem(&changed("gpt-2", TOKENS, texts(&["a", "b"])));
    assert!(shorter.contains(KINDS), "{shorter}");
    let metadata = changed("gpt-2", KINDS, None);
    let longer = tokenizer_json(&metadata, 10).unwrap_err().to_string();
    assert!(longer.contains(TOKENS), "{longer}");
    let outside = Some(Entry::U32(100_000));
    let outside = problem(&changed("llama-bpe", "tokenizer.ggml.bos_token_id", outside));
    assert!(outside.contains("100000"), "{outside}");
}

#[test]
fn a_whole_tokenizer_in_a_file_is_that_tokenizer() {
    let whole = Some(Entry::String("{}".to_owned()));
    let metadata = changed("gpt-2", "tokenizer.huggingface.json", whole);
    assert_eq!(tokenizer_json(&metadata, ANY_VOCABULARY).unwrap(), b"{}");
}

#[test]
fn special_tokens_of_phi_swallow_the_spaces_behind_them() {
    let name = Some(Entry::String("Phi-3 mini".to_owned()));
    let tokenizer = tokenizer(&changed("gpt-2", "general.name", name));
    let ids = |text: &str| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids("<|end|>\n a"), ids("<|end|>a"));
}

#[test]
fn tokens_that_end_a_turn_are_known_by_their_names() {
    let metadata = changed("gpt-2", "", None);
    let tokenizer = tokenizer(&metadata);
    let expected = ["<|end|>", "<|im_end|>"].map(|text| tokenizer.token_to_id(text).unwrap());
    assert_eq!(tokens_that_end(&metadata).unwrap(), expected);
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let names: Vec<String> =
        folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    assert!(names.len() >= 9, "{names:?}");
    names
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers")
}

const ANY_VOCABULARY: usize = 1 << 20;
