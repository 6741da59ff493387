//! Writes a model as one GGUF file, quantized.
//!
//! Tensors are read, quantized and written one after the other, so that the memory it takes is that of the
//! largest one. The file appears under its name when it is complete.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Value, ValueType};
use candle_core::{DType, Result as CandleResult, Tensor};

use super::gguf_names::gguf_name;
use super::gguf_tokenizer;
use super::safetensors::{Described, describe_demo, describe_folder};
use super::tensor_error;
use crate::model::Progress;
use crate::models::Shape;
use crate::quantization::quantize;
use crate::{LoadError, ModelSource, Quantization};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the weights as they were.
    pub bytes_before: u64,
    /// Bytes of the file.
    pub bytes_after: u64,
    /// Tensors that did not divide into the blocks that were asked for, and what they got.
    pub fallbacks: Vec<(String, String)>,
}

/// Writes the model at `source` (a folder, or the one that is compiled in) to `path`. `progress` hears of every
/// tensor.
pub fn write_gguf(
    source: &ModelSource,
    quantization: Quantization,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Written, LoadError> {
    let described = match source {
        ModelSource::Demo => describe_demo()?,
        ModelSource::Folder(folder) => describe_folder(folder)?,
        ModelSource::Quantized { .. } | ModelSource::Gguf { .. } => {
            return Err(LoadError::Unsupported {
                what: "quantizing what is quantized".to_owned(),
                remedy: "start from the safetensors folder".to_owned(),
            });
        }
    };
    let plan = Plan::new(&described, quantization)?;
    let part = PathBuf::from(format!("{}.part", path.display()));
    let written = plan.write(&described, &part, progress);
    let written = written.inspect_err(|_| {
        // What is not complete is of no use to anybody.
        let _ = std::fs::remove_file(&part);
    })?;
    let read = |source| LoadError::Read { path: path.to_owned(), source };
    std::fs::rename(&part, path).map_err(read)?;
    Ok(written)
}

/// Everything about the file that is known before its tensors are read.
struct Plan {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Planned>,
    written: Written,
}

struct Planned {
    /// In the safetensors.
    name: String,
    /// In the file.
    gguf: String,
    dims: Vec<usize>,
    kind: GgmlDType,
    /// Heads whose rows are put in another order.
    permuted: Option<usize>,
}

impl Planned {
    fn bytes(&self) -> usize {
        self.dims.iter().product::<usize>() / self.kind.block_size() * self.kind.type_size()
    }
}

impl Plan {
    fn new(described: &Described, quantization: Quantization) -> Result<Self, LoadError> {
        let shape = described.config.shape()?;
        let architecture = gguf_architecture(described.config.architecture()?)?;
        let mut written = Written { bytes_before: 0, bytes_after: 0, fallbacks: Vec::new() };
        let mut tensors = Vec::new();
        for (name, dims, bytes) in described.archive.tensors() {
            written.bytes_before += bytes as u64;
            if shape.tied && name == "lm_head.weight" {
                continue;
            }
            let kind = match *dims {
                [_, inputs] => quantization.blocks(&name, inputs, shape.layers),
                _ => GgmlDType::F32,
            };
            if dims.len() == 2 && kind != quantization.blocks(&name, ANY_BLOCKS, shape.layers) {
                written.fallbacks.push((name.clone(), format!("{kind:?}").to_lowercase()));
            }
            let heads = [(".q_proj.", shape.heads), (".k_proj.", shape.kv_heads)];
            let heads = heads.into_iter().find(|(part, _)| name.contains(part));
            let permuted = heads.map(|(_, heads)| heads).filter(|_| architecture == "llama");
            tensors.push(Planned { gguf: gguf_name(&name, false), name, dims, kind, permuted });
        }
        let metadata = metadata(described, &shape, architecture, quantization)?;
        Ok(Self { metadata, tensors, written })
    }

    fn write(
        self,
        described: &Described,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Written, LoadError> {
        let failed = |source| LoadError::Read { path: path.to_owned(), source };
        let mut file = Out { file: BufWriter::new(File::create(path).map_err(failed)?), at: 0 };
        self.write_head(&mut file).map_err(failed)?;
        let total = self.tensors.len() as u32;
        for (index, tensor) in self.tensors.iter().enumerate() {
            let weights = described.archive.load(&tensor.name)?;
            let bytes = encode(&weights, tensor);
            let bytes = bytes.map_err(|error| tensor_error(&tensor.name, &error))?;
            file.pad().and_then(|()| file.put(&bytes)).map_err(failed)?;
            progress(Progress { loaded: index as u32 + 1, total });
        }
        file.pad().and_then(|()| file.file.flush()).map_err(failed)?;
        file.file.get_ref().sync_all().map_err(failed)?;
        Ok(Written { bytes_after: file.at, ..self.written })
    }

    fn write_head(&self, file: &mut Out) -> std::io::Result<()> {
        file.put(MAGIC)?;
        file.put(&VERSION.to_le_bytes())?;
        file.put(&(self.tensors.len() as u64).to_le_bytes())?;
        file.put(&(self.metadata.len() as u64).to_le_bytes())?;
        for (key, value) in &self.metadata {
            file.text(key)?;
            file.put(&value.value_type().number().to_le_bytes())?;
            file.value(value)?;
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            file.text(&tensor.gguf)?;
            file.put(&(tensor.dims.len() as u32).to_le_bytes())?;
            for dim in tensor.dims.iter().rev() {
                file.put(&(*dim as u64).to_le_bytes())?;
            }
            file.put(&number_of(tensor.kind).to_le_bytes())?;
            file.put(&offset.to_le_bytes())?;
            offset += (tensor.bytes() as u64).next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }
}

/// A tensor's bytes as the file has them.
fn encode(weights: &Tensor, tensor: &Planned) -> CandleResult<Vec<u8>> {
    let weights = match tensor.permuted {
        Some(heads) => interleave(weights, heads)?,
        None => weights.clone(),
    };
    match tensor.kind {
        GgmlDType::F32 => {
            let numbers = weights.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            Ok(numbers.into_iter().flat_map(f32::to_le_bytes).collect())
        }
        GgmlDType::F16 => {
            let numbers = weights.to_dtype(DType::F16)?.flatten_all()?.to_vec1::<half::f16>()?;
            Ok(numbers.into_iter().flat_map(half::f16::to_le_bytes).collect())
        }
        kind => Ok(quantize(&weights, kind)?.data()?.into_owned()),
    }
}

/// Rows `(half, pair)` of each head to `(pair, half)`: the order that GGUF files have for `llama`. Biases too.
pub(crate) fn interleave(weights: &Tensor, heads: usize) -> CandleResult<Tensor> {
    let dims = weights.dims().to_vec();
    let rest = dims[1..].iter().product::<usize>();
    let split = weights.reshape((heads, 2, dims[0] / heads / 2, rest))?;
    split.transpose(1, 2)?.contiguous()?.reshape(dims)
}

fn metadata(
    described: &Described,
    shape: &Shape,
    architecture: &str,
    quantization: Quantization,
) -> Result<Vec<(String, Value)>, LoadError> {
    let count = |number: usize| Value::U32(u32::try_from(number).unwrap_or(u32::MAX));
    let scalar = |number: f64| Value::F32(number as f32);
    let text = |text: &str| Value::String(text.to_owned());
    let file_type = FILE_TYPES.iter().find(|(one, _)| *one == quantization);
    let mut entries = vec![
        ("general.architecture".to_owned(), text(architecture)),
        ("general.type".to_owned(), text("model")),
        ("general.file_type".to_owned(), Value::U32(file_type.map_or(0, |(_, number)| *number))),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let sizes = [
        ("block_count", count(shape.layers)),
        // Who reads the file knows of no windows; within one they change nothing.
        (
            "context_length",
            Value::U32(shape.windows.iter().flatten().copied().fold(shape.context, u32::min)),
        ),
        ("embedding_length", count(shape.hidden)),
        ("feed_forward_length", count(shape.feed_forward)),
        ("attention.head_count", count(shape.heads)),
        ("attention.head_count_kv", count(shape.kv_heads)),
        ("attention.layer_norm_rms_epsilon", Value::F32(shape.epsilon)),
        ("attention.key_length", count(shape.head_width)),
        ("attention.value_length", count(shape.head_width)),
        ("rope.dimension_count", count(2 * shape.frequencies.len())),
        ("rope.freq_base", scalar(described.config.plain_rope_base()?)),
        ("vocab_size", count(shape.vocabulary)),
    ];
    entries.extend(sizes.map(|(name, value)| (format!("{architecture}.{name}"), value)));
    let tokenizer = gguf_tokenizer::entries(&described.files.tokenizer, shape.vocabulary)?;
    entries.extend(tokenizer.into_iter().map(|(name, value)| (name.to_owned(), value)));
    let (first, ends) = (described.config.first_token(), described.config.stop_tokens());
    let ids = [("bos_token_id", first), ("eos_token_id", ends.first().copied())];
    for (name, id) in ids {
        entries.extend(id.map(|id| (format!("tokenizer.ggml.{name}"), Value::U32(id))));
    }
    entries.push(("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(false)));
    if let Some(template) = &described.files.chat_template {
        entries.push(("tokenizer.chat_template".to_owned(), text(template)));
    }
    Ok(entries)
}

/// What llama.cpp calls it, if our files of it are what llama.cpp expects.
fn gguf_architecture(architecture: &str) -> Result<&'static str, LoadError> {
    let known = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
    known.map(|(_, gguf)| *gguf).ok_or_else(|| LoadError::Unsupported {
        what: format!("a GGUF file of architecture `{architecture}`"),
        remedy: "quantize the model while it is loaded instead".to_owned(),
    })
}

/// A file that knows how long it is.
struct Out {
    file: BufWriter<File>,
    at: u64,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn pad(&mut self) -> std::io::Result<()> {
        let missing = self.at.next_multiple_of(ALIGNMENT) - self.at;
        self.put(&[0; ALIGNMENT as usize][..missing as usize])
    }

    fn text(&mut self, text: &str) -> std::io::Result<()> {
        self.put(&(text.len() as u64).to_le_bytes())?;
        self.put(text.as_bytes())
    }

    /// A value of one of the types that we write.
    fn value(&mut self, value: &Value) -> std::io::Result<()> {
        match value {
            Value::U32(number) => self.put(&number.to_le_bytes()),
            Value::I32(number) => self.put(&number.to_le_bytes()),
            Value::F32(number) => self.put(&number.to_le_bytes()),
            Value::Bool(yes) => self.put(&[u8::from(*yes)]),
            Value::String(text) => self.text(text),
            Value::Array(values) => {
                let kind = values.first().map_or(ValueType::String, Value::value_type);
                self.put(&kind.number().to_le_bytes())?;
                self.put(&(values.len() as u64).to_le_bytes())?;
                values.iter().try_for_each(|value| self.value(value))
            }
            other => Err(std::io::Error::other(format!("{other:?} is not written here"))),
        }
    }
}

/// The number of a type in the format.
trait Number {
    fn number(self) -> u32;
}

impl Number for ValueType {
    fn number(self) -> u32 {
        match self {
            Self::U8 => 0,
            Self::I8 => 1,
            Self::U16 => 2,
            Self::I16 => 3,
            Self::U32 => 4,
            Self::I32 => 5,
            Self::F32 => 6,
            Self::Bool => 7,
            Self::String => 8,
            Self::Array => 9,
            Self::U64 => 10,
            Self::I64 => 11,
            Self::F64 => 12,
        }
    }
}

/// The number of a kind of blocks in the format.
const fn number_of(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

/// Architectures whose files we write, and what llama.cpp calls them.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("LlamaForCausalLM", "llama"),
    ("MistralForCausalLM", "llama"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen3ForCausalLM", "qwen3"),
];

/// Numbers of `general.file_type`.
const FILE_TYPES: &[(Quantization, u32)] = &[
    (Quantization::Q4, 2),
    (Quantization::Q8, 7),
    (Quantization::Q4K, 14),
    (Quantization::Q4KM, 15),
    (Quantization::Q5K, 16),
    (Quantization::Q5KM, 17),
    (Quantization::Q6K, 18),
];

const MAGIC: &[u8] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;
/// Divides into blocks of every kind.
const ANY_BLOCKS: usize = 256;
