//! Models in one GGUF file.
//!
//! Promise: nothing in a file that bears on what the model says is left unread. A tensor that nobody asked for is an
//! error that names it, as is an entry of the architecture: what was not understood might have changed everything.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use domain::ModelFiles;

use super::files::{add_stop_tokens, read, read_if_there, stop_tokens};
use super::gguf_header::{first_unknown, problem};
use super::gguf_metadata::{Metadata, malformed};
use super::gguf_names::{InFile, gguf_name, in_file, old_expert_name, router};
use super::gguf_shape::{DIVISORS, LONG, RopeTensors, SHORT, ShapeReader, TensorFacts};
use super::gguf_vocabulary::{tokenizer_json, tokens_that_end};
use super::templates::{Templates, chat_template};
use super::{Checkpoint, Digest, Listed, Listing, Opened, Part, check_shape, tensor_error};
use crate::LoadError;
use crate::ops::dense::Dense;
use crate::ops::linear::{Linear, Quantized};

/// Opens a GGUF file. `tokenizer` is a `tokenizer.json`, or a folder in which one may be; without one the file's
/// own tokens are what text is cut into.
pub(super) fn open(weights: &Path, tokenizer: &Path) -> Result<Opened, LoadError> {
    let (mut gguf, metadata) = header(weights)?;
    let read = ShapeReader::new(&metadata)?;
    let facts = gguf.facts()?;
    let vocabulary = facts.vocabulary;
    let shape = read.shape(facts)?;
    let files = files(&metadata, tokenizer, vocabulary)?;
    let mut digest = Digest::default();
    digest.add_file(weights)?;
    digest.add_files(&files);
    let stop_tokens = stop_tokens_of(&metadata, tokenizer)?;
    digest.add_stop_tokens(&stop_tokens);
    Ok(Opened {
        shape,
        stop_tokens,
        weights: weights_name(&metadata)?,
        architecture: read.name().to_owned(),
        digest: digest.finish(),
        files,
        checkpoint: Box::new(gguf),
    })
}

/// What is in a GGUF file.
pub(super) fn list(weights: &Path) -> Result<Listed, LoadError> {
    let (mut gguf, metadata) = header(weights)?;
    let shape = ShapeReader::new(&metadata)?.shape(gguf.facts()?)?;
    let list = |(name, info): (&String, &TensorInfo)| {
        let (dims, kind) = (info.shape.dims().to_vec(), info.ggml_dtype);
        let blocks = info.shape.elem_count().div_ceil(kind.block_size());
        let stored_bytes = (blocks * kind.type_size()) as u64;
        Listing { name: name.clone(), dims, kind: Some(kind), stored_bytes }
    };
    let tensors = gguf.content.tensor_infos.iter().map(list).collect();
    Ok(Listed { shape, tensors })
}

/// A GGUF file whose header is read, and its metadata.
fn header(weights: &Path) -> Result<(Gguf, Metadata), LoadError> {
    let file = File::open(weights)
        .map_err(|source| LoadError::Read { path: weights.to_owned(), source })?;
    let mut reader = BufReader::new(file);
    if let Some(problem) = problem(&mut reader) {
        return Err(malformed(problem));
    }
    reader.rewind().map_err(|source| LoadError::Read { path: weights.to_owned(), source })?;
    let mut content = match Content::read(&mut reader) {
        Ok(content) => content,
        Err(error) => return Err(unreadable(&mut reader, &error)),
    };
    let metadata = Metadata::new(std::mem::take(&mut content.metadata));
    if metadata.count("split.count")?.is_some_and(|count| count > 1) {
        return Err(LoadError::Unsupported {
            what: "a GGUF file that is one of several (`split.count`)".to_owned(),
            remedy: "merge them into one file".to_owned(),
        });
    }
    let sandwich = ShapeReader::new(&metadata)?.design().sandwich;
    Ok((Gguf { content, reader, sandwich, read: BTreeSet::new() }, metadata))
}

/// Tokenizer and chat template: what is beside the file goes before what is in it.
fn files(
    metadata: &Metadata,
    tokenizer: &Path,
    vocabulary: usize,
) -> Result<ModelFiles, LoadError> {
    let (beside, template) = if tokenizer.is_dir() {
        (read_if_there(&tokenizer.join("tokenizer.json"))?, chat_template(tokenizer)?)
    } else {
        (Some(read(tokenizer)?), None)
    };
    let tokenizer = match beside {
        Some(tokenizer) => tokenizer,
        None => tokenizer_json(metadata, vocabulary)?,
    };
    let chat_template = match template {
        Some(template) => Some(template),
        None => Templates::in_gguf(metadata)?.into_one(),
    };
    Ok(ModelFiles { tokenizer: tokenizer.into(), chat_template: chat_template.map(Arc::from) })
}

