//! Models in one GGUF file.

use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use domain::ModelFiles;

use super::config::{MAX_LAYERS, plain_frequencies};
use super::files::{add_stop_tokens, model_files, read, read_if_there, stop_tokens};
use super::gguf_header::{first_unknown, problem};
use super::{Checkpoint, Digest, Listed, Listing, Opened, Part, check_shape, tensor_error};
use crate::LoadError;
use crate::models::{self, Design, Shape};
use crate::ops::dense::Dense;
use crate::ops::linear::{Linear, Quantized};
use crate::ops::rope::Pairing;

/// Opens a GGUF file with a tokenizer beside it.
pub(super) fn open(weights: &Path, tokenizer: &Path) -> Result<Opened, LoadError> {
    let (mut gguf, architecture, design) = header(weights)?;
    let files = gguf.files(tokenizer)?;
    let mut digest = Digest::default();
    digest.add_file(weights)?;
    digest.add_files(&files);
    let stop_tokens = gguf.stop_tokens(tokenizer)?;
    digest.add_stop_tokens(&stop_tokens);
    Ok(Opened {
        shape: gguf.shape(&architecture, design)?,
        stop_tokens,
        weights: gguf.weights_name(),
        architecture,
        digest: digest.finish(),
        files,
        checkpoint: Box::new(gguf),
    })
}

/// What is in a GGUF file.
pub(super) fn list(weights: &Path) -> Result<Listed, LoadError> {
    let (mut gguf, architecture, design) = header(weights)?;
    let shape = gguf.shape(&architecture, design)?;
    let list = |(name, info): (&String, &TensorInfo)| {
        let (dims, kind) = (info.shape.dims().to_vec(), info.ggml_dtype);
        let blocks = info.shape.elem_count().div_ceil(kind.block_size());
        let stored_bytes = (blocks * kind.type_size()) as u64;
        Listing { name: name.clone(), dims, kind: Some(kind), stored_bytes }
    };
    let tensors = gguf.content.tensor_infos.iter().map(list).collect();
    Ok(Listed { shape, tensors })
}

/// A GGUF file whose header is read, its architecture, and what we make of that.
fn header(weights: &Path) -> Result<(Gguf, String, &'static Design), LoadError> {
    let file = File::open(weights)
        .map_err(|source| LoadError::Read { path: weights.to_owned(), source })?;
    let mut reader = BufReader::new(file);
    if let Some(problem) = problem(&mut reader) {
        return Err(malformed(problem));
    }
    reader.rewind().map_err(|source| LoadError::Read { path: weights.to_owned(), source })?;
    let content = match Content::read(&mut reader) {
        Ok(content) => content,
        Err(error) => return Err(unreadable(&mut reader, &error)),
    };
    let mut gguf = Gguf { content, reader, sandwich: false };
    let architecture = gguf.text("general.architecture")?.to_owned();
    let design = models::find(&architecture)?;
    gguf.sandwich = design.sandwich;
    Ok((gguf, architecture, design))
}

struct Gguf {
    content: Content,
    reader: BufReader<File>,
    /// The architecture has norms after attention and feed-forward too, and calls them otherwise.
    sandwich: bool,
}

