//! Where a model's files are.

use std::path::PathBuf;

use crate::Quantization;

/// Where to load a model from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// The small demonstration model that is compiled in.
    Demo,
    /// A folder in the Hugging Face layout: `config.json`, `model.safetensors` (or
    /// `model.safetensors.index.json` with shards), `tokenizer.json`, `tokenizer_config.json`.
    Folder(PathBuf),
    /// The same, quantized while it is loaded.
    Quantized {
        /// The folder; the demonstration model if absent.
        folder: Option<PathBuf>,
        /// To which blocks.
        quantization: Quantization,
    },
    /// Weights in one GGUF file.
    Gguf {
        /// The GGUF file.
        weights: PathBuf,
        /// A `tokenizer.json`, or a folder in which one may be (and a chat template, and `generation_config.json`).
        /// Without one there, the file's own tokens are used.
        tokenizer: PathBuf,
    },
}
