//! The decoder-only transformer, with everything in which our architectures differ from each other.
//!
//! An architecture is a [`Design`]: how it differs from Llama. What a single model of it says in its
//! configuration (sizes, windows, frequencies) is in its [`Shape`].

use candle_core::{Device, Result, Tensor};

use super::feed_forward::FeedForward;
use super::{Decoder, KvCache, Place, Shape};
use crate::LoadError;
use crate::adapter::Adapted;
use crate::checkpoint::{Checkpoint, Part};
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::attention::Attention;
use crate::ops::gate::Activation;
use crate::ops::linear::Linear;
use crate::ops::norm::{HeadNorm, rms_norm};
use crate::ops::rope::{Rotation, Store, Turns};
use crate::ops::softcap;
use crate::step::Step;

/// How an architecture differs from Llama.
#[expect(clippy::struct_excessive_bools, reason = "each is a difference of its own")]
pub(crate) struct Design {
    /// Queries, keys and values have biases, whatever the configuration says.
    pub(crate) biases: bool,
    /// The heads of queries and keys are normalised before they are turned.
    pub(crate) head_norms: bool,
    /// Files hold queries, keys and values in one tensor, and gate and up in another.
    pub(crate) fused: bool,
    /// What attention and feed-forward add is normalised too.
    pub(crate) sandwich: bool,
    /// Safetensors hold the weights of norms less one.
    pub(crate) norms_from_one: bool,
    /// Embeddings are multiplied by the root of the hidden size.
    pub(crate) scaled_embedding: bool,
    /// What the gate's numbers go through.
    pub(crate) activation: Activation,
    /// Which layers look back only so far, where the configuration does not list them.
    pub(crate) windows: Windows,
    /// Experts in the place of the feed-forward layer.
    pub(crate) experts: Option<ExpertNames>,
    /// The embedding is the output projection too, where the configuration does not say.
    pub(crate) tied: bool,
}

/// Which layers look back only so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    /// None.
    Nowhere,
    /// All, if the configuration has a window.
    Everywhere,
    /// Those from `max_window_layers` on, if `use_sliding_window` is set.
    Above,
    /// Every second, the first among them.
    EverySecond,
    /// All but each `sliding_window_pattern`-th.
    AllButEach,
}

impl Windows {
    /// For each of so many layers how far it looks back, if the configuration has a `window`: from which layer
    /// on (`above`), and at which layers it does not (`pattern`).
    pub(crate) fn of_layers(
        self,
        layers: usize,
        window: Option<u32>,
        above: Option<usize>,
        pattern: Option<usize>,
    ) -> Vec<Option<u32>> {
        let has_window = |layer: usize| match self {
            Self::Nowhere => false,
            Self::Everywhere => true,
            Self::Above => above.is_some_and(|first| layer >= first),
            Self::EverySecond => layer.is_multiple_of(2),
            Self::AllButEach => {
                !(layer + 1).is_multiple_of(pattern.unwrap_or(DEFAULT_PATTERN).max(1))
            }
        };
        (0..layers).map(|layer| window.filter(|_| has_window(layer))).collect()
    }
}

/// What a mixture's tensors are called, below a layer.
pub(crate) struct ExpertNames {
    pub(crate) router: &'static str,
    /// Before an expert's number.
    pub(crate) experts: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
}

/// Llama itself: `RMSNorm`, rotary positions, grouped queries, `SwiGLU`, no biases.
pub(crate) const LLAMA: Design = Design {
    biases: false,
    head_norms: false,
    fused: false,
    sandwich: false,
    norms_from_one: false,
    scaled_embedding: false,
    activation: Activation::Silu,
    windows: Windows::Nowhere,
    experts: None,
    tied: false,
};

struct Transformer {
    shape: Shape,
    /// Of layers that see everything, and of those with a window.
    rotations: [Rotation; 2],
    embedding: Linear,
    embedding_scale: Option<f64>,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Absent if the embedding is the output projection too.
    head: Option<Linear>,
}

struct Layer {
    attention_norm: Tensor,
    /// Queries, keys and values side by side.
    query_key_value: Linear,
    biases: Option<Tensor>,
    /// Of queries and of keys.
    head_norms: Option<[Tensor; 2]>,
    attention_output: Linear,
    attention_output_norm: Option<Tensor>,
    feed_forward_norm: Tensor,
    feed_forward: FeedForward,
    feed_forward_output_norm: Option<Tensor>,
}

