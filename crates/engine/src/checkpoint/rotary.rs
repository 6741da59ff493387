//! Decides how fast each pair of a head's numbers turns, however a model's files say it.
//!
//! Promise: a way to stretch frequencies that is not computed here is a problem that is named, and so is one
//! whose numbers are missing. Knows nothing of files: `config.json` and GGUF metadata are read elsewhere.

use serde::Deserialize;

/// How rotary frequencies are stretched for contexts longer than the first training's.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RopeScaling {
    #[serde(alias = "type")]
    pub(super) rope_type: Option<String>,
    pub(super) rope_theta: Option<f64>,
    pub(super) factor: Option<f64>,
    pub(super) low_freq_factor: Option<f64>,
    pub(super) high_freq_factor: Option<f64>,
    pub(super) original_max_position_embeddings: Option<f64>,
    pub(super) partial_rotary_factor: Option<f64>,
    pub(super) beta_fast: Option<f64>,
    pub(super) beta_slow: Option<f64>,
    pub(super) attention_factor: Option<f64>,
    pub(super) mscale: Option<f64>,
    pub(super) mscale_all_dim: Option<f64>,
    pub(super) short_factor: Option<Vec<f64>>,
    pub(super) long_factor: Option<Vec<f64>>,
}

/// How positions turn heads.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rotary {
    pub(super) frequencies: Vec<f64>,
    /// What is turned is multiplied by this.
    pub(super) scale: f64,
    /// Positions for which that holds.
    pub(super) context: u32,
}

/// Why frequencies cannot be computed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RopeProblem {
    #[error("`rope_scaling` of type {kind} lacks a factor")]
    Lacks { kind: &'static str },
    #[error("rope_scaling type `{kind}`")]
    Unknown { kind: String },
}

impl Rotary {
    /// Frequencies as the model was trained first.
    pub(super) fn plain(base: f64, turned: usize, context: u32) -> Self {
        Self { frequencies: plain_frequencies(base, turned), scale: 1.0, context }
    }
}

impl RopeScaling {
    /// The frequencies of heads of which `turned` numbers turn, in a model that was made for a `context`.
    /// `original` is the context before stretching, where the scaling itself does not say.
    pub(super) fn rotary(
        &self,
        base: f64,
        turned: usize,
        context: u32,
        original: Option<f64>,
    ) -> Result<Rotary, RopeProblem> {
        let mut rotary = Rotary::plain(base, turned, context);
        let original = self.original_max_position_embeddings.or(original);
        let lacks = |kind| RopeProblem::Lacks { kind };
        match self.rope_type.as_deref() {
            None | Some("default") => {}
            Some("linear") => {
                let factor = self.factor.ok_or_else(|| lacks("linear"))?;
                rotary.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
            }
            Some("llama3") => {
                for frequency in &mut rotary.frequencies {
                    *frequency = self.llama3(*frequency).ok_or_else(|| lacks("llama3"))?;
                }
            }
            Some("yarn") => {
                let original = original.unwrap_or(f64::from(context));
                let factor = self.factor.ok_or_else(|| lacks("yarn"))?;
                self.yarn(&mut rotary, factor, original, base);
            }
            Some("longrope" | "su") => {
                let original = original.ok_or_else(|| lacks("longrope"))?;
                self.longrope(&mut rotary, original).ok_or_else(|| lacks("longrope"))?;
            }
            Some(other) => return Err(RopeProblem::Unknown { kind: other.to_owned() }),
        }
        Ok(rotary)
    }

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
    /// context, by its long factors; keys that were computed before, and that other texts share, would be wrong
    /// then. We serve the original context, where the short factors hold, and all of it where both are the same.
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
        if self.long_factor.as_ref() != Some(factors) {
            rotary.context = rotary.context.min(original as u32);
        }
        Some(())
    }
}

/// The angle per position of each pair of a head's numbers.
pub(crate) fn plain_frequencies(base: f64, head_width: usize) -> Vec<f64> {
    let exponent = |pair: usize| 2.0 * pair as f64 / head_width as f64;
    (0..head_width.min(MAX_HEAD_WIDTH) / 2).map(|pair| base.powf(-exponent(pair))).collect()
}

pub(super) const DEFAULT_ROPE_BASE: f64 = 10_000.0;
const DEFAULT_BETA_FAST: f64 = 32.0;
const DEFAULT_BETA_SLOW: f64 = 1.0;
/// Keeps a ramp from dividing by nothing.
const SMALLEST_SPAN: f64 = 0.001;
/// More than any model has; a configuration that says more is refused by its sizes.
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

    #[test]
    fn longrope_serves_the_original_context_unless_both_lists_are_the_same() {
        let scaling = |long: f64| RopeScaling {
            rope_type: Some("longrope".to_owned()),
            short_factor: Some(vec![1.0, 2.0]),
            long_factor: Some(vec![1.0, long]),
            ..RopeScaling::default()
        };
        let context = |long| scaling(long).rotary(1e4, 4, 131_072, Some(4096.0)).unwrap().context;
        assert_eq!(context(9.0), 4096);
        assert_eq!(context(2.0), 131_072);
    }
}