impl Gguf {
    fn text(&self, key: &str) -> Result<&str, LoadError> {
        match self.content.metadata.get(key) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(malformed(format!("`{key}` is missing or no text"))),
        }
    }

    fn count(&self, key: &str) -> Result<usize, LoadError> {
        let value = self.content.metadata.get(key).and_then(|value| value.to_u64().ok());
        let count = value.and_then(|value| usize::try_from(value).ok());
        count.ok_or_else(|| malformed(format!("`{key}` is missing or no count")))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.content.metadata.get(key)?.to_f32().ok().map(f64::from)
    }

    fn shape(&mut self, architecture: &str, design: &Design) -> Result<Shape, LoadError> {
        let key = |name: &str| format!("{architecture}.{name}");
        let heads = self.count(&key("attention.head_count"))?;
        let hidden = self.count(&key("embedding_length"))?;
        let default_width = hidden.checked_div(heads).unwrap_or(0);
        let head_width = self.count(&key("attention.key_length")).unwrap_or(default_width);
        let turned = self.count(&key("rope.dimension_count")).unwrap_or(head_width);
        let epsilon = self.number(&key("attention.layer_norm_rms_epsilon"));
        let embedding = self.content.tensor_infos.get(&self.name(EMBEDDING));
        let context = u32::try_from(self.count(&key("context_length"))?).unwrap_or(0);
        let layers = self.count(&key("block_count"))?;
        let shape = Shape {
            hidden,
            layers,
            heads,
            kv_heads: self.count(&key("attention.head_count_kv")).unwrap_or(heads),
            head_width,
            feed_forward: self.count(&key("feed_forward_length"))?,
            vocabulary: embedding.and_then(|info| info.shape.dims().first().copied()).unwrap_or(0),
            context,
            epsilon: epsilon.ok_or_else(|| malformed("the norm's epsilon is missing"))? as f32,
            frequencies: self.frequencies(architecture, turned)?,
            window_frequencies: self
                .number(&key("rope.freq_base_swa"))
                .or((architecture == "gemma3").then_some(DEFAULT_ROPE_BASE))
                .map(|base| plain_frequencies(base, turned)),
            rotary_scale: 1.0,
            // Files of the `llama` architecture are the only ones with their heads put in another order.
            pairing: match architecture {
                "llama" => Pairing::Neighbours,
                _ => Pairing::Halves,
            },
            windows: self.windows(architecture, design, layers),
            query_scale: (head_width as f32).powf(-0.5),
            attention_softcap: self.number(&key("attn_logit_softcapping")).map(|cap| cap as f32),
            logit_softcap: self.number(&key("final_logit_softcapping")).map(|cap| cap as f32),
            biases: design.biases,
            activation: design.activation,
            experts: None,
            tied: !self.content.tensor_infos.contains_key(&self.name("lm_head.weight")),
        };
        shape.check("GGUF metadata")?;
        Ok(shape)
    }

    /// For each layer, how far it looks back.
    fn windows(&self, architecture: &str, design: &Design, layers: usize) -> Vec<Option<u32>> {
        let window = self.count(&format!("{architecture}.attention.sliding_window")).ok();
        let window = window.and_then(|window| u32::try_from(window).ok()).filter(|w| *w > 0);
        let layers = layers.min(MAX_LAYERS);
        design.windows.of_layers(layers, window, None, None)
    }

    /// Rotary frequencies; Llama 3's stretching is stored as one divisor for each pair.
    fn frequencies(&mut self, architecture: &str, width: usize) -> Result<Vec<f64>, LoadError> {
        if let Some(Value::String(kind)) =
            self.content.metadata.get(&format!("{architecture}.rope.scaling.type"))
            && kind != "none"
        {
            return Err(LoadError::Unsupported {
                what: format!("rope scaling `{kind}`"),
                remedy: "use a model without it".to_owned(),
            });
        }
        let base = self.number(&format!("{architecture}.rope.freq_base"));
        let mut frequencies = plain_frequencies(base.unwrap_or(DEFAULT_ROPE_BASE), width);
        if self.content.tensor_infos.contains_key(DIVISORS) {
            let divisors = self.vector(DIVISORS, frequencies.len())?.to_vec1::<f32>();
            let divisors = divisors.map_err(|error| tensor_error(DIVISORS, &error))?;
            for (frequency, divisor) in frequencies.iter_mut().zip(divisors) {
                *frequency /= f64::from(divisor);
            }
        }
        Ok(frequencies)
    }

    fn files(&self, tokenizer: &Path) -> Result<ModelFiles, LoadError> {
        let mut files = if tokenizer.is_dir() {
            model_files(tokenizer)?
        } else {
            ModelFiles { tokenizer: read(tokenizer)?.into(), chat_template: None }
        };
        if let Ok(template) = self.text("tokenizer.chat_template") {
            files.chat_template = Some(Arc::from(template));
        }
        Ok(files)
    }

    fn stop_tokens(&self, tokenizer: &Path) -> Result<Vec<u32>, LoadError> {
        let mut ids = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            if let Ok(id) = self.count(key) {
                add_stop_tokens(&mut ids, &u32::try_from(id).map_or(vec![], |id| vec![id]));
            }
        }
        if let Some(config) =
            read_if_there(&tokenizer.join("generation_config.json")).ok().flatten()
        {
            add_stop_tokens(&mut ids, &stop_tokens(&config)?);
        }
        Ok(ids)
    }

    fn weights_name(&self) -> String {
        let number = self.count("general.file_type").ok();
        let known = FILE_TYPES.iter().find(|(code, _)| Some(*code) == number);
        known.map_or_else(|| "gguf".to_owned(), |(_, name)| (*name).to_owned())
    }

    /// The GGUF name of a tensor.
    fn name(&self, name: &str) -> String {
        gguf_name(name, self.sandwich)
    }

    /// Reads a tensor and checks its shape; `name` is the GGUF name.
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<QTensor, LoadError> {
        let Some(info) = self.content.tensor_infos.get(name) else {
            return Err(tensor_error(name, &"is missing"));
        };
        check_shape(name, info.shape.dims(), shape)?;
        let tensor = self.content.tensor(&mut self.reader, name, &Device::Cpu);
        tensor.map_err(|error| tensor_error(name, &error))
    }
}

