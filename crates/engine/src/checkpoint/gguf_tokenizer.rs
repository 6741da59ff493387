//! A tokenizer as GGUF files hold it: the entries that llama.cpp reads.
//!
//! Byte-level BPE alone; a tokenizer of another kind, or one that splits text in a way llama.cpp has no name for,
//! is an error that says so: a file that reads text otherwise than the model was trained would be worse than
//! none.

use candle_core::quantized::gguf_file::Value;
use serde::Deserialize;

use super::files::json;
use crate::LoadError;

/// What we read of `tokenizer.json`.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<serde_json::Value>,
    #[serde(rename = "pre_tokenizer")]
    splits: Option<serde_json::Value>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    r#type: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    vocab: std::collections::BTreeMap<String, u32>,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Joined(String),
}

/// The entries for the tokenizer in `bytes`, for a vocabulary of this size.
pub(super) fn entries(
    bytes: &[u8],
    vocabulary: usize,
) -> Result<Vec<(&'static str, Value)>, LoadError> {
    let tokenizer: File = json(FILE, bytes)?;
    let is_bpe = tokenizer.model.r#type.as_deref().is_none_or(|kind| kind == "BPE");
    if !is_bpe
        || tokenizer.model.byte_fallback
        || tokenizer.normalizer.as_ref().is_some_and(changes_text)
    {
        return Err(unsupported("a tokenizer other than byte-level BPE"));
    }
    let splits = tokenizer.splits.map(|value| value.to_string()).unwrap_or_default();
    let known = SPLITS.iter().find(|(part, _)| splits.contains(part));
    let (_, splits) = known.ok_or_else(|| unsupported("this tokenizer's way to split text"))?;
    let mut tokens = vec![None; vocabulary];
    let mut types = vec![UNUSED; vocabulary];
    let mut place = |id: u32, text: &str, kind| {
        let id = id as usize;
        if id >= vocabulary {
            let problem = format!("token {id} is beyond the model's vocabulary");
            return Err(LoadError::Malformed { what: FILE.to_owned(), problem });
        }
        tokens[id] = Some(text.to_owned());
        types[id] = kind;
        Ok(())
    };
    for (text, id) in &tokenizer.model.vocab {
        place(*id, text, NORMAL)?;
    }
    for Added { id, content, special } in &tokenizer.added_tokens {
        place(*id, content, if *special { CONTROL } else { USER_DEFINED })?;
    }
    let name = |(id, text): (usize, Option<String>)| text.unwrap_or_else(|| format!("[PAD{id}]"));
    let tokens = tokens.into_iter().enumerate().map(name).map(Value::String).collect();
    let merge = |merge: Merge| match merge {
        Merge::Pair(left, right) => Value::String(format!("{left} {right}")),
        Merge::Joined(both) => Value::String(both),
    };
    Ok(vec![
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String((*splits).to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(types.into_iter().map(Value::I32).collect())),
        (
            "tokenizer.ggml.merges",
            Value::Array(tokenizer.model.merges.into_iter().map(merge).collect()),
        ),
    ])
}

/// NFC leaves text as it is that was written in the usual way, and llama.cpp has no word for it.
fn changes_text(normalizer: &serde_json::Value) -> bool {
    !normalizer.is_null() && normalizer["type"] != "NFC"
}

fn unsupported(what: &str) -> LoadError {
    LoadError::Unsupported {
        what: format!("{what} in a GGUF file"),
        remedy: "quantize the model while it is loaded instead".to_owned(),
    }
}

/// How a tokenizer's own pattern begins to differ, and what llama.cpp calls it; the more specific first.
const SPLITS: &[(&str, &str)] = &[
    (r"\\p{N}{1,3}|", "llama-bpe"),
    (r"?\\p{L}+|\\p{N}| ?[^", "qwen2"),
    (r#""type":"ByteLevel""#, "gpt-2"),
];

const FILE: &str = "tokenizer.json";
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
