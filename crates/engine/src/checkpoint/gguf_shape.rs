//! Decides what a GGUF file's metadata says of a decoder's arithmetic.
//!
//! Promise: no entry of the architecture is left unread, but for those that are known to change nothing; one that
//! asks for anything else than we compute is an error that names it. What files leave out because llama.cpp knows
//! it (Gemma's scales and windows) is decided as llama.cpp does.

use super::gguf_metadata::{Metadata, malformed, required};
use super::rotary::{DEFAULT_ROPE_BASE, RopeScaling, Rotary, plain_frequencies};
use crate::LoadError;
use crate::models::{self, Design, Experts, MAX_LAYERS, Shape, Windows};
use crate::ops::rope::Pairing;

/// What a file's tensors say of the shape.
pub(super) struct TensorFacts {
    pub(super) vocabulary: usize,
    pub(super) tied: bool,
    pub(super) biases: bool,
    /// Layers with a mixture of experts.
    pub(super) mixtures: Vec<usize>,
    pub(super) rope: RopeTensors,
}

/// Numbers by which frequencies are divided, one for each pair.
#[derive(Default)]
pub(super) struct RopeTensors {
    /// Of Llama 3.
    pub(super) always: Option<Vec<f64>>,
    /// Of `LongRoPE`, within the original context and beyond it.
    pub(super) short: Option<Vec<f64>>,
    pub(super) long: Option<Vec<f64>>,
}

/// A file's entries, read as those of one architecture.
pub(super) struct ShapeReader<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    design: &'static Design,
    name: &'a str,
}

impl<'a> ShapeReader<'a> {
    pub(super) fn new(metadata: &'a Metadata) -> Result<Self, LoadError> {
        let architecture = required(ARCHITECTURE, metadata.text(ARCHITECTURE)?)?;
        let experts = metadata.count(&format!("{architecture}.expert_count"))?.unwrap_or(0);
        let name = match (architecture, experts) {
            ("llama", 1..) => "MixtralForCausalLM",
            (other, _) => other,
        };
        Ok(Self { metadata, architecture, design: models::find(name)?, name })
    }

