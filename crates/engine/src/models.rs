//! What every decoder needs to say, and the table of the architectures we can run.
//!
//! Adding one: a file `models/<name>.rs` with a `load`, and a line in [`ARCHITECTURES`].

use candle_core::{Device, Result, Tensor};
use half::f16;
use half::vec::HalfBitsVecExt;

use crate::LoadError;
use crate::attribution::Arithmetic;
use crate::checkpoint::Checkpoint;
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::gate::Activation;
use crate::ops::rope::Pairing;
use crate::step::Step;

mod block_copy;
mod feed_forward;
mod gemma2;
mod gemma3;
mod llama;
mod mistral;
mod mixtral;
mod modules;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod transformer;

pub(crate) use modules::{Module, Place, of_layer as modules_of_layer};
pub(crate) use transformer::{Design, Windows};

/// Architectures by the name that a model's files give: `config.json`, or GGUF.
pub(crate) static ARCHITECTURES: &[(&str, &Design)] = &[
    ("LlamaForCausalLM", &llama::DESIGN),
    ("llama", &llama::DESIGN),
    ("MistralForCausalLM", &mistral::DESIGN),
    ("Qwen2ForCausalLM", &qwen2::DESIGN),
    ("qwen2", &qwen2::DESIGN),
    ("Qwen3ForCausalLM", &qwen3::DESIGN),
    ("qwen3", &qwen3::DESIGN),
    ("Gemma2ForCausalLM", &gemma2::DESIGN),
    ("gemma2", &gemma2::DESIGN),
    ("Gemma3ForCausalLM", &gemma3::DESIGN),
    ("Gemma3ForConditionalGeneration", &gemma3::DESIGN),
    ("gemma3", &gemma3::DESIGN),
    ("Phi3ForCausalLM", &phi3::DESIGN),
    ("phi3", &phi3::DESIGN),
    ("MixtralForCausalLM", &mixtral::DESIGN),
    ("Qwen3MoeForCausalLM", &qwen3_moe::DESIGN),
    ("qwen3moe", &qwen3_moe::DESIGN),
];

/// Makes a decoder from weights.
pub(crate) fn load(
    design: &Design,
    checkpoint: &mut dyn Checkpoint,
    shape: &Shape,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Box<dyn Decoder>, LoadError> {
    let decoder = transformer::load(design, checkpoint, shape, progress)?;
    checkpoint.finish()?;
    Ok(decoder)
}

/// A loaded decoder.
pub(crate) trait Decoder: Send + Sync {
    fn shape(&self) -> &Shape;

    /// Computes a step: writes keys and values of all rows into `cache`, and the logits of the sampled rows,
    /// `[sampled, vocabulary]`, into `logits`, whatever it held before.
    fn forward(
        &self,
        step: &Step,
        cache: &KvCache,
        pool: &Pool,
        logits: &mut Vec<f32>,
    ) -> Result<()>;
}

/// The design of an architecture.
pub(crate) fn find(architecture: &str) -> std::result::Result<&'static Design, LoadError> {
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
    found.map(|(_, design)| *design).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        LoadError::Unsupported {
            what: format!("architecture `{architecture}`"),
            remedy: format!("use a model of one of: {}", known.join(", ")),
        }
    })
}

/// The sizes of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
    pub(crate) feed_forward: usize,
    pub(crate) vocabulary: usize,
    pub(crate) context: u32,
    /// Added to the mean square before the root, in normalisation.
    pub(crate) epsilon: f32,
    /// Angle per position for each pair of a head's numbers; numbers beyond them are not turned.
    pub(crate) frequencies: Vec<f64>,
    /// The same in layers with a window, if they differ.
    pub(crate) window_frequencies: Option<Vec<f64>>,
    /// Turned numbers are multiplied by this.
    pub(crate) rotary_scale: f64,
    pub(crate) pairing: Pairing,
    /// For each layer, to how many of the last positions it looks back; all if absent.
    pub(crate) windows: Vec<Option<u32>>,
    /// Scores of attention are multiplied by this.
    pub(crate) query_scale: f32,
    /// Scores of attention are squeezed below this.
    pub(crate) attention_softcap: Option<f32>,
    /// Logits are squeezed below this.
    pub(crate) logit_softcap: Option<f32>,
    /// Queries, keys and values have biases.
    pub(crate) biases: bool,
    pub(crate) activation: Activation,
    /// The mixture in the place of the feed-forward layer.
    pub(crate) experts: Option<Experts>,
    /// Whether the embedding is the output projection too.
    pub(crate) tied: bool,
}

