//! Models in the Hugging Face layout: safetensors and `config.json`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::safetensors::{MmapedSafetensors, SliceSafetensors};
use candle_core::{DType, Device, Tensor};
use domain::ModelFiles;
use safetensors::Dtype;
use serde::Deserialize;

use super::config::Config;
use super::files::{add_stop_tokens, json, model_files, read, read_if_there, stop_tokens};
use super::templates::written;
use super::text_part::{EMBEDDING, Layout, text_config};
use super::{Checkpoint, Digest, Opened, Part, check_shape, tensor_error};
use crate::LoadError;
use crate::ops::dense::Dense;
use crate::ops::linear::{Linear, Quantized};
use crate::quantization::{Quantization, quantize};

/// What we read of `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// File by tensor.
    weight_map: std::collections::BTreeMap<String, String>,
}

/// Where the tensors are.
pub(super) enum Archive {
    Mapped(MmapedSafetensors),
    CompiledIn(SliceSafetensors<'static>),
}

/// Opens the model that is compiled in.
pub(super) fn open_demo(quantization: Option<Quantization>) -> Result<Opened, LoadError> {
    describe_demo()?.open(quantization)
}

/// Opens a folder.
pub(super) fn open_folder(
    folder: &Path,
    quantization: Option<Quantization>,
) -> Result<Opened, LoadError> {
    describe_folder(folder)?.open(quantization)
}

/// The files of the model that is compiled in.
pub(super) fn describe_demo() -> Result<Described, LoadError> {
    let files = ModelFiles {
        tokenizer: Arc::from(demo::TOKENIZER),
        chat_template: written("tokenizer_config.json", demo::TOKENIZER_CONFIG)?.map(Arc::from),
    };
    let mut digest = Digest::default();
    digest.add(demo::CONFIG);
    digest.add(demo::WEIGHTS);
    digest.add_files(&files);
    Ok(Described {
        config: demo_config()?,
        stop_tokens: stop_tokens(demo::GENERATION_CONFIG)?,
        files,
        digest,
        archive: demo_archive()?,
    })
}

/// The configuration of the model that is compiled in.
pub(super) fn demo_config() -> Result<Config, LoadError> {
    Config::parse(demo::CONFIG)
}

/// The tensors of the model that is compiled in.
pub(super) fn demo_archive() -> Result<Archive, LoadError> {
    let archive = SliceSafetensors::new(demo::WEIGHTS).map_err(|error| malformed(&error))?;
    Ok(Archive::CompiledIn(archive))
}

/// The configuration in a folder.
pub(super) fn config_in(folder: &Path) -> Result<Config, LoadError> {
    Config::parse(&read(&folder.join("config.json"))?)
}

/// The tensors in a folder.
pub(super) fn archive_in(folder: &Path) -> Result<Archive, LoadError> {
    Ok(Archive::Mapped(map(&weight_files(folder)?)?))
}

/// The files of a folder.
pub(super) fn describe_folder(folder: &Path) -> Result<Described, LoadError> {
    let config_bytes = read(&folder.join("config.json"))?;
    let config = Config::parse(&text_config(&config_bytes)?)?;
    let generation_config = read_if_there(&folder.join("generation_config.json"))?;
    let files = model_files(folder)?;
    let weights = weight_files(folder)?;
    let mut digest = Digest::default();
    digest.add(&config_bytes);
    for path in &weights {
        digest.add_file(path)?;
    }
    digest.add_files(&files);
    let archive = map(&weights)?;
    Ok(Described {
        config,
        stop_tokens: generation_config.map_or(Ok(Vec::new()), |bytes| stop_tokens(&bytes))?,
        files,
        digest,
        archive: Archive::Mapped(archive),
    })
}

/// One file, or the shards that the index names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let Some(index) = read_if_there(&folder.join(INDEX))? else {
        return Ok(vec![folder.join("model.safetensors")]);
    };
    let index: Index = json(INDEX, &index)?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
        let problem = format!("shard `{name}` is not in the model's folder");
        return Err(LoadError::Malformed { what: INDEX.to_owned(), problem });
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Everything about a model, with its weights where they lie.
pub(super) struct Described {
    pub(super) config: Config,
    stop_tokens: Vec<u32>,
    pub(super) files: ModelFiles,
    digest: Digest,
    pub(super) archive: Archive,
}

