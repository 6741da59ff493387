//! What the fuzz targets in `fuzz/` call: bytes that nobody vouches for, to the functions that read them.
//!
//! Decides how one input is cut into the files or texts that a function reads. Promises that whatever is
//! refused is refused by an error: a panic is a finding. There is no stable interface, and nothing of it is in the product.

use std::path::PathBuf;
use std::sync::OnceLock;

use domain::{Format, ModelName};

use crate::grammar::Trial;
use crate::{Encoder, Model, ModelSource};

/// A folder that inputs are written to as the files of a model. Removed when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new folder, for this process alone, that has what every model's folder has.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let path =
            std::env::temp_dir().join(format!("tollgate-fuzz-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        std::fs::write(path.join("tokenizer.json"), "{}")?;
        std::fs::create_dir_all(path.join(EMPTY))?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> std::io::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Loads a GGUF file: its header, its configuration, and the tensors that the configuration names. Once with a tokenizer
/// beside it, and once with its own tokens.
pub fn gguf(folder: &Folder, bytes: &[u8]) -> std::io::Result<bool> {
    let weights = folder.write("model.gguf", bytes)?;
    let loads = |tokenizer| {
        let source = ModelSource::Gguf { weights: weights.clone(), tokenizer };
        Model::load(ModelName::new("fuzzed"), &source, &mut |_| {}).is_ok()
    };
    let alone = loads(folder.0.join(EMPTY));
    Ok(loads(folder.0.clone()) || alone)
}

/// Loads a folder of `config.json`, `generation_config.json`, `tokenizer_config.json` and weights, which follow
/// each other in `bytes`; between them a byte that no UTF-8 text has.
pub fn safetensors(folder: &Folder, bytes: &[u8]) -> std::io::Result<bool> {
    let mut parts = bytes.splitn(SAFETENSORS_FILES.len(), |byte| *byte == BETWEEN_FILES);
    for name in SAFETENSORS_FILES {
        folder.write(name, parts.next().unwrap_or_default())?;
    }
    let name = ModelName::new("fuzzed");
    // Who loads a folder looks first which kind of model it is.
    if Encoder::is_in(&folder.0) {
        return Ok(Encoder::load(name, &folder.0, &mut |_| {}).is_ok());
    }
    Ok(Model::load(name, &ModelSource::Folder(folder.0.clone()), &mut |_| {}).is_ok())
}

/// Compiles a format for the built-in model, and follows it for a while. The first byte of `input` says what
/// kind of format it is, the second how many of the bytes after that draw tokens; the rest is its text.
///
/// Returns whether it is a format.
pub fn grammar(input: &[u8]) -> bool {
    let [kind, draws, rest @ ..] = input else { return false };
    let (draws, text) = rest.split_at(rest.len().min(usize::from(*draws) % MAX_DRAWS));
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let format = match kind % 4 {
        0 => Format::JsonSchema(text.into()),
        1 => Format::Regex(text.into()),
        2 => Format::Grammar(text.into()),
        _ => Format::Choice(text.split('\n').map(str::to_owned).collect()),
    };
    trial().follow(&format, draws)
}

/// What compiles for the built-in model; its tokens are read once.
fn trial() -> &'static Trial {
    static TRIAL: OnceLock<Trial> = OnceLock::new();
    TRIAL.get_or_init(|| {
        let model = Model::load(ModelName::new("demo"), &ModelSource::Demo, &mut |_| {});
        let model = model.expect("the model that is compiled in can be loaded");
        let trial = Trial::new(model.files(), model.info());
        trial.expect("the model that is compiled in has a vocabulary")
    })
}

/// What a folder has beside its tokenizer, weights last: they may hold any byte.
const SAFETENSORS_FILES: [&str; 4] =
    ["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"];
/// A folder with nothing in it.
const EMPTY: &str = "empty";
const BETWEEN_FILES: u8 = 0xFF;
/// Tokens drawn of one format.
const MAX_DRAWS: usize = 32;

#[cfg(test)]
mod tests;
