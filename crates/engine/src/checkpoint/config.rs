//! Reads `config.json`.
//!
//! Promise: a setting that changes the arithmetic in a way we do not compute is an error, not ignored.

use serde::Deserialize;

use super::files::{TokenIds, json};
use super::rotary::{DEFAULT_ROPE_BASE, RopeProblem, RopeScaling, Rotary};
use crate::LoadError;
use crate::models::{self, Design, Experts, MAX_LAYERS, Shape};
use crate::ops::gate::Activation;
use crate::ops::rope::Pairing;

/// What we read of `config.json`; keys that do not concern us are skipped.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    architectures: Vec<String>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: u32,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    #[serde(alias = "rope_parameters")]
    rope_scaling: Option<Rope>,
    rope_local_base_freq: Option<f64>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    use_bidirectional_attention: Option<bool>,
    #[serde(alias = "hidden_activation")]
    hidden_act: Option<String>,
    #[serde(flatten)]
    windows: WindowKeys,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    #[serde(flatten)]
    experts: ExpertKeys,
    bos_token_id: Option<u32>,
    eos_token_id: Option<TokenIds>,
}

/// Which layers look back only so far.
#[derive(Debug, Deserialize)]
struct WindowKeys {
    sliding_window: Option<u32>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
}

/// The mixture of experts.
#[derive(Debug, Deserialize)]
struct ExpertKeys {
    #[serde(alias = "num_local_experts")]
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<usize>,
    mlp_only_layers: Option<Vec<usize>>,
}

/// Rotary frequencies: of all layers, or of each kind of layer.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Rope {
    ByKind { full_attention: Box<RopeScaling>, sliding_attention: Option<Box<RopeScaling>> },
    All(Box<RopeScaling>),
}

impl Rope {
    fn full(&self) -> &RopeScaling {
        match self {
            Self::All(scaling) | Self::ByKind { full_attention: scaling, .. } => scaling,
        }
    }

    fn local(&self) -> Option<&RopeScaling> {
        match self {
            Self::All(_) => None,
            Self::ByKind { sliding_attention, .. } => sliding_attention.as_deref(),
        }
    }
}

