//! Decides which of the files in a place a model needs: what describes it, its tokenizer and its weights, and nothing else.
//!
//! Weights are safetensors or one GGUF file that was named. Pickles (`.bin`, `.pt`) run code when they are read, and are
//! never taken. Where an index names shards, those are taken and no others: many repositories have the same
//! weights twice.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::address::{is_gguf, is_plain_path};
use crate::source::Entry;

/// What is wanted of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A model, or an adapter if that is what is there.
    Everything,
    /// One GGUF file, and what belongs to it.
    Gguf(String),
    /// What describes text and tokens, without weights.
    Tokenizer,
}

impl Want {
    /// Its name in what is remembered.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Everything => "model".to_owned(),
            Self::Gguf(file) => format!("file {file}"),
            Self::Tokenizer => "tokenizer".to_owned(),
        }
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// These files are everything.
    Files(Vec<Entry>),
    /// These, and the shards that this index names once it is here.
    AfterIndex(Vec<Entry>, Entry),
}

/// Chooses from what is there; the words of what is missing otherwise.
pub(crate) fn choose(there: &[Entry], want: &Want) -> Result<Choice, String> {
    let find = |path: &str| there.iter().find(|entry| entry.path == path).cloned();
    match want {
        Want::Tokenizer => {
            let files = described(there, "");
            if find("tokenizer.json").is_none() {
                return Err("it has no tokenizer.json".to_owned());
            }
            Ok(Choice::Files(files))
        }
        Want::Gguf(file) => {
            let Some(weights) = find(file) else { return Err(other_gguf(there, file)) };
            let folder = file.rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
            let mut files = described(there, folder.as_deref().unwrap_or_default());
            files.push(weights);
            Ok(Choice::Files(files))
        }
        Want::Everything => {
            if find("config.json").is_none() && find(ADAPTER[0]).is_some() {
                let files: Vec<Entry> = ADAPTER.iter().filter_map(|path| find(path)).collect();
                let [.., weights] = ADAPTER;
                if files.len() < ADAPTER.len() {
                    return Err(format!("it is an adapter without {weights}"));
                }
                return Ok(Choice::Files(files));
            }
            if find("config.json").is_none() {
                return Err(without_config(there));
            }
            let mut files = described(there, "");
            if let Some(index) = find(INDEX) {
                return Ok(Choice::AfterIndex(files, index));
            }
            let Some(weights) = find(WEIGHTS) else { return Err(without_weights(there)) };
            files.push(weights);
            Ok(Choice::Files(files))
        }
    }
}

/// The shards that `index` names.
pub(crate) fn shards(index: &[u8], there: &[Entry]) -> Result<Vec<Entry>, String> {
    let index: Index =
        serde_json::from_slice(index).map_err(|error| format!("{INDEX}: {error}"))?;
    if index.weight_map.is_empty() {
        return Err(format!("{INDEX} names no weights"));
    }
    let named: BTreeSet<&String> = index.weight_map.values().collect();
    let mut found = Vec::with_capacity(named.len());
    for name in named {
        if !is_plain_path(name) || !name.ends_with(".safetensors") {
            return Err(format!("{INDEX} names `{name}`, which is no safetensors file"));
        }
        let entry = there.iter().find(|entry| entry.path == *name);
        found.push(
            entry.cloned().ok_or_else(|| format!("{INDEX} names {name}, which is not there"))?,
        );
    }
    Ok(found)
}

/// Whether a file could belong to a model, so that it counts when a place is compared with what it was.
pub(crate) fn may_belong(path: &str) -> bool {
    is_plain_path(path)
        && (is_described(path)
            || is_gguf(path)
            || path.ends_with(".safetensors")
            || path == INDEX
            || ADAPTER.contains(&path))
}

/// What describes the model and its tokens, in `folder` (ends with a slash, or is empty).
fn described(there: &[Entry], folder: &str) -> Vec<Entry> {
    let here = |entry: &&Entry| entry.path.strip_prefix(folder).is_some_and(is_described);
    there.iter().filter(here).cloned().collect()
}

fn is_described(path: &str) -> bool {
    DESCRIBED.contains(&path)
        || path.starts_with("tokenizer")
            && !path.contains('/')
            && matches!(path.rsplit_once('.'), Some((_, "json" | "model")))
}

fn other_gguf(there: &[Entry], file: &str) -> String {
    let others = ggufs(there);
    if others.is_empty() {
        return format!("it has no {file}, nor any other GGUF file");
    }
    format!("it has no {file}; there are {}", others.join(", "))
}