/// Makes a decoder from weights with Hugging Face names.
pub(super) fn load(
    design: &Design,
    checkpoint: &mut dyn Checkpoint,
    shape: &Shape,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Box<dyn Decoder>, LoadError> {
    let total = shape.layers as u32 + 1;
    let mut layers = Vec::with_capacity(shape.layers);
    for index in 0..shape.layers {
        let loading = Loading { design, shape, prefix: format!("model.layers.{index}"), index };
        layers.push(loading.layer(checkpoint)?);
        progress(Progress { loaded: index as u32 + 1, total });
    }
    let vocabulary = |name| [Part::new(name, shape.vocabulary)];
    let head = if shape.tied {
        None
    } else {
        Some(checkpoint.linear(&vocabulary("lm_head.weight"), shape.hidden)?)
    };
    let rotation = |frequencies| Rotation::new(shape.pairing, frequencies, shape.rotary_scale);
    let transformer = Transformer {
        rotations: [
            rotation(&shape.frequencies),
            rotation(shape.window_frequencies.as_ref().unwrap_or(&shape.frequencies)),
        ],
        embedding: checkpoint.linear(&vocabulary("model.embed_tokens.weight"), shape.hidden)?,
        embedding_scale: design.scaled_embedding.then(|| (shape.hidden as f64).sqrt()),
        layers,
        norm: checkpoint.norm("model.norm.weight", shape.hidden, design.norms_from_one)?,
        head,
        shape: shape.clone(),
    };
    progress(Progress { loaded: total, total });
    Ok(Box::new(transformer))
}

/// One layer being loaded.
pub(super) struct Loading<'a> {
    pub(super) design: &'a Design,
    pub(super) shape: &'a Shape,
    /// What its tensors' names begin with.
    pub(super) prefix: String,
    pub(super) index: usize,
}

impl Loading<'_> {
    pub(super) fn part(&self, name: &str, outputs: usize) -> Part {
        Part::new(&format!("{}.{name}.weight", self.prefix), outputs)
    }

    fn layer(&self, checkpoint: &mut dyn Checkpoint) -> std::result::Result<Layer, LoadError> {
        let Shape { hidden, heads, head_width, .. } = *self.shape;
        let norm = |checkpoint: &mut dyn Checkpoint, name: &str, width| {
            let name = format!("{}.{name}.weight", self.prefix);
            checkpoint.norm(&name, width, self.design.norms_from_one)
        };
        let head_norms = if self.design.head_norms {
            let queries = norm(checkpoint, "self_attn.q_norm", head_width)?;
            Some([queries, norm(checkpoint, "self_attn.k_norm", head_width)?])
        } else {
            None
        };
        let mut output_norm =
            |name: &str| self.design.sandwich.then(|| norm(checkpoint, name, hidden)).transpose();
        let attention_output_norm = output_norm("post_attention_layernorm")?;
        let feed_forward_output_norm = output_norm("post_feedforward_layernorm")?;
        let feed_forward_norm = if self.design.sandwich {
            "pre_feedforward_layernorm"
        } else {
            "post_attention_layernorm"
        };
        let output = [self.part("self_attn.o_proj", hidden)];
        Ok(Layer {
            attention_norm: norm(checkpoint, "input_layernorm", hidden)?,
            query_key_value: checkpoint.linear(&self.query_key_value(), hidden)?,
            biases: self.biases(checkpoint)?,
            head_norms,
            attention_output: checkpoint.linear(&output, heads * head_width)?,
            attention_output_norm,
            feed_forward_norm: norm(checkpoint, feed_forward_norm, hidden)?,
            feed_forward: FeedForward::load(checkpoint, self)?,
            feed_forward_output_norm,
        })
    }

    fn query_key_value(&self) -> Vec<Part> {
        let Shape { heads, kv_heads, head_width, .. } = *self.shape;
        let (queries, keys) = (heads * head_width, kv_heads * head_width);
        if self.design.fused {
            return vec![self.part("self_attn.qkv_proj", queries + 2 * keys)];
        }
        vec![
            self.part("self_attn.q_proj", queries),
            self.part("self_attn.k_proj", keys),
            self.part("self_attn.v_proj", keys),
        ]
    }

    fn biases(
        &self,
        checkpoint: &mut dyn Checkpoint,
    ) -> std::result::Result<Option<Tensor>, LoadError> {
        if !self.shape.biases {
            return Ok(None);
        }
        let parts = self.query_key_value();
        let names = parts.iter().map(|part| part.name.replace(".weight", ".bias"));
        let biases: std::result::Result<Vec<Tensor>, _> =
            names.zip(&parts).map(|(name, part)| checkpoint.vector(&name, part.outputs)).collect();
        let joined = Tensor::cat(&biases?, 0);
        joined.map(Some).map_err(|error| LoadError::Tensor {
            tensor: format!("{}.self_attn", self.prefix),
            problem: error.to_string(),
        })
    }
}

