//! Reads `config.json`.
//!
//! Promise: a setting that changes the arithmetic in a way we do not compute is an error, not ignored.

use serde::Deserialize;

use super::files::{TokenIds, json};
use crate::LoadError;
use crate::models::{self, Design, Experts, Shape};
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

/// How rotary frequencies are stretched for contexts longer than the first training's.
#[derive(Clone, Debug, Deserialize)]
struct RopeScaling {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    short_factor: Option<Vec<f64>>,
}

impl Config {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let config: Self = json(FILE, bytes)?;
        let design = models::find(config.architecture()?)?;
        // Whether a bias is where we expect it is seen when it is loaded.
        let unsupported = [
            ("attention_bias", config.attention_bias && !design.biases),
            ("mlp_bias", config.mlp_bias),
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
        let mut rotary = Rotary {
            frequencies: plain_frequencies(base, turned),
            scale: 1.0,
            context: self.max_position_embeddings,
        };
        let Some(scaling) = scaling else { return Ok(rotary) };
        let original = scaling.original_max_position_embeddings;
        let original = original.or(self.original_max_position_embeddings);
        let lacks =
            |kind: &str| malformed(&format!("`rope_scaling` of type {kind} lacks a factor"));
        match scaling.rope_type.as_deref() {
            None | Some("default") => {}
            Some("linear") => {
                let factor = scaling.factor.ok_or_else(|| lacks("linear"))?;
                rotary.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
            }
            Some("llama3") => {
                for frequency in &mut rotary.frequencies {
                    *frequency = scaling.llama3(*frequency).ok_or_else(|| lacks("llama3"))?;
                }
            }
            Some("yarn") => {
                let original = original.unwrap_or(f64::from(self.max_position_embeddings));
                let factor = scaling.factor.ok_or_else(|| lacks("yarn"))?;
                scaling.yarn(&mut rotary, factor, original, base);
            }
            Some("longrope" | "su") => {
                let original = original.ok_or_else(|| lacks("longrope"))?;
                scaling.longrope(&mut rotary, original).ok_or_else(|| lacks("longrope"))?;
            }
            Some(other) => {
                return Err(unsupported_setting(&format!("rope_scaling type `{other}`")));
            }
        }
        Ok(rotary)
    }
}

/// How positions turn heads.
struct Rotary {
    frequencies: Vec<f64>,
    /// What is turned is multiplied by this.
    scale: f64,
    /// Positions for which that holds.
    context: u32,
}

impl RopeScaling {
    /// Llama 3's rule: long wavelengths are stretched by `factor`, short ones stay, those between are
    /// blended.
    fn llama3(&self, frequency: f64) -> Option<f64> {
        let (low, high) = (self.low_freq_factor?, self.high_freq_factor?);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let turns = self.original_max_position_embeddings? / wavelength;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        Some(frequency * kept + frequency / self.factor? * (1.0 - kept))
    }

    /// `YaRN` (Peng et al., 2023): pairs that turn often within the original context stay, those that hardly
    /// turn are stretched, those between are blended by their number; and scores get a little sharper.
    fn yarn(&self, rotary: &mut Rotary, factor: f64, original: f64, base: f64) {
        let width = 2.0 * rotary.frequencies.len() as f64;
        let pair_that_turns = |times: f64| {
            width * (original / (times * 2.0 * std::f64::consts::PI)).ln() / (2.0 * base.ln())
        };
        let low = pair_that_turns(self.beta_fast.unwrap_or(DEFAULT_BETA_FAST)).floor().max(0.0);
        let high = pair_that_turns(self.beta_slow.unwrap_or(DEFAULT_BETA_SLOW)).ceil();
        let high = high.min(width - 1.0);
        let span = if high > low { high - low } else { SMALLEST_SPAN };
        for (pair, frequency) in rotary.frequencies.iter_mut().enumerate() {
            let stretched = ((pair as f64 - low) / span).clamp(0.0, 1.0);
            *frequency = *frequency * (1.0 - stretched) + *frequency / factor * stretched;
        }
        let sharper =
            |weight: f64| if factor > 1.0 { 0.1 * weight * factor.ln() + 1.0 } else { 1.0 };
        rotary.scale = match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), ..) => factor,
            (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => sharper(one) / sharper(all),
            _ => sharper(1.0),
        };
    }

    /// `LongRoPE` (Ding et al., 2024) turns every position otherwise once a text grows beyond the original
    /// context; what was computed before would be wrong then. We serve the original context, where one set of
    /// factors holds.
    fn longrope(&self, rotary: &mut Rotary, original: f64) -> Option<()> {
        let factors = self.short_factor.as_ref()?;
        if factors.len() != rotary.frequencies.len() || original < 1.0 {
            return None;
        }
        for (frequency, factor) in rotary.frequencies.iter_mut().zip(factors) {
            *frequency /= factor;
        }
        let stretch = f64::from(rotary.context) / original;
        let factor = self.factor.unwrap_or(stretch);
        let sharper = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        rotary.scale = self.attention_factor.unwrap_or(sharper);
        rotary.context = rotary.context.min(original as u32);
        Some(())
    }
}

/// The angle per position of each pair of a head's numbers.
pub(crate) fn plain_frequencies(base: f64, head_width: usize) -> Vec<f64> {
    let exponent = |pair: usize| 2.0 * pair as f64 / head_width as f64;
    (0..head_width.min(MAX_HEAD_WIDTH) / 2).map(|pair| base.powf(-exponent(pair))).collect()
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
const DEFAULT_ROPE_BASE: f64 = 10_000.0;
const DEFAULT_BETA_FAST: f64 = 32.0;
const DEFAULT_BETA_SLOW: f64 = 1.0;
/// Keeps a ramp from dividing by nothing.
const SMALLEST_SPAN: f64 = 0.001;
/// More than any model has; a configuration that says more is refused by its sizes.
pub(super) const MAX_LAYERS: usize = 1 << 12;
const MAX_HEAD_WIDTH: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let scaling = serde_json::json!({
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192.0,
        });
        let scaling: RopeScaling = serde_json::from_value(scaling).unwrap();
        assert_eq!(scaling.llama3(1.0), Some(1.0));
        assert_eq!(scaling.llama3(1e-5), Some(1e-5 / 8.0));
    }
}
