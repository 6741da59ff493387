//! Nomic BERT (Nussbaum et al., 2024): turned queries and keys instead of positions, a gated activation, norms after
//! each part, and no biases but those of norms.
//!
//! The published files name their settings as GPT-2's do, those that `transformers` writes as BERT's. Texts are read up to
//! the length that a model was trained with: the published code stretches rotations beyond it, which we do not.

use candle_core::{Device, Result, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::parts::{self, Norm, Projection, Text};
use super::{Network, Size};
use crate::LoadError;
use crate::checkpoint::{Folder, plain_frequencies, tensor_error};
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::gate::{Activation, gated};
use crate::ops::rope::{Pairing, Rotation, Turns};

/// What we read of `config.json`.
#[derive(Deserialize)]
struct Config {
    #[serde(alias = "n_embd")]
    hidden_size: usize,
    #[serde(alias = "n_layer")]
    num_hidden_layers: usize,
    #[serde(alias = "n_head")]
    num_attention_heads: usize,
    #[serde(alias = "n_inner")]
    intermediate_size: usize,
    vocab_size: usize,
    #[serde(alias = "n_positions")]
    max_position_embeddings: u32,
    max_trained_positions: Option<u32>,
    type_vocab_size: usize,
    #[serde(alias = "layer_norm_epsilon")]
    layer_norm_eps: f32,
    #[serde(alias = "activation_function")]
    hidden_act: String,
    rotary_emb_base: Option<f64>,
    rope_parameters: Option<Rope>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

struct NomicBert {
    config: Config,
    /// Of words, with that of the one kind of token that we read.
    words: Tensor,
    words_norm: Norm,
    rotation: Rotation,
    layers: Vec<Layer>,
}

struct Layer {
    query_key_value: Projection,
    attention_output: Projection,
    attention_norm: Norm,
    gate_and_up: Projection,
    down: Projection,
    norm: Norm,
}

pub(super) fn load(
    folder: &mut Folder,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Box<dyn Network>, LoadError> {
    let config: Config = folder.config()?;
    config.check()?;
    let frequencies =
        plain_frequencies(config.theta(), config.hidden_size / config.num_attention_heads);
    let (width, epsilon) = (config.hidden_size, config.layer_norm_eps);
    let words = folder.matrix(WORDS, config.vocab_size, width)?;
    let kinds = folder.matrix(KINDS, config.type_vocab_size, width)?;
    let with_kind = kinds.narrow(0, 0, 1).and_then(|kind| words.broadcast_add(&kind));
    let words = with_kind.map_err(|error| tensor_error(KINDS, &error))?;
    let words_norm = Norm::load(folder, "emb_ln", width, epsilon)?;
    let layers = parts::layers(config.num_hidden_layers, progress, |index| {
        Layer::load(folder, &format!("encoder.layers.{index}"), &config)
    })?;
    let rotation = Rotation::new(Pairing::Halves, &frequencies, 1.0);
    Ok(Box::new(NomicBert { config, words, words_norm, rotation, layers }))
}

impl Network for NomicBert {
    fn size(&self) -> Size {
        Size {
            max_tokens: self.config.max_tokens(),
            vocabulary: self.config.vocab_size as u32,
            width: self.config.hidden_size as u32,
        }
    }

    fn forward(&self, tokens: &[u32], pool: &Pool) -> Result<Vec<f32>> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.words_norm.apply(&self.words.index_select(&ids, 0)?)?;
        let heads = self.config.num_attention_heads;
        let text = Text::new(tokens, heads, self.config.hidden_size / heads, pool)?;
        let positions: Vec<u32> = (0..tokens.len() as u32).collect();
        let turns = self.rotation.turns(&positions);
        for layer in &self.layers {
            x = layer.apply(&x, &text, &turns)?;
        }
        x.flatten_all()?.to_vec1()
    }
}

impl Layer {
    fn load(
        folder: &mut Folder,
        prefix: &str,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let name = |name: &str| format!("{prefix}.{name}");
        let mut projection = |names: &[String], outputs, inputs| {
            Projection::without_biases(folder, names, outputs, inputs)
        };
        let query_key_value = projection(&[name("attn.Wqkv")], 3 * width, width)?;
        let attention_output = projection(&[name("attn.out_proj")], width, width)?;
        let gate_and_up = projection(&[name("mlp.fc12"), name("mlp.fc11")], inner, width)?;
        let down = projection(&[name("mlp.fc2")], width, inner)?;
        let mut norm = |part| Norm::load(folder, &name(part), width, config.layer_norm_eps);
        Ok(Self {
            query_key_value,
            attention_output,
            attention_norm: norm("norm1")?,
            gate_and_up,
            down,
            norm: norm("norm2")?,
        })
    }

    fn apply(&self, x: &Tensor, text: &Text<'_>, turns: &Turns) -> Result<Tensor> {
        let projection = self.query_key_value.apply(x, text.pool)?;
        text.turn(&projection, turns)?;
        let attended = self.attention_output.apply(&text.attend(&projection)?, text.pool)?;
        let x = self.attention_norm.apply(&(attended + x)?)?;
        let inner = gated(&self.gate_and_up.apply(&x, text.pool)?, Activation::Silu, text.pool)?;
        self.norm.apply(&(self.down.apply(&inner, text.pool)? + &x)?)
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
            self.type_vocab_size,
            self.max_tokens() as usize,
        ];
        parts::check_sizes(&sizes)?;
        parts::check_heads(self.hidden_size, self.num_attention_heads)?;
        parts::check_thetas(&[self.theta()])?;
        if self.hidden_act != "swiglu" {
            parts::check_setting("hidden_act", &self.hidden_act, "silu")?;
        }
        let rope = self.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref());
        parts::check_setting("rope_type", rope.unwrap_or("default"), "default")?;
        for (setting, known) in KNOWN {
            let value = self.others.get(*setting).map(Value::to_string);
            parts::check_setting(setting, value.as_deref().unwrap_or(known), known)?;
        }
        Ok(())
    }

    fn max_tokens(&self) -> u32 {
        let trained = self.max_trained_positions.unwrap_or(self.max_position_embeddings);
        self.max_position_embeddings.min(trained)
    }

    /// The base of the rotation.
    fn theta(&self) -> f64 {
        let theta = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        theta.or(self.rotary_emb_base).unwrap_or(DEFAULT_THETA)
    }
}

const WORDS: &str = "embeddings.word_embeddings.weight";
const KINDS: &str = "embeddings.token_type_embeddings.weight";
const DEFAULT_THETA: f64 = 1000.0;
/// Settings in which models might differ, and what they are in the one that we compute.
const KNOWN: &[(&str, &str)] = &[
    ("rotary_emb_fraction", "1.0"),
    ("rotary_emb_interleaved", "false"),
    ("rotary_emb_scale_base", "null"),
    ("rotary_scaling_factor", "null"),
    ("prenorm", "false"),
    ("parallel_block", "false"),
    ("causal", "false"),
    ("use_rms_norm", "false"),
    ("qkv_proj_bias", "false"),
    ("mlp_fc1_bias", "false"),
    ("mlp_fc2_bias", "false"),
];
