//! The text part of a model that reads images too: its configuration, and what its tensors are called.
//!
//! Such a model is served without its eyes. Its `config.json` has the decoder's settings in `text_config`, and leaves
//! out those that are as its architecture has them.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::files::json as read_json;
use crate::LoadError;

/// The decoder's configuration: that of a model that only reads text, as it is.
pub(super) fn text_config(config: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    let whole: Value = read_json(FILE, config)?;
    let architecture = whole["architectures"][0].as_str().unwrap_or_default();
    if architecture != GEMMA3 {
        return Ok(Cow::Borrowed(config));
    }
    let Some(text) = whole["text_config"].as_object() else {
        return Err(LoadError::Malformed {
            what: FILE.to_owned(),
            problem: "`text_config` is missing".to_owned(),
        });
    };
    let mut merged = gemma3_defaults(text);
    for key in ["architectures", "tie_word_embeddings", "bos_token_id", "eos_token_id"] {
        let value = whole.get(key).filter(|value| !value.is_null());
        merged.extend(value.map(|value| (key.to_owned(), value.clone())));
    }
    let named = |(key, _): &(&String, &Value)| *key != "architectures";
    let said = text.iter().filter(named).filter(|(_, value)| !value.is_null());
    merged.extend(said.map(|(key, value)| (key.clone(), value.clone())));
    // The end of a conversation's turn is said beside the text part, and the end of a text in it.
    if let Some(ends) = whole.get("eos_token_id").filter(|ends| ends.is_array()) {
        merged.insert("eos_token_id".to_owned(), ends.clone());
    }
    let merged = serde_json::to_vec(&Value::Object(merged));
    merged
        .map(Cow::Owned)
        .map_err(|error| LoadError::Malformed { what: FILE.to_owned(), problem: error.to_string() })
}

/// What Gemma 3 has where its configuration says nothing.
fn gemma3_defaults(said: &Map<String, Value>) -> Map<String, Value> {
    let sizes = [
        ("vocab_size", json!(262_208)),
        ("hidden_size", json!(2304)),
        ("intermediate_size", json!(9216)),
        ("num_hidden_layers", json!(26)),
        ("num_attention_heads", json!(8)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(256)),
        ("max_position_embeddings", json!(131_072)),
        ("rms_norm_eps", json!(1e-6)),
        ("query_pre_attn_scalar", json!(256)),
        ("sliding_window", json!(4096)),
    ];
    // Where each kind of layer has its frequencies, these would contradict them.
    let bases = [("rope_theta", json!(1_000_000.0)), ("rope_local_base_freq", json!(10_000.0))];
    let bases = bases.into_iter().filter(|_| !said.contains_key("rope_parameters"));
    sizes.into_iter().chain(bases).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// How a file's names differ from those of a model that only reads text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Plain,
    /// `language_model.model.layers...`
    Before,
    /// `model.language_model.layers...`
    Within,
}

impl Layout {
    /// The layout of files that have tensors of some names.
    pub(super) fn of(has: impl Fn(&str) -> bool) -> Self {
        let layouts = [Self::Plain, Self::Before, Self::Within];
        let found = layouts.into_iter().find(|layout| has(&layout.name(EMBEDDING)));
        found.unwrap_or(Self::Plain)
    }

    /// What a tensor is called in the file.
    pub(super) fn name(self, name: &str) -> Cow<'_, str> {
        match (self, name.strip_prefix("model.")) {
            (Self::Before, _) => format!("language_model.{name}").into(),
            (Self::Within, Some(rest)) => format!("model.language_model.{rest}").into(),
            _ => name.into(),
        }
    }
}

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
const GEMMA3: &str = "Gemma3ForConditionalGeneration";
const FILE: &str = "config.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_text_part_go_before_those_of_the_architecture() {
        let config = json!({
            "architectures": [GEMMA3], "eos_token_id": [1, 106], "vision_config": {},
            "text_config": { "hidden_size": 2560, "eos_token_id": 1, "head_dim": null },
        });
        let merged = text_config(config.to_string().as_bytes()).unwrap().into_owned();
        let merged: Value = serde_json::from_slice(&merged).unwrap();
        assert_eq!(merged["architectures"][0], GEMMA3);
        assert_eq!(merged["hidden_size"], 2560);
        assert_eq!(merged["head_dim"], 256);
        assert_eq!(merged["eos_token_id"], json!([1, 106]));
        assert_eq!(merged["rope_local_base_freq"], 10_000.0);

        let plain = br#"{"architectures": ["LlamaForCausalLM"], "text_config": {}}"#;
        assert_eq!(*text_config(plain).unwrap(), plain[..]);
    }

    #[test]
    fn names_are_found_in_every_layout() {
        let of = |file: &'static str| Layout::of(move |name| name == file);
        assert_eq!(of("model.embed_tokens.weight"), Layout::Plain);
        assert_eq!(of("language_model.model.embed_tokens.weight"), Layout::Before);
        assert_eq!(of("model.language_model.embed_tokens.weight"), Layout::Within);
        assert_eq!(Layout::Before.name("lm_head.weight"), "language_model.lm_head.weight");
        assert_eq!(Layout::Within.name("lm_head.weight"), "lm_head.weight");
    }
}