fn without_config(there: &[Entry]) -> String {
    let files = ggufs(there);
    if files.is_empty() {
        return "it has no config.json, so it is no model in the Hugging Face layout".to_owned();
    }
    format!("it has no config.json; name one of its GGUF files: {}", files.join(", "))
}

fn without_weights(there: &[Entry]) -> String {
    let pickled = |entry: &&Entry| PICKLES.iter().any(|end| entry.path.ends_with(end));
    let files = ggufs(there);
    match (there.iter().find(pickled), files.is_empty()) {
        (_, false) => {
            format!("it has no safetensors; name one of its GGUF files: {}", files.join(", "))
        }
        (Some(pickle), true) => format!(
            "its weights are pickled ({}), which runs code when it is read; look for a revision with safetensors",
            pickle.path
        ),
        (None, true) => format!("it has neither {WEIGHTS} nor {INDEX}"),
    }
}

fn ggufs(there: &[Entry]) -> Vec<&str> {
    let names = there.iter().map(|entry| entry.path.as_str()).filter(|path| is_gguf(path));
    names.take(MAX_NAMED).collect()
}

#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];
const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".ckpt"];
/// What is read when a model is loaded, beside its weights and what begins with `tokenizer`.
const DESCRIBED: &[&str] = &[
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];
/// Names in one message.
const MAX_NAMED: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Check;

    fn there(paths: &[&str]) -> Vec<Entry> {
        let entry = |path: &&str| Entry {
            path: (*path).to_owned(),
            size: 1,
            check: Check::Size,
            tag: None,
        };
        paths.iter().map(entry).collect()
    }

    fn chosen(paths: &[&str], want: &Want) -> Vec<String> {
        match choose(&there(paths), want).unwrap_or_else(|problem| panic!("{problem}")) {
            Choice::Files(files) => files.into_iter().map(|entry| entry.path).collect(),
            Choice::AfterIndex(files, index) => {
                files.into_iter().chain([index]).map(|entry| entry.path).collect()
            }
        }
    }

    #[test]
    fn a_model_is_what_describes_it_and_its_safetensors() {
        let paths = [
            "README.md",
            ".gitattributes",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja",
            "pytorch_model.bin",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/config.json",
            "training_args.bin",
            "consolidated.safetensors",
        ];

        let chosen = chosen(&paths, &Want::Everything);

        let wanted = [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja",
            "model.safetensors",
        ];
        assert_eq!(chosen, wanted);
    }

    #[test]
    fn of_shards_those_are_taken_that_the_index_names() {
        let there = there(&["a.safetensors", "b.safetensors", "consolidated.safetensors"]);
        let index = br#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}"#;

        let names: Vec<String> =
            shards(index, &there).unwrap().into_iter().map(|entry| entry.path).collect();

        assert_eq!(names, ["a.safetensors", "b.safetensors"]);
    }

    #[test]
    fn an_index_cannot_name_what_is_elsewhere() {
        for name in [
            "../../etc/passwd",
            "/etc/x.safetensors",
            "a/../../x.safetensors",
            "x.bin",
            "none.safetensors",
        ] {
            let index = format!(r#"{{"weight_map": {{"x": "{name}"}}}}"#);
            shards(index.as_bytes(), &there(&[name.trim_start_matches("none.safetensors")]))
                .expect_err(name);
        }
    }

    #[test]
    fn a_gguf_file_comes_with_what_is_beside_it_and_without_the_others() {
        let paths = ["q/a.gguf", "q/b.gguf", "q/tokenizer.json", "tokenizer.json", "config.json"];

        assert_eq!(
            chosen(&paths, &Want::Gguf("q/a.gguf".into())),
            ["q/tokenizer.json", "q/a.gguf"]
        );
    }

    #[test]
    fn an_adapter_is_two_files() {
        let paths =
            ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"];

        assert_eq!(chosen(&paths, &Want::Everything), ADAPTER);
    }

    #[test]
    fn whoever_finds_nothing_is_told_what_there_is() {
        let problem = |paths: &[&str], want| choose(&there(paths), &want).unwrap_err();

        let pickled = problem(&["config.json", "pytorch_model.bin"], Want::Everything);
        assert!(pickled.contains("pytorch_model.bin"), "{pickled}");
        let unnamed = problem(&["x-q4.gguf", "x-q8.gguf"], Want::Everything);
        assert!(unnamed.contains("x-q4.gguf, x-q8.gguf"), "{unnamed}");
        let other = problem(&["x-q8.gguf"], Want::Gguf("x-q4.gguf".into()));
        assert!(other.contains("there are x-q8.gguf"), "{other}");
        problem(&["adapter_config.json", "adapter_model.bin"], Want::Everything);
        problem(&[], Want::Everything);
        problem(&["config.json"], Want::Tokenizer);
    }
}