impl Decoder for Transformer {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn forward(
        &self,
        step: &Step,
        cache: &KvCache,
        pool: &Pool,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let turns = [0, 1].map(|kind| {
            // Most models turn all layers alike.
            let used = kind == 0 || self.shape.window_frequencies.is_some();
            used.then(|| self.rotations[kind].turns(&step.positions))
        });
        let mut x = self.embedding.rows(&step.tokens)?;
        if let Some(scale) = self.embedding_scale {
            x = (x * scale)?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let windowed = self.shape.windows[index].is_some();
            let [full, local] = [&turns[0], &turns[1]];
            let Some(turns) = local.as_ref().filter(|_| windowed).or(full.as_ref()) else {
                candle_core::bail!("no rotation for layer {index}");
            };
            let adapted = Adapted { groups: &step.groups, layer: index };
            let pass = Pass { step, pool, turns, shape: &self.shape, cache, index, adapted };
            x = (&x + pass.attend(layer, &x)?)?;
            x = (&x + pass.feed_forward(layer, &x)?)?;
        }
        if step.sampled.is_empty() {
            logits.clear();
            return Ok(());
        }
        // Rows that sample nothing never touch the vocabulary.
        let sampled = Tensor::new(step.sampled.as_slice(), &Device::Cpu)?;
        let x = rms_norm(&x.index_select(&sampled, 0)?, &self.norm, self.shape.epsilon)?;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        head.apply_into(&x, pool, logits)?;
        if let Some(cap) = self.shape.logit_softcap {
            softcap(logits, cap);
        }
        Ok(())
    }
}

/// One layer's part of a step.
struct Pass<'a> {
    step: &'a Step,
    pool: &'a Pool,
    turns: &'a Turns,
    shape: &'a Shape,
    cache: &'a KvCache,
    /// Number of the layer.
    index: usize,
    adapted: Adapted<'a>,
}

impl Pass<'_> {
    fn attend(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let Shape { heads, kv_heads, head_width, epsilon, .. } = *self.shape;
        let (keys, values) = (&self.cache.keys[self.index], &self.cache.values[self.index]);
        let x = rms_norm(x, &layer.attention_norm, epsilon)?;
        let mut projection = layer.query_key_value.apply(&x, self.pool)?;
        self.adapted.add(Place::QueryKeyValue, &x, &projection, self.pool)?;
        if let Some(biases) = &layer.biases {
            projection = projection.broadcast_add(biases)?;
        }
        if let Some([of_queries, of_keys]) = &layer.head_norms {
            let norm = HeadNorm { column: 0, heads, epsilon, pool: self.pool };
            norm.apply(&projection, of_queries)?;
            let norm = HeadNorm { column: heads * head_width, heads: kv_heads, ..norm };
            norm.apply(&projection, of_keys)?;
        }
        self.turns.apply(&projection, heads + kv_heads, head_width, self.pool)?;
        let store = Store {
            column: heads * head_width,
            heads: kv_heads,
            head_width,
            block_tokens: self.cache.block_tokens,
            transposed: true,
            slots: &self.step.slots,
            pool: self.pool,
        };
        store.write(keys, &projection)?;
        let column = (heads + kv_heads) * head_width;
        Store { column, transposed: false, ..store }.write(values, &projection)?;
        let attention = Attention {
            heads,
            kv_heads,
            head_width,
            block_tokens: self.cache.block_tokens,
            scale: self.shape.query_scale,
            softcap: self.shape.attention_softcap,
            window: self.shape.windows[self.index].into(),
            step: self.step,
            pool: self.pool,
        };
        let attended = attention.apply(&projection, keys, values)?;
        let output = layer.attention_output.apply(&attended, self.pool)?;
        self.adapted.add(Place::AttentionOutput, &attended, &output, self.pool)?;
        self.normalised(output, layer.attention_output_norm.as_ref())
    }

    fn feed_forward(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let x = rms_norm(x, &layer.feed_forward_norm, self.shape.epsilon)?;
        let output = layer.feed_forward.apply(&x, self.adapted, self.pool)?;
        self.normalised(output, layer.feed_forward_output_norm.as_ref())
    }

    fn normalised(&self, x: Tensor, norm: Option<&Tensor>) -> Result<Tensor> {
        let Some(norm) = norm else { return Ok(x) };
        rms_norm(&x, norm, self.shape.epsilon)
    }
}

/// Gemma 3's.
const DEFAULT_PATTERN: usize = 6;
