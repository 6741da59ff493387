//! Reads `config.json`.
//!
//! Promise: a setting that changes the arithmetic in a way we do not compute is an error, not ignored.

use serde::Deserialize;

use super::files::{TokenIds, json};
use crate::LoadError;
use crate::models::Shape;
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
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default = "default_activation")]
    hidden_act: String,
    eos_token_id: Option<TokenIds>,
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
}

impl Config {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let config: Self = json(FILE, bytes)?;
        let unsupported = [
            ("attention_bias", config.attention_bias),
            ("mlp_bias", config.mlp_bias),
            ("an activation other than silu", config.hidden_act != default_activation()),
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

    pub(super) fn stop_tokens(&self) -> &[u32] {
        self.eos_token_id.as_ref().map_or(&[], TokenIds::ids)
    }

    pub(super) fn shape(&self) -> Result<Shape, LoadError> {
        let Some(heads) = std::num::NonZeroUsize::new(self.num_attention_heads) else {
            return Err(malformed("`num_attention_heads` is 0"));
        };
        let head_width = self.head_dim.unwrap_or(self.hidden_size / heads);
        let shape = Shape {
            hidden: self.hidden_size,
            layers: self.num_hidden_layers,
            heads: heads.get(),
            kv_heads: self.num_key_value_heads.unwrap_or(heads.get()),
            head_width,
            feed_forward: self.intermediate_size,
            vocabulary: self.vocab_size,
            context: self.max_position_embeddings,
            epsilon: self.rms_norm_eps,
            frequencies: self.frequencies(head_width)?,
            pairing: Pairing::Halves,
            tied: self.tie_word_embeddings,
        };
        shape.check(FILE)?;
        Ok(shape)
    }

    fn frequencies(&self, head_width: usize) -> Result<Vec<f64>, LoadError> {
        let scaling = self.rope_scaling.as_ref();
        let base = self.rope_theta.or(scaling.and_then(|scaling| scaling.rope_theta));
        let mut frequencies = plain_frequencies(base.unwrap_or(DEFAULT_ROPE_BASE), head_width);
        match scaling.and_then(|scaling| scaling.rope_type.as_deref()) {
            None | Some("default") => {}
            Some("llama3") => {
                for frequency in &mut frequencies {
                    *frequency =
                        scaling.and_then(|scaling| scaling.llama3(*frequency)).ok_or_else(
                            || malformed("`rope_scaling` of type llama3 lacks one of its factors"),
                        )?;
                }
            }
            Some(other) => {
                return Err(unsupported_setting(&format!("rope_scaling type `{other}`")));
            }
        }
        Ok(frequencies)
    }
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
}

/// The angle per position of each pair of a head's numbers.
pub(super) fn plain_frequencies(base: f64, head_width: usize) -> Vec<f64> {
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

fn default_activation() -> String {
    "silu".to_owned()
}

const FILE: &str = "config.json";
const DEFAULT_ROPE_BASE: f64 = 10_000.0;
const MAX_HEAD_WIDTH: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let scaling = RopeScaling {
            rope_type: Some("llama3".to_owned()),
            rope_theta: None,
            factor: Some(8.0),
            low_freq_factor: Some(1.0),
            high_freq_factor: Some(4.0),
            original_max_position_embeddings: Some(8192.0),
        };
        assert_eq!(scaling.llama3(1.0), Some(1.0));
        assert_eq!(scaling.llama3(1e-5), Some(1e-5 / 8.0));
    }
}
