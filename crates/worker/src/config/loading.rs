//! What a worker's configuration says of models beside the first: those it starts with, and where others may come from.

use std::path::{Path, PathBuf};

use domain::Problems;
use engine::{ModelSource, Quantization};
use serde::Deserialize;

use super::hub::is_gguf;

/// A model beside the first, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBeside {
    /// What clients ask for.
    name: String,
    /// A folder in the Hugging Face layout, or a GGUF file.
    path: PathBuf,
    /// Store the weights of a folder in fewer bits while they are loaded.
    quantize: Option<Quantization>,
    /// For a GGUF file: a `tokenizer.json`, or a folder with one; its own folder if absent, and what the file itself
    /// holds where there is none.
    tokenizer: Option<PathBuf>,
}

impl RawBeside {
    /// Where it is, and where its tokenizer is.
    pub(super) fn paths(&mut self) -> (Option<&mut PathBuf>, Option<&mut PathBuf>) {
        (Some(&mut self.path), self.tokenizer.as_mut())
    }
}

/// What may be loaded while the worker runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLoading {
    /// The only folder below which files are read then; absent means that nothing is loaded.
    pub(super) folder: Option<PathBuf>,
}

/// A model beside the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSettings {
    /// What clients ask for.
    pub name: String,
    /// Where it is.
    pub source: ModelSource,
}

/// What they mean, beside a first model of this name.
pub(super) fn check(
    written: Vec<RawBeside>,
    first: &str,
    problems: &mut Problems,
) -> Vec<ModelSettings> {
    let mut models: Vec<ModelSettings> = Vec::with_capacity(written.len());
    for (index, RawBeside { name, path, quantize, tokenizer }) in written.into_iter().enumerate() {
        let at = format!("models[{index}]");
        check_model((&at, &name), Some(&path), quantize.is_some(), tokenizer.is_some(), problems);
        if name == first || models.iter().any(|other| other.name == name) {
            let problem = format!("`{name}` is there before; give it a name of its own");
            problems.add(format!("{at}.name"), problem);
        }
        models.push(ModelSettings { name, source: source(Some(path), quantize, tokenizer) });
    }
    models
}

/// What is wrong with the model that is written `at` a place.
pub(super) fn check_model(
    (at, name): (&str, &str),
    path: Option<&Path>,
    quantized: bool,
    has_tokenizer: bool,
    problems: &mut Problems,
) {
    if name.trim().is_empty() {
        problems.add(format!("{at}.name"), "must not be empty");
    }
    if path.is_none() && has_tokenizer {
        problems.add(format!("{at}.tokenizer"), format!("is for a GGUF file; set `{at}.path` too"));
    }
    if path.is_some_and(is_gguf) && quantized {
        let message = "a GGUF file is quantized as it is; leave this out, or name a folder";
        problems.add(format!("{at}.quantize"), message);
    }
}

/// The files that are meant by what was written of a model.
pub(crate) fn source(
    path: Option<PathBuf>,
    quantize: Option<Quantization>,
    tokenizer: Option<PathBuf>,
) -> ModelSource {
    match (path, quantize) {
        (Some(weights), _) if is_gguf(&weights) => {
            let beside = weights.parent().map(PathBuf::from).unwrap_or_default();
            ModelSource::Gguf { weights, tokenizer: tokenizer.unwrap_or(beside) }
        }
        (folder, Some(quantization)) => ModelSource::Quantized { folder, quantization },
        (Some(folder), None) => ModelSource::Folder(folder),
        (None, None) => ModelSource::Demo,
    }
}
