//! Llama and everything of its shape: `RMSNorm`, rotary positions, grouped queries, `SwiGLU`, no biases.

use candle_core::{Device, Result, Tensor};

use super::{Decoder, KvCache, Shape};
use crate::LoadError;
use crate::checkpoint::{Checkpoint, Part};
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::attention::Attention;
use crate::ops::gate::swiglu;
use crate::ops::linear::Linear;
use crate::ops::norm::rms_norm;
use crate::ops::rope::{Rotation, Store, Turns};
use crate::step::Step;

struct Llama {
    shape: Shape,
    rotation: Rotation,
    embedding: Linear,
    layers: Vec<Layer>,
    norm: Tensor,
    /// Absent if the embedding is the output projection too.
    head: Option<Linear>,
}

struct Layer {
    attention_norm: Tensor,
    /// Queries, keys and values side by side.
    query_key_value: Linear,
    attention_output: Linear,
    feed_forward_norm: Tensor,
    gate_and_up: Linear,
    down: Linear,
}

/// Makes a decoder from weights with Hugging Face names.
pub(super) fn load(
    checkpoint: &mut dyn Checkpoint,
    shape: &Shape,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Box<dyn Decoder>, LoadError> {
    let total = shape.layers as u32 + 1;
    let mut layers = Vec::with_capacity(shape.layers);
    for index in 0..shape.layers {
        layers.push(Layer::load(checkpoint, shape, &format!("model.layers.{index}"))?);
        progress(Progress { loaded: index as u32 + 1, total });
    }
    let vocabulary = |name| [Part::new(name, shape.vocabulary)];
    let head = if shape.tied {
        None
    } else {
        Some(checkpoint.linear(&vocabulary("lm_head.weight"), shape.hidden)?)
    };
    let llama = Llama {
        rotation: Rotation::new(shape.pairing, &shape.frequencies),
        embedding: checkpoint.linear(&vocabulary("model.embed_tokens.weight"), shape.hidden)?,
        layers,
        norm: checkpoint.vector("model.norm.weight", shape.hidden)?,
        head,
        shape: shape.clone(),
    };
    progress(Progress { loaded: total, total });
    Ok(Box::new(llama))
}

impl Layer {
    fn load(
        checkpoint: &mut dyn Checkpoint,
        shape: &Shape,
        prefix: &str,
    ) -> std::result::Result<Self, LoadError> {
        let Shape { hidden, heads, kv_heads, head_width, feed_forward, .. } = *shape;
        let (queries, keys) = (heads * head_width, kv_heads * head_width);
        let part = |name: &str, outputs| Part::new(&format!("{prefix}.{name}.weight"), outputs);
        Ok(Self {
            attention_norm: checkpoint
                .vector(&format!("{prefix}.input_layernorm.weight"), hidden)?,
            query_key_value: checkpoint.linear(
                &[
                    part("self_attn.q_proj", queries),
                    part("self_attn.k_proj", keys),
                    part("self_attn.v_proj", keys),
                ],
                hidden,
            )?,
            attention_output: checkpoint.linear(&[part("self_attn.o_proj", hidden)], queries)?,
            feed_forward_norm: checkpoint
                .vector(&format!("{prefix}.post_attention_layernorm.weight"), hidden)?,
            gate_and_up: checkpoint.linear(
                &[part("mlp.gate_proj", feed_forward), part("mlp.up_proj", feed_forward)],
                hidden,
            )?,
            down: checkpoint.linear(&[part("mlp.down_proj", hidden)], feed_forward)?,
        })
    }
}

impl Decoder for Llama {
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
        let turns = self.rotation.turns(&step.positions);
        let mut x = self.embedding.rows(&step.tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let pass = Pass { step, pool, turns: &turns, shape: &self.shape, cache, index };
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
        head.apply_into(&x, pool, logits)
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
}

impl Pass<'_> {
    fn attend(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let Shape { heads, kv_heads, head_width, epsilon, .. } = *self.shape;
        let (keys, values) = (&self.cache.keys[self.index], &self.cache.values[self.index]);
        let x = rms_norm(x, &layer.attention_norm, epsilon)?;
        let projection = layer.query_key_value.apply(&x, self.pool)?;
        self.turns.apply(&projection, heads + kv_heads, self.pool)?;
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
            step: self.step,
            pool: self.pool,
        };
        let attended = attention.apply(&projection, keys, values)?;
        layer.attention_output.apply(&attended, self.pool)
    }

    fn feed_forward(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let x = rms_norm(x, &layer.feed_forward_norm, self.shape.epsilon)?;
        let gated = swiglu(&layer.gate_and_up.apply(&x, self.pool)?, self.pool)?;
        layer.down.apply(&gated, self.pool)
    }
}
