//! `ModernBERT` (Warner et al., 2024): turned queries and keys instead of positions, norms before each part, a gated
//! activation, and most layers attending only what is near.
//!
//! Files say which layers are local either one by one, as newer ones do, or by a period.

use candle_core::{Device, Result, Tensor};
use serde::Deserialize;

use super::parts::{self, Norm, Projection, Text};
use super::{Network, Size};
use crate::LoadError;
use crate::checkpoint::{Folder, plain_frequencies};
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::gate::{Activation, gated};
use crate::ops::rope::{Pairing, Rotation, Turns};

/// What we read of `config.json`; what is absent is as in the published models.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: u32,
    norm_eps: f32,
    #[serde(default = "gelu_name")]
    hidden_activation: String,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    /// Positions in all that a token of a local layer attends, less its own.
    #[serde(default = "default_local_attention")]
    local_attention: u32,
    #[serde(default = "default_period")]
    global_attn_every_n_layers: usize,
    layer_types: Option<Vec<Attends>>,
    #[serde(default = "default_global_theta")]
    global_rope_theta: f64,
    #[serde(default = "default_local_theta")]
    local_rope_theta: f64,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<RopeParameters>,
}

/// What the tokens of a layer attend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Attends {
    #[serde(rename = "full_attention")]
    Everything,
    #[serde(rename = "sliding_attention")]
    WhatIsNear,
}

/// Rotations, in newer files.
#[derive(Deserialize)]
struct RopeParameters {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

struct ModernBert {
    config: Config,
    words: Tensor,
    words_norm: Norm,
    /// Of layers that attend everything.
    rotation: Rotation,
    local_rotation: Rotation,
    layers: Vec<Layer>,
    norm: Norm,
}

struct Layer {
    attends: Attends,
    /// The first layer has none: its input is normalised.
    attention_norm: Option<Norm>,
    query_key_value: Projection,
    attention_output: Projection,
    norm: Norm,
    gate_and_up: Projection,
    down: Projection,
}

pub(super) fn load(
    folder: &mut Folder,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Box<dyn Network>, LoadError> {
    let config: Config = folder.config()?;
    config.check()?;
    let rotation = |theta| {
        let frequencies = plain_frequencies(theta, config.hidden_size / config.num_attention_heads);
        Rotation::new(Pairing::Halves, &frequencies, 1.0)
    };
    let [theta, local_theta] = config.thetas()?;
    let (rotation, local_rotation) = (rotation(theta), rotation(local_theta));
    // Some files hold the model as a part of a larger one.
    let prefix = if folder.has(WORDS) { "" } else { "model." };
    let words =
        folder.matrix(&format!("{prefix}{WORDS}"), config.vocab_size, config.hidden_size)?;
    let mut loading = Loading { folder, config: &config };
    let words_norm = loading.norm(&format!("{prefix}embeddings.norm"))?;
    let layers = parts::layers(config.num_hidden_layers, progress, |index| {
        loading.layer(&format!("{prefix}layers.{index}"), index)
    })?;
    let norm = loading.norm(&format!("{prefix}final_norm"))?;
    let network = ModernBert { config, words, words_norm, rotation, local_rotation, layers, norm };
    Ok(Box::new(network))
}

impl Network for ModernBert {
    fn size(&self) -> Size {
        Size {
            max_tokens: self.config.max_position_embeddings,
            vocabulary: self.config.vocab_size as u32,
            width: self.config.hidden_size as u32,
        }
    }

    fn forward(&self, tokens: &[u32], pool: &Pool) -> Result<Vec<f32>> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.words_norm.apply(&self.words.index_select(&ids, 0)?)?;
        let heads = self.config.num_attention_heads;
        let text = Text::new(tokens, heads, self.config.hidden_size / heads, pool)?
            .with_local_layers(self.config.local_attention / 2);
        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let turns = self.rotation.turns(&positions);
        let local_turns = self.local_rotation.turns(&positions);
        for layer in &self.layers {
            x = match layer.attends {
                Attends::Everything => layer.apply(x, &text, &turns)?,
                Attends::WhatIsNear => layer.apply(x, &text, &local_turns)?,
            };
        }
        self.norm.apply(&x)?.flatten_all()?.to_vec1()
    }
}

impl Layer {
    fn apply(&self, x: Tensor, text: &Text<'_>, turns: &Turns) -> Result<Tensor> {
        let normalised = match &self.attention_norm {
            Some(norm) => &norm.apply(&x)?,
            None => &x,
        };
        let projection = self.query_key_value.apply(normalised, text.pool)?;
        text.turn(&projection, turns)?;
        let attended = match self.attends {
            Attends::Everything => text.attend(&projection)?,
            Attends::WhatIsNear => text.attend_near(&projection)?,
        };
        let x = (x + self.attention_output.apply(&attended, text.pool)?)?;
        let inner = self.gate_and_up.apply(&self.norm.apply(&x)?, text.pool)?;
        let inner = gated(&inner, Activation::ExactGelu, text.pool)?;
        x + self.down.apply(&inner, text.pool)?
    }
}

/// A model whose parts are being read.
struct Loading<'a> {
    folder: &'a mut Folder,
    config: &'a Config,
}

