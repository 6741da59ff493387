//! The small files beside the weights: tokenizer, chat template, end-of-turn tokens.

use std::path::Path;
use std::sync::Arc;

use domain::ModelFiles;
use serde::Deserialize;

use super::templates::chat_template;
use crate::LoadError;

/// What we read of `generation_config.json`.
#[derive(Default, Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<TokenIds>,
}

/// One id or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    pub(super) fn ids(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// Tokenizer and chat template of a folder.
pub(super) fn model_files(folder: &Path) -> Result<ModelFiles, LoadError> {
    let tokenizer = read(&folder.join("tokenizer.json"))?;
    let chat_template = chat_template(folder)?.map(Arc::from);
    Ok(ModelFiles { tokenizer: tokenizer.into(), chat_template })
}

/// The end-of-turn tokens in a `generation_config.json`.
pub(super) fn stop_tokens(generation_config: &[u8]) -> Result<Vec<u32>, LoadError> {
    let config: GenerationConfig = json("generation_config.json", generation_config)?;
    Ok(config.eos_token_id.map_or_else(Vec::new, |ids| ids.ids().to_vec()))
}

/// `more` stop tokens, without repeats.
pub(super) fn add_stop_tokens(stop_tokens: &mut Vec<u32>, more: &[u32]) {
    for id in more {
        if !stop_tokens.contains(id) {
            stop_tokens.push(*id);
        }
    }
}

pub(super) fn json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes)
        .map_err(|error| LoadError::Malformed { what: what.to_owned(), problem: error.to_string() })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Read { path: path.to_owned(), source }),
    }
}

pub(super) fn text(what: &str, bytes: Vec<u8>) -> Result<String, LoadError> {
    String::from_utf8(bytes)
        .map_err(|error| LoadError::Malformed { what: what.to_owned(), problem: error.to_string() })
}
