//! What every decoder needs to say, and the table of the architectures we can run.
//!
//! Adding one: a file `models/<name>.rs` with a `load`, and a line in [`ARCHITECTURES`].

use candle_core::{DType, Device, Result, Tensor};
use half::f16;

use crate::LoadError;
use crate::attribution::Arithmetic;
use crate::checkpoint::Checkpoint;
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::rope::Pairing;
use crate::step::Step;

mod llama;

/// Architectures by the name that a model's files give.
pub(crate) static ARCHITECTURES: &[(&str, Load)] = &[
    ("LlamaForCausalLM", llama::load), // config.json
    ("llama", llama::load),            // GGUF
];

/// Makes a decoder from weights.
pub(crate) type Load = fn(
    &mut dyn Checkpoint,
    &Shape,
    &mut dyn FnMut(Progress),
) -> std::result::Result<Box<dyn Decoder>, LoadError>;

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

/// The loader of an architecture.
pub(crate) fn find(architecture: &str) -> std::result::Result<Load, LoadError> {
    let found = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
    found.map(|(_, load)| *load).ok_or_else(|| {
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
    /// Angle per position for each pair of a head's numbers.
    pub(crate) frequencies: Vec<f64>,
    pub(crate) pairing: Pairing,
    /// Whether the embedding is the output projection too.
    pub(crate) tied: bool,
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
        if self.frequencies.len() * 2 != self.head_width {
            return malformed("rotary dimensions differ from the head size".to_owned());
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
        let projections = 2 * queries + 2 * keys + 3 * self.feed_forward;
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
                let zeros = Tensor::zeros(dims, DType::F16, &Device::Cpu)?;
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

/// Larger than any real size, small enough that products of three do not overflow.
const MAX_SIZE: usize = 1 << 20;

/// Our attention kernel works on this many numbers of a head at once.
const HEAD_WIDTH_UNIT: usize = 16;