/// The tokens that end a turn: those the file names, and those that `generation_config.json` names. Where there is
/// none, tokens whose name says so too: files name one or two, and models that call functions have more.
fn stop_tokens_of(metadata: &Metadata, tokenizer: &Path) -> Result<Vec<u32>, LoadError> {
    let mut ids = Vec::new();
    for key in STOP_KEYS {
        if let Some(id) = metadata.count(key)? {
            let id = u32::try_from(id).map_err(|_| malformed(format!("`{key}` is {id}")))?;
            add_stop_tokens(&mut ids, &[id]);
        }
    }
    let beside = if tokenizer.is_dir() {
        read_if_there(&tokenizer.join("generation_config.json"))?
    } else {
        None
    };
    match beside {
        Some(config) => add_stop_tokens(&mut ids, &stop_tokens(&config)?),
        None => add_stop_tokens(&mut ids, &tokens_that_end(metadata)?),
    }
    Ok(ids)
}

fn weights_name(metadata: &Metadata) -> Result<String, LoadError> {
    let number = metadata.count("general.file_type")?;
    let known = FILE_TYPES.iter().find(|(code, _)| Some(*code) == number);
    Ok(known.map_or_else(|| "gguf".to_owned(), |(_, name)| (*name).to_owned()))
}

struct Gguf {
    content: Content,
    reader: BufReader<File>,
    /// The architecture has norms after attention and feed-forward too, and calls them otherwise.
    sandwich: bool,
    /// Names of the tensors that were read.
    read: BTreeSet<String>,
}

impl Gguf {
    fn facts(&mut self) -> Result<TensorFacts, LoadError> {
        let has = |name: &str| self.content.tensor_infos.contains_key(name);
        let embedding = self.content.tensor_infos.get(&self.name(EMBEDDING));
        let layer_of = |name: &String| {
            let layer = name.strip_prefix("blk.")?.split('.').next()?.parse().ok()?;
            (*name == router(layer)).then_some(layer)
        };
        Ok(TensorFacts {
            vocabulary: embedding.and_then(|info| info.shape.dims().first().copied()).unwrap_or(0),
            tied: !has("output.weight"),
            biases: has("blk.0.attn_q.bias"),
            mixtures: self.content.tensor_infos.keys().filter_map(layer_of).collect(),
            rope: RopeTensors {
                always: self.factors(DIVISORS)?,
                short: self.factors(SHORT)?,
                long: self.factors(LONG)?,
            },
        })
    }

    /// Divisors of frequencies, if the file has them.
    fn factors(&mut self, name: &str) -> Result<Option<Vec<f64>>, LoadError> {
        let Some(info) = self.content.tensor_infos.get(name) else { return Ok(None) };
        let width = info.shape.elem_count();
        let numbers = self.numbers(name, width)?.to_vec1::<f32>();
        let numbers = numbers.map_err(|error| tensor_error(name, &error))?;
        if numbers.iter().any(|number| !number.is_normal()) {
            return Err(tensor_error(name, &"has a number that nothing can be divided by"));
        }
        Ok(Some(numbers.into_iter().map(f64::from).collect()))
    }

    /// The GGUF name of a tensor.
    fn name(&self, name: &str) -> String {
        gguf_name(name, self.sandwich)
    }

    /// Reads a tensor, or an expert's part of one, and checks its shape; `name` is ours.
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<QTensor, LoadError> {
        let InFile { name, expert } = in_file(name, self.sandwich);
        let Some(expert) = expert else { return self.read_whole(&name, shape) };
        let Some(info) = self.content.tensor_infos.get(&name) else {
            let old = old_expert_name(&name, expert);
            let is_old = self.content.tensor_infos.contains_key(&old);
            return self.read_whole(if is_old { &old } else { &name }, shape);
        };
        let [count, outputs, inputs] = info.shape.dims() else {
            return Err(tensor_error(&name, &"has no part for each expert"));
        };
        check_shape(&name, &[*outputs, *inputs], shape)?;
        if expert >= *count {
            return Err(tensor_error(&name, &format!("has {count} experts")));
        }
        if !inputs.is_multiple_of(info.ggml_dtype.block_size()) {
            return Err(tensor_error(&name, &"has experts that are no whole blocks"));
        }
        let elements = outputs * inputs;
        let bytes = elements / info.ggml_dtype.block_size() * info.ggml_dtype.type_size();
        let part = TensorInfo {
            ggml_dtype: info.ggml_dtype,
            shape: shape.into(),
            offset: info.offset.saturating_add((expert as u64).saturating_mul(bytes as u64)),
        };
        let start = self.content.tensor_data_offset;
        let tensor = part.read(&mut self.reader, start, &Device::Cpu);
        let tensor = tensor.map_err(|error| tensor_error(&name, &error))?;
        if expert + 1 == *count {
            self.read.insert(name);
        }
        Ok(tensor)
    }