impl Described {
    fn open(self, quantization: Option<Quantization>) -> Result<Opened, LoadError> {
        let Self { config, mut stop_tokens, files, mut digest, archive } = self;
        add_stop_tokens(&mut stop_tokens, config.stop_tokens());
        digest.add_stop_tokens(&stop_tokens);
        if let Some(quantization) = quantization {
            digest.add(quantization.name().as_bytes());
        }
        let shape = config.shape()?;
        let layout = Layout::of(|name| archive.has(name));
        let stored = archive.weights_name(&layout.name(EMBEDDING));
        Ok(Opened {
            architecture: config.architecture()?.to_owned(),
            stop_tokens,
            weights: quantization.map_or(stored, |quantization| quantization.to_string()),
            digest: digest.finish(),
            files,
            checkpoint: Box::new(Safetensors {
                archive,
                layout,
                quantization,
                layers: shape.layers,
            }),
            shape,
        })
    }
}

struct Safetensors {
    archive: Archive,
    layout: Layout,
    /// What the weights are turned into.
    quantization: Option<Quantization>,
    layers: usize,
}

impl Archive {
    /// Name, shape and size in bytes of every tensor, by name.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>, usize)> {
        let views = match self {
            Self::Mapped(archive) => archive.tensors(),
            Self::CompiledIn(archive) => archive.tensors(),
        };
        let describe = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            (name, view.shape().to_vec(), view.data().len())
        };
        let mut tensors: Vec<_> = views.into_iter().map(describe).collect();
        tensors.sort_unstable();
        tensors
    }

    /// Name, shape, type and size in bytes of every tensor.
    pub(super) fn typed_tensors(&self) -> Vec<(String, Vec<usize>, Dtype, usize)> {
        let views = match self {
            Self::Mapped(archive) => archive.tensors(),
            Self::CompiledIn(archive) => archive.tensors(),
        };
        let describe = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            (name, view.shape().to_vec(), view.dtype(), view.data().len())
        };
        views.into_iter().map(describe).collect()
    }

    pub(super) fn load(&self, name: &str) -> Result<Tensor, LoadError> {
        let loaded = match self {
            Self::Mapped(archive) => archive.load(name, &Device::Cpu),
            Self::CompiledIn(archive) => archive.load(name, &Device::Cpu),
        };
        loaded.map_err(|error| tensor_error(name, &error))
    }

    /// The type of the largest tensor.
    fn type_of_largest(&self) -> String {
        let views = match self {
            Self::Mapped(archive) => archive.tensors(),
            Self::CompiledIn(archive) => archive.tensors(),
        };
        let largest = views.into_iter().max_by_key(|(_, view)| view.data().len());
        largest.map_or_else(String::new, |(_, view)| format!("{:?}", view.dtype()).to_lowercase())
    }

    /// Whether there is a tensor of this name.
    fn has(&self, name: &str) -> bool {
        match self {
            Self::Mapped(archive) => archive.get(name).is_ok(),
            Self::CompiledIn(archive) => archive.get(name).is_ok(),
        }
    }

    /// The type of the embedding, which every model has.
    fn weights_name(&self, embedding: &str) -> String {
        let view = match self {
            Self::Mapped(archive) => archive.get(embedding),
            Self::CompiledIn(archive) => archive.get(embedding),
        };
        view.map_or_else(|_| "unknown".to_owned(), |v| format!("{:?}", v.dtype()).to_lowercase())
    }
}

impl Safetensors {
    /// The same in blocks, if that is wanted and possible.
    fn quantized(
        &self,
        parts: &[Part],
        tensors: &[Tensor],
        inputs: usize,
    ) -> Result<Option<Linear>, LoadError> {
        let Some(quantization) = self.quantization else { return Ok(None) };
        let mut quantized = Vec::with_capacity(parts.len());
        for (part, tensor) in parts.iter().zip(tensors) {
            let kind = quantization.blocks(&part.name, inputs, self.layers);
            if kind == GgmlDType::F16 {
                // Parts have rows of one length, so none of them divides into blocks.
                return Ok(None);
            }
            let blocks = quantize(tensor, kind).and_then(Quantized::new);
            quantized.push(blocks.map_err(|error| tensor_error(&part.name, &error))?);
        }
        Ok(Some(Linear::Quantized(quantized)))
    }
}

impl Checkpoint for Safetensors {
    fn linear(&mut self, parts: &[Part], inputs: usize) -> Result<Linear, LoadError> {
        let mut tensors = Vec::with_capacity(parts.len());
        for part in parts {
            let name = self.layout.name(&part.name);
            let tensor = self.archive.load(&name)?;
            check_shape(&name, tensor.dims(), &[part.outputs, inputs])?;
            tensors.push(tensor);
        }
        if let Some(quantized) = self.quantized(parts, &tensors, inputs)? {
            return Ok(quantized);
        }
        let dense = Dense::pack(&tensors).map_err(|error| tensor_error(&parts[0].name, &error))?;
        Ok(Linear::Dense(dense))
    }