impl Checkpoint for Gguf {
    fn linear(&mut self, parts: &[Part], inputs: usize) -> Result<Linear, LoadError> {
        let mut tensors = Vec::with_capacity(parts.len());
        for part in parts {
            tensors.push(self.read(&self.name(&part.name), &[part.outputs, inputs])?);
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
        let tensor = self.read(&name, &[width])?;
        tensor.dequantize(&Device::Cpu).map_err(|error| tensor_error(&name, &error))
    }

    fn norm(&mut self, name: &str, width: usize, _: bool) -> Result<Tensor, LoadError> {
        self.vector(name, width)
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

/// The GGUF name of a tensor; a name we do not know stays as it is.
pub(super) fn gguf_name(name: &str, sandwich: bool) -> String {
    let mut name = name.to_owned();
    let norm = if sandwich { SANDWICH_NAMES } else { PLAIN_NAMES };
    for (theirs, gguf) in norm.iter().chain(NAMES) {
        name = name.replace(theirs, gguf);
    }
    name
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

fn malformed(problem: impl Into<String>) -> LoadError {
    LoadError::Malformed { what: "GGUF file".to_owned(), problem: problem.into() }
}

/// Pieces of Hugging Face names, and what GGUF calls them; longer pieces first.
const NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens.", "token_embd."),
    ("lm_head.", "output."),
    ("model.norm.", "output_norm."),
    ("model.layers.", "blk."),
    (".input_layernorm.", ".attn_norm."),
    (".self_attn.qkv_proj.", ".attn_qkv."),
    (".self_attn.q_proj.", ".attn_q."),
    (".self_attn.k_proj.", ".attn_k."),
    (".self_attn.v_proj.", ".attn_v."),
    (".self_attn.o_proj.", ".attn_output."),
    (".self_attn.q_norm.", ".attn_q_norm."),
    (".self_attn.k_norm.", ".attn_k_norm."),
    (".mlp.gate_up_proj.", ".ffn_up."),
    (".mlp.gate_proj.", ".ffn_gate."),
    (".mlp.up_proj.", ".ffn_up."),
    (".mlp.down_proj.", ".ffn_down."),
];

/// What the norm before the feed-forward layer is called where it is the only other one.
const PLAIN_NAMES: &[(&str, &str)] = &[(".post_attention_layernorm.", ".ffn_norm.")];

/// And where there are norms on both sides.
const SANDWICH_NAMES: &[(&str, &str)] = &[
    (".post_attention_layernorm.", ".post_attention_norm."),
    (".pre_feedforward_layernorm.", ".ffn_norm."),
    (".post_feedforward_layernorm.", ".post_ffw_norm."),
];

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
const DIVISORS: &str = "rope_freqs.weight";
const DEFAULT_ROPE_BASE: f64 = 10_000.0;