impl Config {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let config: Self = json(FILE, bytes)?;
        let design = models::find(config.architecture()?)?;
        // Whether a bias is where we expect it is seen when it is loaded.
        let unsupported = [
            ("attention_bias", config.attention_bias && !design.biases),
            ("mlp_bias", config.mlp_bias),
            ("use_bidirectional_attention", config.use_bidirectional_attention == Some(true)),
        ];
        for (setting, is_set) in unsupported {
            if is_set {
                return Err(unsupported_setting(setting));
            }
        }
        Ok(config)
    }

    pub(super) fn architecture(&self) -> Result<&str, LoadError> {
        self.architectures
            .first()
            .map(String::as_str)
            .ok_or_else(|| malformed("`architectures` is empty"))
    }

    pub(super) const fn first_token(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// The base of the rotary frequencies, if they are not stretched.
    pub(super) fn plain_rope_base(&self) -> Result<f64, LoadError> {
        let scaling = self.rope_scaling.as_ref().map(Rope::full);
        if let Some(kind) = scaling.and_then(|scaling| scaling.rope_type.as_deref())
            && kind != "default"
        {
            return Err(unsupported_setting(&format!(
                "in a GGUF file: rope_scaling type `{kind}`"
            )));
        }
        let base = self.rope_theta.or(scaling.and_then(|scaling| scaling.rope_theta));
        Ok(base.unwrap_or(DEFAULT_ROPE_BASE))
    }

    pub(super) fn stop_tokens(&self) -> &[u32] {
        self.eos_token_id.as_ref().map_or(&[], TokenIds::ids)
    }

    pub(super) fn shape(&self) -> Result<Shape, LoadError> {
        let design = models::find(self.architecture()?)?;
        let Some(heads) = std::num::NonZeroUsize::new(self.num_attention_heads) else {
            return Err(malformed("`num_attention_heads` is 0"));
        };
        let head_width = self.head_dim.unwrap_or(self.hidden_size / heads);
        let turned = self.turned(head_width);
        let scaling = self.rope_scaling.as_ref().map(Rope::full);
        let rotary = self.rotary(scaling, self.rope_theta, turned)?;
        let shape = Shape {
            hidden: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: heads.get(),
            kv_heads: self.num_key_value_heads.unwrap_or(heads.get()),
            head_width,
            feed_forward: self.intermediate_size,
            vocabulary: self.vocab_size,
            context: rotary.context,
            epsilon: self.rms_norm_eps,
            frequencies: rotary.frequencies,
            window_frequencies: self.window_frequencies(turned)?,
            rotary_scale: rotary.scale,
            pairing: Pairing::Halves,
            windows: self.windows(design)?,
            query_scale: self.query_pre_attn_scalar.unwrap_or(head_width as f64).powf(-0.5) as f32,
            attention_softcap: self.attn_logit_softcapping,
            logit_softcap: self.final_logit_softcapping,
            biases: design.biases,
            activation: self.activation(design)?,
            experts: self.experts(design)?,
            tied: self.tie_word_embeddings.unwrap_or(design.tied),
        };
        shape.check(FILE)?;
        Ok(shape)
    }

    fn activation(&self, design: &Design) -> Result<Activation, LoadError> {
        match self.hidden_act.as_deref() {
            None => Ok(design.activation),
            Some("silu") => Ok(Activation::Silu),
            // Gemma's first files said `gelu` and meant this.
            Some("gelu_pytorch_tanh" | "gelu") => Ok(Activation::Gelu),
            Some(other) => Err(unsupported_setting(&format!("activation `{other}`"))),
        }
    }

    /// For each layer, how far it looks back.
    fn windows(&self, design: &Design) -> Result<Vec<Option<u32>>, LoadError> {
        let WindowKeys {
            sliding_window: window,
            use_sliding_window,
            max_window_layers,
            sliding_window_pattern,
            layer_types,
        } = &self.windows;
        let layers = self.num_hidden_layers.min(MAX_LAYERS);
        if let Some(types) = layer_types {
            let window_of = |kind: &String| match kind.as_str() {
                "full_attention" => Ok(None),
                "sliding_attention" if window.is_some() => Ok(*window),
                other => Err(unsupported_setting(&format!("layer type `{other}`"))),
            };
            return types.iter().map(window_of).collect();
        }
        let above =
            use_sliding_window.unwrap_or(false).then_some(max_window_layers.unwrap_or(layers));
        Ok(design.windows.of_layers(layers, *window, above, *sliding_window_pattern))
    }

    fn experts(&self, design: &Design) -> Result<Option<Experts>, LoadError> {
        let keys = &self.experts;
        if design.experts.is_none() {
            return Ok(None);
        }
        let (Some(count), Some(used)) = (keys.num_experts, keys.num_experts_per_tok) else {
            return Err(malformed("the number of experts is missing"));
        };
        let only_plain = keys.mlp_only_layers.clone().unwrap_or_default();
        let step = keys.decoder_sparse_step.unwrap_or(1).max(1);
        let is_plain =
            |layer: &usize| only_plain.contains(layer) || !(layer + 1).is_multiple_of(step);
        Ok(Some(Experts {
            count,
            used,
            width: keys.moe_intermediate_size.unwrap_or(self.intermediate_size),
            // Mixtral's files do not say; its weights always add up to one.
            normalised: keys.norm_topk_prob.unwrap_or(keys.moe_intermediate_size.is_none()),
            plain_layers: (0..self.num_hidden_layers.min(MAX_LAYERS)).filter(is_plain).collect(),
        }))
    }

    /// How many numbers of a head are turned.
    fn turned(&self, head_width: usize) -> usize {
        let scaling = self.rope_scaling.as_ref().map(Rope::full);
        let part = scaling.and_then(|scaling| scaling.partial_rotary_factor);
        let part = self.partial_rotary_factor.or(part).unwrap_or(1.0);
        (head_width as f64 * part) as usize
    }

    fn window_frequencies(&self, turned: usize) -> Result<Option<Vec<f64>>, LoadError> {
        let scaling = self.rope_scaling.as_ref().and_then(Rope::local);
        if scaling.is_none() && self.rope_local_base_freq.is_none() {
            return Ok(None);
        }
        self.rotary(scaling, self.rope_local_base_freq, turned)
            .map(|rotary| Some(rotary.frequencies))
    }

    fn rotary(
        &self,
        scaling: Option<&RopeScaling>,
        base: Option<f64>,
        turned: usize,
    ) -> Result<Rotary, LoadError> {
        let base = base.or(scaling.and_then(|scaling| scaling.rope_theta));
        let base = base.unwrap_or(DEFAULT_ROPE_BASE);
        let Some(scaling) = scaling else {
            return Ok(Rotary::plain(base, turned, self.max_position_embeddings));
        };
        let original = self.original_max_position_embeddings;
        let rotary = scaling.rotary(base, turned, self.max_position_embeddings, original);
        rotary.map_err(|problem| match problem {
            RopeProblem::Lacks { .. } => malformed(&problem.to_string()),
            RopeProblem::Unknown { .. } => unsupported_setting(&problem.to_string()),
        })
    }
}

fn unsupported_setting(setting: &str) -> LoadError {
    LoadError::Unsupported {
        what: format!("{setting} in {FILE}"),
        remedy: "use a model without it".to_owned(),
    }
}

fn malformed(problem: &str) -> LoadError {
    LoadError::Malformed { what: FILE.to_owned(), problem: problem.to_owned() }
}

const FILE: &str = "config.json";