    fn vector(&mut self, name: &str, width: usize) -> Result<Tensor, LoadError> {
        let name = &self.layout.name(name);
        let tensor = self.archive.load(name)?;
        check_shape(name, tensor.dims(), &[width])?;
        tensor.to_dtype(DType::F32).map_err(|error| tensor_error(name, &error))
    }

    fn norm(&mut self, name: &str, width: usize, from_one: bool) -> Result<Tensor, LoadError> {
        let weights = self.vector(name, width)?;
        if !from_one {
            return Ok(weights);
        }
        (weights + 1.0).map_err(|error| tensor_error(name, &error))
    }
}

/// A folder whose configuration is read by whoever opens it.
pub(crate) struct Folder {
    config: Vec<u8>,
    files: ModelFiles,
    digest: Digest,
    checkpoint: Safetensors,
}

/// The architecture that a folder's `config.json` names.
pub(crate) fn architecture_of(folder: &Path) -> Result<String, LoadError> {
    #[derive(Deserialize)]
    struct Named {
        architectures: Vec<String>,
    }
    let named: Named = json("config.json", &read(&folder.join("config.json"))?)?;
    named.architectures.into_iter().next().ok_or_else(|| LoadError::Malformed {
        what: "config.json".to_owned(),
        problem: "`architectures` is empty".to_owned(),
    })
}

impl Folder {
    pub(crate) fn open(folder: &Path) -> Result<Self, LoadError> {
        let config = read(&folder.join("config.json"))?;
        let files = model_files(folder)?;
        let weights = weight_files(folder)?;
        let mut digest = Digest::default();
        digest.add(&config);
        for path in &weights {
            digest.add_file(path)?;
        }
        digest.add_files(&files);
        let archive = Archive::Mapped(map(&weights)?);
        Ok(Self {
            config,
            files,
            digest,
            checkpoint: Safetensors {
                archive,
                layout: Layout::Plain,
                quantization: None,
                layers: 0,
            },
        })
    }

    /// What `config.json` says, of what the caller knows.
    pub(crate) fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T, LoadError> {
        json("config.json", &self.config)
    }

    /// A small file beside the weights, if it is there. It decides what comes out, so it is in the digest.
    pub(crate) fn read_if_there(
        &mut self,
        folder: &Path,
        name: &str,
    ) -> Result<Option<Vec<u8>>, LoadError> {
        let bytes = read_if_there(&folder.join(name))?;
        self.digest.add(bytes.as_deref().unwrap_or_default());
        Ok(bytes)
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.archive.has(name)
    }

    /// `rows` times `width` numbers, as `f32`.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        width: usize,
    ) -> Result<Tensor, LoadError> {
        let tensor = self.checkpoint.archive.load(name)?;
        check_shape(name, tensor.dims(), &[rows, width])?;
        tensor.to_dtype(DType::F32).map_err(|error| tensor_error(name, &error))
    }

    pub(crate) fn weights_name(&self) -> String {
        self.checkpoint.archive.type_of_largest()
    }

    pub(crate) fn digest(&self) -> domain::ModelDigest {
        self.digest.finish()
    }

    pub(crate) fn into_files(self) -> ModelFiles {
        self.files
    }
}

impl Checkpoint for Folder {
    fn linear(&mut self, parts: &[Part], inputs: usize) -> Result<Linear, LoadError> {
        self.checkpoint.linear(parts, inputs)
    }

    fn vector(&mut self, name: &str, width: usize) -> Result<Tensor, LoadError> {
        self.checkpoint.vector(name, width)
    }

    fn norm(&mut self, name: &str, width: usize, from_one: bool) -> Result<Tensor, LoadError> {
        self.checkpoint.norm(name, width, from_one)
    }
}

pub(super) fn map(weights: &[PathBuf]) -> Result<MmapedSafetensors, LoadError> {
    // SAFETY: the files are read-only to us; who truncates a model file in use kills the process, as with
    // any mapped file.
    unsafe { MmapedSafetensors::multi(weights) }.map_err(|error| malformed(&error))
}

fn malformed(error: &candle_core::Error) -> LoadError {
    LoadError::Malformed { what: "safetensors file".to_owned(), problem: error.to_string() }
}

/// The files of the model that is compiled in.
mod demo {
    pub(super) static CONFIG: &[u8] = include_bytes!("../../demo-model/config.json");
    pub(super) static GENERATION_CONFIG: &[u8] =
        include_bytes!("../../demo-model/generation_config.json");
    pub(super) static TOKENIZER: &[u8] = include_bytes!("../../demo-model/tokenizer.json");
    pub(super) static TOKENIZER_CONFIG: &[u8] =
        include_bytes!("../../demo-model/tokenizer_config.json");
    pub(super) static WEIGHTS: &[u8] = include_bytes!("../../demo-model/model.safetensors");
}

const INDEX: &str = "model.safetensors.index.json";