impl Loading<'_> {
    fn layer(&mut self, prefix: &str, index: usize) -> std::result::Result<Layer, LoadError> {
        let Config {
            hidden_size: width, intermediate_size: inner, attention_bias, mlp_bias, ..
        } = *self.config;
        let name = |name: &str| format!("{prefix}.{name}");
        let has_norm = index > 0;
        Ok(Layer {
            attends: self.config.attends(index),
            attention_norm: has_norm.then(|| self.norm(&name("attn_norm"))).transpose()?,
            query_key_value: self.projection(
                name("attn.Wqkv"),
                [3 * width, width],
                attention_bias,
            )?,
            attention_output: self.projection(name("attn.Wo"), [width, width], attention_bias)?,
            norm: self.norm(&name("mlp_norm"))?,
            gate_and_up: self.projection(name("mlp.Wi"), [2 * inner, width], mlp_bias)?,
            down: self.projection(name("mlp.Wo"), [width, inner], mlp_bias)?,
        })
    }

    fn norm(&mut self, name: &str) -> std::result::Result<Norm, LoadError> {
        let load = if self.config.norm_bias { Norm::load } else { Norm::without_bias };
        load(self.folder, name, self.config.hidden_size, self.config.norm_eps)
    }

    fn projection(
        &mut self,
        name: String,
        [outputs, inputs]: [usize; 2],
        is_biased: bool,
    ) -> std::result::Result<Projection, LoadError> {
        let load = if is_biased { Projection::load } else { Projection::without_biases };
        load(self.folder, &[name], outputs, inputs)
    }
}

impl Config {
    fn check(&self) -> std::result::Result<(), LoadError> {
        let sizes = [
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.vocab_size,
            self.max_position_embeddings as usize,
            self.global_attn_every_n_layers,
        ];
        parts::check_sizes(&sizes)?;
        parts::check_heads(self.hidden_size, self.num_attention_heads)?;
        parts::check_setting("hidden_activation", &self.hidden_activation, "gelu")?;
        if self.layer_types.as_ref().is_some_and(|types| types.len() != self.num_hidden_layers) {
            return Err(parts::malformed("`layer_types` does not fit the layers"));
        }
        Ok(())
    }

    fn attends(&self, layer: usize) -> Attends {
        match &self.layer_types {
            Some(types) => types[layer],
            None if layer.is_multiple_of(self.global_attn_every_n_layers) => Attends::Everything,
            None => Attends::WhatIsNear,
        }
    }

    /// The bases of the rotations of layers that attend everything, and of local ones.
    fn thetas(&self) -> std::result::Result<[f64; 2], LoadError> {
        let parameters = self.rope_parameters.as_ref();
        let global = parameters.and_then(|parameters| parameters.full_attention.as_ref());
        let local = parameters.and_then(|parameters| parameters.sliding_attention.as_ref());
        for rope in [self.rope_scaling.as_ref(), global, local].into_iter().flatten() {
            let kind = rope.rope_type.as_deref().unwrap_or("default");
            parts::check_setting("rope_type", kind, "default")?;
        }
        let thetas = [(global, self.global_rope_theta), (local, self.local_rope_theta)]
            .map(|(rope, theta)| rope.and_then(|rope| rope.rope_theta).unwrap_or(theta));
        parts::check_thetas(&thetas)?;
        Ok(thetas)
    }
}

fn gelu_name() -> String {
    "gelu".to_owned()
}

const fn default_local_attention() -> u32 {
    128
}

const fn default_period() -> usize {
    3
}

const fn default_global_theta() -> f64 {
    160_000.0
}

const fn default_local_theta() -> f64 {
    10_000.0
}

const WORDS: &str = "embeddings.tok_embeddings.weight";
