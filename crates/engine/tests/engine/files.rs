//! Files that are no models give errors that name what is wrong; they never panic.

use std::path::Path;

use domain::{ErrorKind, ModelName};
use engine::{LoadError, Model, ModelSource};

use crate::support::{demo_file, gguf, load};

fn error(source: &ModelSource) -> LoadError {
    Model::load(ModelName::new("bad"), source, &mut |_| {}).unwrap_err()
}

/// A copy of the demo model's folder, with one file changed.
fn folder_with(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(demo_file(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join(file);
    let content = std::fs::read(&path).unwrap_or_default();
    std::fs::write(path, change(content)).unwrap();
    folder
}

fn folder_error(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> LoadError {
    let folder = folder_with(file, change);
    error(&ModelSource::Folder(folder.path().to_owned()))
}

fn config_error(from: &str, to: &str) -> String {
    let replaced = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(from));
        text.replace(from, to).into_bytes()
    };
    folder_error("config.json", replaced).to_string()
}

fn gguf_error(change: impl FnOnce(&mut Vec<u8>)) -> LoadError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = std::fs::read(demo_file("tollgate-demo-q4_k_m.gguf")).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    error(&gguf(path))
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn a_missing_file_is_named() {
    let missing = error(&ModelSource::Folder(Path::new("nowhere").to_owned()));
    assert_eq!(missing.kind(), ErrorKind::Unavailable);
    assert!(missing.to_string().contains("config.json"), "{missing}");
    assert!(matches!(error(&gguf("nowhere.gguf".into())), LoadError::Read { .. }));
}

#[test]
fn truncated_and_garbled_safetensors_are_errors() {
    for length in [0, 4, 100, 10_000, 14_000_000] {
        let error = folder_error("model.safetensors", |bytes| bytes[..length].to_vec());
        assert!(matches!(error, LoadError::Malformed { .. } | LoadError::Read { .. }), "{error}");
    }
    let error = folder_error("model.safetensors", |mut bytes| {
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    });
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
}

#[test]
fn truncated_and_garbled_gguf_are_errors() {
    for length in [0, 3, 30, 5_000, 200_000, 4_000_000] {
        let error = gguf_error(|bytes| bytes.truncate(length));
        assert!(!error.to_string().is_empty());
    }
    let error = gguf_error(|bytes| bytes[..4].copy_from_slice(b"GGML"));
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
}

#[test]
fn what_we_cannot_run_is_named() {
    let error =
        gguf_error(|bytes| replace(bytes, b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba"));
    assert!(error.to_string().contains("architecture `mamba`"), "{error}");

    let message = config_error("LlamaForCausalLM", "MambaForCausalLM");
    assert!(message.contains("MambaForCausalLM"), "{message}");
    let message = config_error("\"attention_bias\": false", "\"attention_bias\": true");
    assert!(message.contains("attention_bias"), "{message}");
    let message =
        config_error("\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"yarn\"}");
    assert!(message.contains("yarn"), "{message}");
    let message = config_error("\"head_dim\": 32", "\"head_dim\": 24");
    assert!(message.contains("head size 24"), "{message}");
}

#[test]
fn an_unknown_tensor_type_names_the_tensor() {
    let error = gguf_error(|bytes| {
        // The type follows the name, the number of dimensions (4 bytes) and two dimensions (16 bytes).
        let name = b"blk.3.ffn_down.weight";
        let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
        let at = at + name.len() + 20;
        bytes[at..at + 4].copy_from_slice(&21_u32.to_le_bytes());
    });
    let message = error.to_string();
    assert!(matches!(error, LoadError::Unsupported { .. }), "{message}");
    assert!(message.contains("blk.3.ffn_down.weight") && message.contains("21"), "{message}");
}

#[test]
fn a_tensor_that_does_not_fit_the_configuration_is_named() {
    let message = config_error("\"intermediate_size\": 768", "\"intermediate_size\": 512");
    assert!(message.contains("gate_proj"), "{message}");
    let message = config_error("\"num_hidden_layers\": 8", "\"num_hidden_layers\": 9");
    assert!(message.contains("model.layers.8"), "{message}");
    let message = config_error("\"num_attention_heads\": 8", "\"num_attention_heads\": 0");
    assert!(message.contains("num_attention_heads"), "{message}");
    let message = config_error("\"vocab_size\": 4096", "\"vocab_size\": 99999999999");
    assert!(message.contains("vocabulary"), "{message}");
}

#[test]
fn shards_are_found_by_their_index_and_only_in_the_folder() {
    let shard = r#"{"weight_map": {"model.norm.weight": "model.safetensors"}}"#;
    let folder = folder_with("model.safetensors.index.json", |_| shard.into());
    let source = ModelSource::Folder(folder.path().to_owned());
    let model = Model::load(ModelName::new("sharded"), &source, &mut |_| {}).unwrap();
    assert_eq!(model.info().vocabulary, 4096);

    let outside = r#"{"weight_map": {"model.norm.weight": "../secret"}}"#;
    let error = folder_error("model.safetensors.index.json", |_| outside.into());
    assert!(error.to_string().contains("../secret"), "{error}");
}

#[test]
fn another_template_is_another_digest() {
    let digest = |file, change: fn(Vec<u8>) -> Vec<u8>| {
        let folder = folder_with(file, change);
        let source = ModelSource::Folder(folder.path().to_owned());
        let model = Model::load(ModelName::new("m"), &source, &mut |_| {}).unwrap();
        model.info().digest.clone()
    };
    let same = digest("config.json", |bytes| bytes);
    assert_eq!(same, digest("config.json", |bytes| bytes));
    assert_ne!(
        same,
        digest("tokenizer.json", |mut bytes| {
            bytes.push(b' ');
            bytes
        })
    );
    let other = digest("tokenizer_config.json", |_| br#"{"chat_template": "x"}"#.to_vec());
    assert_ne!(same, other);
}

#[test]
fn loading_tells_its_progress() {
    let mut parts = Vec::new();
    let mut note = |progress: engine::Progress| parts.push((progress.loaded, progress.total));
    Model::load(ModelName::new("demo"), &ModelSource::Demo, &mut note).unwrap();
    assert_eq!(parts.first(), Some(&(1, 9)));
    assert_eq!(parts.last(), Some(&(9, 9)));
}

#[test]
fn a_gguf_file_without_an_alignment_is_an_error() {
    let error = gguf_error(|bytes| {
        // Behind the counts of tensors and of entries, as another entry. Its kind is a number of 32 bits.
        let entries = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + 1;
        bytes[16..24].copy_from_slice(&entries.to_le_bytes());
        let entry = b"\x11\0\0\0\0\0\0\0general.alignment\x04\0\0\0\0\0\0\0";
        bytes.splice(24..24, entry.iter().copied());
    });
    assert!(error.to_string().contains("`general.alignment` is 0"), "{error}");
}

/// The demo model's GGUF file by itself in a folder, and the folder.
fn gguf_alone() -> (tempfile::TempDir, ModelSource) {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.gguf");
    std::fs::copy(demo_file("tollgate-demo-q4_k_m.gguf"), &weights).unwrap();
    let tokenizer = folder.path().to_owned();
    (folder, ModelSource::Gguf { weights, tokenizer })
}

#[test]
fn a_gguf_file_alone_has_the_models_tokens_and_its_template() {
    let (_folder, source) = gguf_alone();
    let model = load(&source);
    let found = tokenizers::Tokenizer::from_bytes(&model.files().tokenizer).unwrap();
    let expected = tokenizers::Tokenizer::from_file(demo_file("tokenizer.json")).unwrap();
    for text in ["", " It's\n\n12345  words", "<|im_start|>user\nHi<|im_end|>", "Gr\u{f6}\u{df}e"] {
        let ids = |tokenizer: &tokenizers::Tokenizer| {
            tokenizer.encode(text, true).unwrap().get_ids().to_vec()
        };
        assert_eq!(ids(&found), ids(&expected), "{text:?}");
        let text_of =
            |tokenizer: &tokenizers::Tokenizer| tokenizer.decode(&ids(tokenizer), true).unwrap();
        assert_eq!(text_of(&found), text_of(&expected), "{text:?}");
    }
    let template = model.files().chat_template.clone().unwrap();
    assert!(template.contains("<|im_start|>"), "{template}");
    assert_eq!(model.info().stop_tokens.first(), Some(&4089));
}

#[test]
fn what_is_beside_a_gguf_file_goes_before_what_is_in_it() {
    let (folder, source) = gguf_alone();
    let tokenizer = std::fs::read(demo_file("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), &tokenizer).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), "beside").unwrap();
    let model = load(&source);
    assert_eq!(&model.files().tokenizer[..], &tokenizer[..]);
    assert_eq!(model.files().chat_template.as_deref(), Some("beside"));
}

#[test]
fn a_tensor_that_nobody_reads_is_named() {
    let error = gguf_error(|bytes| {
        // A number of 32 bits follows the key and its kind. One layer less than there is.
        let key = b"llama.block_count";
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
        bytes[at + key.len() + 4] -= 1;
    });
    let message = error.to_string();
    assert!(matches!(error, LoadError::Unsupported { .. }), "{message}");
    assert!(message.contains("`blk.7.attn_k.weight`"), "{message}");
}

#[test]
fn a_stop_token_beyond_the_vocabulary_is_named() {
    let config = r#"{"eos_token_id": [4089, 4096]}"#;
    let error = folder_error("generation_config.json", |_| config.into()).to_string();
    assert!(error.contains("4096") && error.contains("eos_token_id"), "{error}");
}