/// The sizes of a mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Experts {
    pub(crate) count: usize,
    /// How many compute a row.
    pub(crate) used: usize,
    /// Feed-forward size of one.
    pub(crate) width: usize,
    /// The weights of those used add up to one.
    pub(crate) normalised: bool,
    /// Layers that have none.
    pub(crate) plain_layers: Vec<usize>,
}

impl Shape {
    /// Refuses sizes that our kernels or common sense cannot work with.
    pub(crate) fn check(&self, what: &str) -> std::result::Result<(), LoadError> {
        let malformed =
            |problem: String| Err(LoadError::Malformed { what: what.to_owned(), problem });
        let sizes = [
            ("hidden size", self.hidden),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("number of key/value heads", self.kv_heads),
            ("head size", self.head_width),
            ("feed-forward size", self.feed_forward),
            ("vocabulary", self.vocabulary),
            ("context length", self.context as usize),
        ];
        for (name, size) in sizes {
            if size == 0 || size > MAX_SIZE {
                return malformed(format!("{name} is {size}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return malformed("heads are not a multiple of key/value heads".to_owned());
        }
        let rotary = self.frequencies.len() * 2;
        let local = self.window_frequencies.as_ref().map_or(rotary, |local| local.len() * 2);
        if rotary == 0 || rotary > self.head_width || local != rotary {
            return malformed("rotary dimensions do not fit the head size".to_owned());
        }
        if self.windows.len() != self.layers || self.windows.contains(&Some(0)) {
            return malformed("windows do not fit the layers".to_owned());
        }
        if let Some(Experts { count, used, width, .. }) = self.experts
            && (count == 0 || count > MAX_SIZE || used == 0 || used > count || width == 0)
        {
            return malformed(format!("{used} of {count} experts of size {width}"));
        }
        if !self.head_width.is_multiple_of(HEAD_WIDTH_UNIT) {
            return Err(LoadError::Unsupported {
                what: format!("head size {}", self.head_width),
                remedy: format!("use a model whose head size is a multiple of {HEAD_WIDTH_UNIT}"),
            });
        }
        Ok(())
    }

    /// Bytes of keys and values of one token, over all layers.
    pub(crate) fn kv_bytes_per_token(&self) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_width * size_of::<f16>()) as u64
    }

    /// The arithmetic of a step, for a first guess at what it costs.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        let (queries, keys) = (self.heads * self.head_width, self.kv_heads * self.head_width);
        let experts = self.experts.as_ref().map(|experts| experts.used * experts.width);
        let projections = 2 * queries + 2 * keys + 3 * experts.unwrap_or(self.feed_forward);
        Arithmetic {
            token: (2 * self.layers * self.hidden * projections) as u64,
            pair: (4 * self.layers * queries) as u64,
            position_bytes: self.kv_bytes_per_token(),
            row: (2 * self.hidden * self.vocabulary) as u64,
        }
    }
}

/// Keys and values of all layers, in blocks. Of 16 bits: reading them is what attention waits for.
pub(crate) struct KvCache {
    /// One for each layer, `[blocks, kv_heads, head_width, block_tokens]`.
    pub(crate) keys: Vec<Tensor>,
    /// One for each layer, `[blocks, kv_heads, block_tokens, head_width]`.
    pub(crate) values: Vec<Tensor>,
    pub(crate) block_tokens: usize,
}

impl KvCache {
    pub(crate) fn new(shape: &Shape, blocks: u32, block_tokens: u32) -> Result<Self> {
        let (blocks, block_tokens) = (blocks as usize, block_tokens as usize);
        let Shape { kv_heads, head_width, layers, .. } = *shape;
        let make = |dims: (usize, usize, usize, usize)| -> Result<Vec<Tensor>> {
            let layer = |_| {
                let (blocks, heads, rows, columns) = dims;
                // The system gives a page of zeros when it is first written to; `f16` would be written at once.
                let zeros = vec![0_u16; blocks * heads * rows * columns].reinterpret_into::<f16>();
                let zeros = Tensor::from_vec(zeros, dims, &Device::Cpu)?;
                crate::ops::prefer_large_pages_behind(&zeros);
                Ok(zeros)
            };
            (0..layers).map(layer).collect()
        };
        let keys = make((blocks, kv_heads, head_width, block_tokens))?;
        let values = make((blocks, kv_heads, block_tokens, head_width))?;
        Ok(Self { keys, values, block_tokens })
    }
}

/// More than any model has; a configuration that says more is refused by its sizes.
pub(crate) const MAX_LAYERS: usize = 1 << 12;

/// Larger than any real size, small enough that products of three do not overflow.
const MAX_SIZE: usize = 1 << 20;

/// Our attention kernel works on this many numbers of a head at once.
const HEAD_WIDTH_UNIT: usize = 16;

#[cfg(test)]
pub(crate) mod tests;
