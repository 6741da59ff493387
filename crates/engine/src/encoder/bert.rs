//! BERT (Devlin et al., 2018): learned positions, norms after each part, biases everywhere.

use candle_core::{Device, Result, Tensor};
use serde::Deserialize;

use super::parts::{self, Norm, Projection, Text};
use super::{Network, Size};
use crate::LoadError;
use crate::checkpoint::{Folder, tensor_error};
use crate::model::Progress;
use crate::ops::Pool;
use crate::ops::gate::gelu;

/// In what its descendants differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    /// The number of a text's first position.
    pub(super) first_position: u32,
}

pub(super) const BERT: Variant = Variant { first_position: 0 };
/// The first positions are those of padding.
pub(super) const ROBERTA: Variant = Variant { first_position: 2 };

/// What we read of `config.json`.
#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: u32,
    #[serde(default = "one")]
    type_vocab_size: usize,
    layer_norm_eps: f32,
    #[serde(default = "gelu_name")]
    hidden_act: String,
    position_embedding_type: Option<String>,
}

struct Bert {
    config: Config,
    variant: Variant,
    words: Tensor,
    /// Of positions, with that of the one kind of token that we read.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    query_key_value: Projection,
    attention_output: Projection,
    attention_norm: Norm,
    up: Projection,
    down: Projection,
    norm: Norm,
}

/// Loads one whose first position is what the variant says.
pub(super) fn load(
    variant: Variant,
    folder: &mut Folder,
    progress: &mut dyn FnMut(Progress),
) -> std::result::Result<Box<dyn Network>, LoadError> {
    Ok(Box::new(Bert::load(variant, folder, progress)?))
}

impl Bert {
    fn load(
        variant: Variant,
        folder: &mut Folder,
        progress: &mut dyn FnMut(Progress),
    ) -> std::result::Result<Self, LoadError> {
        let config: Config = folder.config()?;
        config.check(variant)?;
        let (width, epsilon) = (config.hidden_size, config.layer_norm_eps);
        // Some files hold the model as a part of a larger one.
        let prefix = ["", "bert.", "roberta."];
        let prefix = prefix.into_iter().find(|prefix| folder.has(&format!("{prefix}{WORDS}")));
        let prefix = prefix.unwrap_or_default();
        let name = |name: &str| format!("{prefix}{name}");
        let table = |folder: &Folder, part: &str, rows| folder.matrix(&name(part), rows, width);
        let words = table(folder, WORDS, config.vocab_size)?;
        let positions = table(folder, POSITIONS, config.max_position_embeddings as usize)?;
        let kinds = table(folder, KINDS, config.type_vocab_size)?;
        let with_kind = kinds.narrow(0, 0, 1).and_then(|kind| positions.broadcast_add(&kind));
        let positions = with_kind.map_err(|error| tensor_error(&name(KINDS), &error))?;
        let norm = Norm::load(folder, &name("embeddings.LayerNorm"), width, epsilon)?;
        let layers = parts::layers(config.num_hidden_layers, progress, |index| {
            Layer::load(folder, &name(&format!("encoder.layer.{index}")), &config)
        })?;
        Ok(Self { config, variant, words, positions, norm, layers })
    }
}

impl Network for Bert {
    fn size(&self) -> Size {
        Size {
            max_tokens: self.config.max_position_embeddings - self.variant.first_position,
            vocabulary: self.config.vocab_size as u32,
            width: self.config.hidden_size as u32,
        }
    }

    fn forward(&self, tokens: &[u32], pool: &Pool) -> Result<Vec<f32>> {
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let first = self.variant.first_position as usize;
        let positions = self.positions.narrow(0, first, tokens.len())?;
        let x = (self.words.index_select(&ids, 0)? + positions)?;
        let mut x = self.norm.apply(&x)?;
        let heads = self.config.num_attention_heads;
        let text = Text::new(tokens, heads, self.config.hidden_size / heads, pool)?;
        for layer in &self.layers {
            x = layer.apply(&x, &text)?;
        }
        x.flatten_all()?.to_vec1()
    }
}

impl Config {
    fn check(&self, variant: Variant) -> std::result::Result<(), LoadError> {
        let sizes = [
            self.hidden_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.intermediate_size,
            self.vocab_size,
            self.type_vocab_size,
        ];
        parts::check_sizes(&sizes)?;
        parts::check_heads(self.hidden_size, self.num_attention_heads)?;
        if self.max_position_embeddings <= variant.first_position {
            return Err(parts::malformed("there are no positions"));
        }
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        parts::check_setting("hidden_act", &self.hidden_act, "gelu")?;
        parts::check_setting("position_embedding_type", positions, "absolute")
    }
}

impl Layer {
    fn load(
        folder: &mut Folder,
        prefix: &str,
        config: &Config,
    ) -> std::result::Result<Self, LoadError> {
        let Config {
            hidden_size: width, intermediate_size: inner, layer_norm_eps: epsilon, ..
        } = *config;
        let name = |name: &str| format!("{prefix}.{name}");
        let projections =
            ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        let mut projection =
            |part: &str, outputs, inputs| Projection::load(folder, &[name(part)], outputs, inputs);
        let attention_output = projection("attention.output.dense", width, width)?;
        let up = projection("intermediate.dense", inner, width)?;
        let down = projection("output.dense", width, inner)?;
        Ok(Self {
            query_key_value: Projection::load(folder, &projections, width, width)?,
            attention_output,
            attention_norm: Norm::load(
                folder,
                &name("attention.output.LayerNorm"),
                width,
                epsilon,
            )?,
            up,
            down,
            norm: Norm::load(folder, &name("output.LayerNorm"), width, epsilon)?,
        })
    }

    fn apply(&self, x: &Tensor, text: &Text<'_>) -> Result<Tensor> {
        let attended = text.attend(&self.query_key_value.apply(x, text.pool)?)?;
        let attended = self.attention_output.apply(&attended, text.pool)?;
        let x = self.attention_norm.apply(&(attended + x)?)?;
        let inner = gelu(&self.up.apply(&x, text.pool)?)?;
        self.norm.apply(&(self.down.apply(&inner, text.pool)? + &x)?)
    }
}

fn gelu_name() -> String {
    "gelu".to_owned()
}

const fn one() -> usize {
    1
}

const WORDS: &str = "embeddings.word_embeddings.weight";
const POSITIONS: &str = "embeddings.position_embeddings.weight";
const KINDS: &str = "embeddings.token_type_embeddings.weight";