    /// Reads a tensor; `name` is the GGUF name.
    fn read_whole(&mut self, name: &str, shape: &[usize]) -> Result<QTensor, LoadError> {
        let Some(info) = self.content.tensor_infos.get(name) else {
            return Err(tensor_error(name, &"is missing"));
        };
        check_shape(name, info.shape.dims(), shape)?;
        let tensor = self.content.tensor(&mut self.reader, name, &Device::Cpu);
        let tensor = tensor.map_err(|error| tensor_error(name, &error))?;
        self.read.insert(name.to_owned());
        Ok(tensor)
    }

    fn numbers(&mut self, name: &str, width: usize) -> Result<Tensor, LoadError> {
        let tensor = self.read_whole(name, &[width])?;
        tensor.dequantize(&Device::Cpu).map_err(|error| tensor_error(name, &error))
    }
}

impl Checkpoint for Gguf {
    fn linear(&mut self, parts: &[Part], inputs: usize) -> Result<Linear, LoadError> {
        let mut tensors = Vec::with_capacity(parts.len());
        for part in parts {
            tensors.push(self.read(&part.name, &[part.outputs, inputs])?);
        }
        let name = self.name(&parts[0].name);
        let linear = match common_dense_type(&tensors) {
            Some(dtype) => dense(&tensors, dtype).map(Linear::Dense),
            None => tensors
                .into_iter()
                .map(Quantized::new)
                .collect::<candle_core::Result<Vec<_>>>()
                .map(Linear::Quantized),
        };
        linear.map_err(|error| tensor_error(&name, &error))
    }

    fn vector(&mut self, name: &str, width: usize) -> Result<Tensor, LoadError> {
        let name = self.name(name);
        self.numbers(&name, width)
    }

    fn norm(&mut self, name: &str, width: usize, _: bool) -> Result<Tensor, LoadError> {
        self.vector(name, width)
    }

    fn finish(&self) -> Result<(), LoadError> {
        let left = self.content.tensor_infos.keys().filter(|name| !self.read.contains(*name));
        match left.min() {
            None => Ok(()),
            Some(name) => Err(LoadError::Unsupported {
                what: format!("tensor `{name}` in a GGUF file of this architecture"),
                remedy: "use a file without it".to_owned(),
            }),
        }
    }
}

/// The type to pack in, if all parts are unquantized: the common one, or f32.
fn common_dense_type(tensors: &[QTensor]) -> Option<DType> {
    let mut common = None;
    for tensor in tensors {
        let dtype = match tensor.dtype() {
            GgmlDType::F16 => DType::F16,
            GgmlDType::BF16 => DType::BF16,
            GgmlDType::F32 => DType::F32,
            _ => return None,
        };
        common = match common {
            None => Some(dtype),
            Some(other) if other == dtype => common,
            Some(_) => Some(DType::F32),
        };
    }
    common
}

fn dense(tensors: &[QTensor], dtype: DType) -> candle_core::Result<Dense> {
    // Exact: what widening to f32 added, narrowing takes away.
    let narrow = |tensor: &QTensor| tensor.dequantize(&Device::Cpu)?.to_dtype(dtype);
    let tensors: candle_core::Result<Vec<Tensor>> = tensors.iter().map(narrow).collect();
    Dense::pack(&tensors?)
}

/// What is wrong with a file that candle cannot read.
fn unreadable(reader: &mut BufReader<File>, error: &candle_core::Error) -> LoadError {
    match first_unknown(reader) {
        Some((tensor, kind)) => LoadError::Unsupported {
            what: format!("type {kind} of tensor `{tensor}`"),
            remedy: "use a file quantized as Q4_K_M, Q6_K or Q8_0, or F16".to_owned(),
        },
        None => malformed(error.to_string()),
    }
}

/// Names of `general.file_type`.
const FILE_TYPES: &[(usize, &str)] = &[
    (0, "f32"),
    (1, "f16"),
    (2, "q4_0"),
    (3, "q4_1"),
    (7, "q8_0"),
    (8, "q5_0"),
    (9, "q5_1"),
    (10, "q2_k"),
    (11, "q3_k_s"),
    (12, "q3_k_m"),
    (13, "q3_k_l"),
    (14, "q4_k_s"),
    (15, "q4_k_m"),
    (16, "q5_k_s"),
    (17, "q5_k_m"),
    (18, "q6_k"),
    (32, "bf16"),
];

const EMBEDDING: &str = "model.embed_tokens.weight";
/// Ends of a text, a turn and a message.
const STOP_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
