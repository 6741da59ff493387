//! Opens a model's files and hands out its weights by Hugging Face names.
//!
//! A [`Checkpoint`] is either safetensors or GGUF; an architecture does not know which. A tensor that is
//! missing or has another shape than the configuration says is an error that names it.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use domain::{ModelDigest, ModelFiles};

use crate::models::Shape;
use crate::ops::linear::Linear;
use crate::{LoadError, ModelSource};

mod adapter;
mod adapter_config;
mod config;
mod files;
mod gguf;
mod gguf_header;
mod gguf_metadata;
mod gguf_names;
mod gguf_pieces;
mod gguf_shape;
mod gguf_splits;
mod gguf_tokenizer;
mod gguf_vocabulary;
mod gguf_write;
mod listing;
mod rotary;
mod safetensors;
mod templates;
mod text_part;

pub(crate) use adapter::AdapterFiles;
pub(crate) use gguf_write::interleave;
pub use gguf_write::{Written, write_gguf};
pub(crate) use listing::{Listed, Listing, list, tensors_in};
pub(crate) use rotary::plain_frequencies;
pub(crate) use safetensors::{Folder, architecture_of};

/// Weights by name.
pub(crate) trait Checkpoint {
    /// Projections below each other, each `[outputs, inputs]`.
    fn linear(&mut self, parts: &[Part], inputs: usize) -> Result<Linear, LoadError>;

    /// `width` numbers, as `f32`.
    fn vector(&mut self, name: &str, width: usize) -> Result<Tensor, LoadError>;

    /// The weights of a norm. Some architectures' safetensors hold them less one (`from_one`); GGUF never
    /// does.
    fn norm(&mut self, name: &str, width: usize, from_one: bool) -> Result<Tensor, LoadError>;

    /// Everything that the architecture has was read. Refuses what is left, where a file holds one model and
    /// nothing else.
    fn finish(&self) -> Result<(), LoadError> {
        Ok(())
    }
}

/// One projection's weights.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) outputs: usize,
}

impl Part {
    pub(crate) fn new(name: &str, outputs: usize) -> Self {
        Self { name: name.to_owned(), outputs }
    }
}

/// A model whose files are open and understood, but whose weights are not loaded.
pub(crate) struct Opened {
    pub(crate) architecture: String,
    pub(crate) shape: Shape,
    pub(crate) stop_tokens: Vec<u32>,
    /// How the weights are stored, for people.
    pub(crate) weights: String,
    pub(crate) digest: ModelDigest,
    pub(crate) files: ModelFiles,
    pub(crate) checkpoint: Box<dyn Checkpoint>,
}

/// Opens a model's files.
pub(crate) fn open(source: &ModelSource) -> Result<Opened, LoadError> {
    let opened = match source {
        ModelSource::Demo => safetensors::open_demo(None),
        ModelSource::Folder(folder) => safetensors::open_folder(folder, None),
        ModelSource::Quantized { folder: None, quantization } => {
            safetensors::open_demo(Some(*quantization))
        }
        ModelSource::Quantized { folder: Some(folder), quantization } => {
            safetensors::open_folder(folder, Some(*quantization))
        }
        ModelSource::Gguf { weights, tokenizer } => gguf::open(weights, tokenizer),
    }?;
    // Who draws tokens looks them up among the logits.
    let is_outside = |id: &&u32| **id as usize >= opened.shape.vocabulary;
    match opened.stop_tokens.iter().find(is_outside) {
        None => Ok(opened),
        Some(id) => Err(LoadError::Malformed {
            what: "the model's end-of-turn tokens".to_owned(),
            problem: format!(
                "{id} is beyond its vocabulary of {} tokens; correct `eos_token_id`",
                opened.shape.vocabulary
            ),
        }),
    }
}

/// Names everything that decides a model's tokens. Each piece is preceded by its length.
#[derive(Default)]
struct Digest(blake3::Hasher);

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn add_file(&mut self, path: &Path) -> Result<(), LoadError> {
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        self.0.update(&length.to_le_bytes());
        self.0.update_reader(file).map_err(read)?;
        Ok(())
    }

    fn add_files(&mut self, files: &ModelFiles) {
        self.add(&files.tokenizer);
        self.add(files.chat_template.as_ref().map_or(&[], |template| template.as_bytes()));
    }

    /// Stop tokens decide where an answer ends.
    fn add_stop_tokens(&mut self, stop_tokens: &[u32]) {
        let bytes: Vec<u8> = stop_tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        self.add(&bytes);
    }

    fn finish(&self) -> ModelDigest {
        ModelDigest::new(Arc::from(self.0.finalize().to_hex().as_str()))
    }
}

/// Refuses a tensor whose shape is not the one expected.
fn check_shape(tensor: &str, found: &[usize], expected: &[usize]) -> Result<(), LoadError> {
    if found == expected {
        return Ok(());
    }
    Err(tensor_error(
        tensor,
        &format!("has shape {found:?}, but the configuration says {expected:?}"),
    ))
}

pub(crate) fn tensor_error(tensor: &str, problem: &impl ToString) -> LoadError {
    LoadError::Tensor { tensor: tensor.to_owned(), problem: problem.to_string() }
}