    /// What the table of architectures calls it.
    pub(super) const fn name(&self) -> &'a str {
        self.name
    }

    pub(super) const fn design(&self) -> &'static Design {
        self.design
    }

    pub(super) fn shape(&self, tensors: TensorFacts) -> Result<Shape, LoadError> {
        let heads = self.required("attention.head_count")?;
        let hidden = self.required("embedding_length")?;
        let layers = self.required("block_count")?;
        let head_width = match self.count("attention.key_length")? {
            Some(width) => width,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        for name in
            ["attention.value_length", "attention.key_length_swa", "attention.value_length_swa"]
        {
            self.must_be(name, head_width)?;
        }
        let turned = self.count("rope.dimension_count")?.unwrap_or(head_width);
        self.must_be("rope.dimension_count_swa", turned)?;
        let epsilon = self.key("attention.layer_norm_rms_epsilon");
        let epsilon = required(&epsilon, self.metadata.number(&epsilon)?)?;
        let context = u32::try_from(self.required("context_length")?).unwrap_or(u32::MAX);
        let windows = self.windows(layers, context)?;
        let rotary = self.rotary(turned, context, tensors.rope)?;
        let experts = self.experts(layers, &tensors.mixtures)?;
        let feed_forward = match (self.count("feed_forward_length")?, &experts) {
            (None | Some(0), Some(experts)) => experts.width,
            (found, _) => required(&self.key("feed_forward_length"), found)?,
        };
        let [attention_softcap, logit_softcap] = self.softcaps()?;
        let shape = Shape {
            hidden,
            layers,
            heads,
            kv_heads: self.count("attention.head_count_kv")?.unwrap_or(heads),
            head_width,
            feed_forward,
            vocabulary: tensors.vocabulary,
            context: rotary.context,
            epsilon: epsilon as f32,
            window_frequencies: self.window_frequencies(turned, &windows)?,
            frequencies: rotary.frequencies,
            rotary_scale: rotary.scale,
            // Files of the `llama` architecture are the only ones with their heads put in another order.
            pairing: match self.architecture {
                "llama" => Pairing::Neighbours,
                _ => Pairing::Halves,
            },
            windows,
            query_scale: self.query_scale(layers, hidden, heads, head_width)? as f32,
            attention_softcap,
            logit_softcap,
            biases: self.design.biases || tensors.biases,
            activation: self.design.activation,
            experts,
            tied: tensors.tied,
        };
        self.check_rest()?;
        shape.check("GGUF metadata")?;
        Ok(shape)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn count(&self, name: &str) -> Result<Option<usize>, LoadError> {
        self.metadata.count(&self.key(name))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, LoadError> {
        self.metadata.number(&self.key(name))
    }

    fn required(&self, name: &str) -> Result<usize, LoadError> {
        required(&self.key(name), self.count(name)?)
    }

    /// An entry that may only say what another one does.
    fn must_be(&self, name: &str, expected: usize) -> Result<(), LoadError> {
        match self.count(name)? {
            Some(found) if found != expected => {
                Err(self.unsupported(name, &format!(" {found} beside {expected}")))
            }
            _ => Ok(()),
        }
    }

    /// An entry that may only say `expected`, if it is there.
    fn must_be_number(&self, name: &str, expected: f64) -> Result<(), LoadError> {
        match self.number(name)? {
            Some(found) if (found - expected).abs() > f64::from(f32::EPSILON) => {
                Err(self.unsupported(name, &format!(" {found}")))
            }
            _ => Ok(()),
        }
    }

    fn unsupported(&self, name: &str, value: &str) -> LoadError {
        LoadError::Unsupported {
            what: format!("`{}`{value} in a GGUF file", self.key(name)),
            remedy: "use a model without it".to_owned(),
        }
    }

    /// Refuses what nobody read.
    fn check_rest(&self) -> Result<(), LoadError> {
        for name in CHANGE_NOTHING {
            // To read them is to have seen that they are there.
            self.metadata.seen(&self.key(name));
        }
        let causal = self.metadata.flag(&self.key("attention.causal"))?;
        if causal == Some(false) {
            return Err(self.unsupported("attention.causal", " false"));
        }
        match self.metadata.unread(&self.key("")) {
            None => Ok(()),
            Some(key) => Err(self.unsupported(&key[self.architecture.len() + 1..], "")),
        }
    }

    /// For each layer, how far it looks back.
    fn windows(&self, layers: usize, context: u32) -> Result<Vec<Option<u32>>, LoadError> {
        let name = "attention.sliding_window";
        let window = self.count(name)?.map(|window| u32::try_from(window).unwrap_or(u32::MAX));
        let window = match (window, self.architecture) {
            (None, "gemma2") => Some(GEMMA2_WINDOW),
            (None, "gemma3") => return required(&self.key(name), None),
            (window, _) => window.filter(|window| *window > 0),
        };
        let layers = layers.min(MAX_LAYERS);
        let pattern = "attention.sliding_window_pattern";
        if self.metadata.is_list(&self.key(pattern)) {
            let windowed = self.metadata.flags(&self.key(pattern))?.unwrap_or_default();
            return Ok(windowed.into_iter().map(|windowed| window.filter(|_| windowed)).collect());
        }
        let pattern = self.count(pattern)?;
        match self.design.windows {
            Windows::Nowhere | Windows::Above if window.is_some_and(|window| window < context) => {
                Err(self.unsupported(name, &format!(" below `{}`", self.key("context_length"))))
            }
            Windows::EverySecond if pattern.is_some_and(|pattern| pattern != 2) => {
                Err(self.unsupported("attention.sliding_window_pattern", ""))
            }
            kind => Ok(kind.of_layers(layers, window, None, pattern)),
        }
    }

    /// Gemma 3 never stretches what its windows see.
    fn window_frequencies(
        &self,
        turned: usize,
        windows: &[Option<u32>],
    ) -> Result<Option<Vec<f64>>, LoadError> {
        let base = match (self.number("rope.freq_base_swa")?, self.architecture) {
            (None, "gemma3") => Some(DEFAULT_ROPE_BASE),
            (base, _) => base,
        };
        let is_used = windows.iter().any(Option::is_some);
        Ok(base.filter(|_| is_used).map(|base| plain_frequencies(base, turned)))
    }

    /// How positions turn heads.
    fn rotary(
        &self,
        turned: usize,
        context: u32,
        tensors: RopeTensors,
    ) -> Result<Rotary, LoadError> {
        let base = self.number("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_BASE);
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let factor = factor.filter(|factor| *factor > 0.0);
        let written = self.metadata.text(&self.key("rope.scaling.type"))?;
        let has_factors = tensors.short.is_some() || tensors.long.is_some();
        let kind = match (written, has_factors) {
            (None | Some("none" | "longrope"), true) => "longrope",
            (Some(other), true) => {
                return Err(
                    self.unsupported("rope.scaling.type", &format!(" `{other}` beside {SHORT}"))
                );
            }
            (Some("none"), false) => "default",
            (Some(kind), false) => kind,
            (None, false) if factor.is_some_and(|factor| factor > 1.0) => "linear",
            (None, false) => "default",
        };
        let more_exact = self.number("rope.scaling.attn_factor")?;
        let mut scaling = RopeScaling {
            rope_type: Some(kind.to_owned()),
            factor,
            original_max_position_embeddings: self
                .number("rope.scaling.original_context_length")?,
            beta_fast: self.number("rope.scaling.yarn_beta_fast")?,
            beta_slow: self.number("rope.scaling.yarn_beta_slow")?,
            ..RopeScaling::default()
        };
        self.must_be_number("rope.scaling.yarn_ext_factor", 1.0)?;
        self.must_be_number("rope.scaling.yarn_attn_factor", 1.0)?;
        if kind == "longrope" {
            self.must_be_number("rope.scaling.factor", 1.0)?;
            let short = required(SHORT, tensors.short)?;
            (scaling.short_factor, scaling.long_factor) = (Some(short), tensors.long);
            let scale = required(&self.key("rope.scaling.attn_factor"), more_exact)?;
            scaling.attention_factor = Some(scale);
        }
        let rotary = scaling.rotary(base, turned, context, None);
        let mut rotary = rotary
            .map_err(|problem| self.unsupported("rope.scaling.type", &format!(": {problem}")))?;
        if kind != "longrope" {
            rotary.scale *= more_exact.unwrap_or(1.0);
        }
        self.divide(&mut rotary, tensors.always, kind)?;
        Ok(rotary)
    }

    /// Llama 3's stretching is stored as one divisor for each pair.
    fn divide(
        &self,
        rotary: &mut Rotary,
        divisors: Option<Vec<f64>>,
        kind: &str,
    ) -> Result<(), LoadError> {
        let Some(divisors) = divisors else { return Ok(()) };
        if !matches!(kind, "default" | "linear") {
            return Err(
                self.unsupported("rope.scaling.type", &format!(" `{kind}` beside {DIVISORS}"))
            );
        }
        if divisors.len() != rotary.frequencies.len() {
            return Err(malformed(format!("`{DIVISORS}` has {} numbers", divisors.len())));
        }
        for (frequency, divisor) in rotary.frequencies.iter_mut().zip(divisors) {
            *frequency /= divisor;
        }
        Ok(())
    }

    /// What scores are multiplied by. Gemma's largest models have another one than their heads' width gives, and
    /// files do not say so.
    fn query_scale(
        &self,
        layers: usize,
        hidden: usize,
        heads: usize,
        head_width: usize,
    ) -> Result<f64, LoadError> {
        if let Some(scale) = self.number("attention.scale")?.filter(|scale| *scale > 0.0) {
            return Ok(scale);
        }
        let width = match (self.architecture, layers) {
            ("gemma2", GEMMA2_27B_LAYERS) | ("gemma3", GEMMA3_27B_LAYERS) => {
                hidden.checked_div(heads).unwrap_or(0)
            }
            _ => head_width,
        };
        Ok((width as f64).powf(-0.5))
    }

    /// Of scores and of logits.
    fn softcaps(&self) -> Result<[Option<f32>; 2], LoadError> {
        let defaults = match self.architecture {
            "gemma2" => GEMMA2_SOFTCAPS,
            _ => [None, None],
        };
        let found =
            [self.number("attn_logit_softcapping")?, self.number("final_logit_softcapping")?];
        let softcap = |index: usize| found[index].or(defaults[index]).filter(|cap| *cap > 0.0);
        Ok([0, 1].map(|index| softcap(index).map(|cap| cap as f32)))
    }

    fn experts(&self, layers: usize, mixtures: &[usize]) -> Result<Option<Experts>, LoadError> {
        let count = self.count("expert_count")?.unwrap_or(0);
        if self.design.experts.is_none() {
            return match count {
                0 => Ok(None),
                _ => Err(self.unsupported("expert_count", &format!(" {count}"))),
            };
        }
        self.must_be("expert_gating_func", SOFTMAX)?;
        if self.number("expert_weights_scale")? != Some(0.0) {
            self.must_be_number("expert_weights_scale", 1.0)?;
        }
        let width = match self.count("expert_feed_forward_length")? {
            Some(width) => width,
            None => self.required("feed_forward_length")?,
        };
        Ok(Some(Experts {
            count,
            used: self.required("expert_used_count")?,
            width,
            normalised: self.metadata.flag(&self.key("expert_weights_norm"))?.unwrap_or(true),
            plain_layers: (0..layers.min(MAX_LAYERS)).filter(|it| !mixtures.contains(it)).collect(),
        }))
    }
}

/// Entries of an architecture that change nothing here: what tensors say too, and what is for images.
const CHANGE_NOTHING: &[&str] =
    &["vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "vision.", "mm."];

const ARCHITECTURE: &str = "general.architecture";
pub(super) const DIVISORS: &str = "rope_freqs.weight";
pub(super) const SHORT: &str = "rope_factors_short.weight";
pub(super) const LONG: &str = "rope_factors_long.weight";
/// The number of experts' usual gate in the format.
const SOFTMAX: usize = 1;
const GEMMA2_WINDOW: u32 = 4096;
const GEMMA2_SOFTCAPS: [Option<f64>; 2] = [Some(50.0), Some(30.0)];
const GEMMA2_27B_LAYERS: usize = 46;
const GEMMA3_27B_LAYERS: usize = 62;

#[cfg(test)]
mod tests;
