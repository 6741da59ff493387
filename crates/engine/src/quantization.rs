//! How weights are stored in fewer bits, and which tensors get which bits.
//!
//! The kinds of blocks are those of GGUF. A tensor whose rows do not divide into such blocks falls back to
//! smaller blocks of about the same size, and to 16 bits in the end; the mixes give more bits to the
//! tensors that need them, by llama.cpp's rule.

use std::fmt;
use std::str::FromStr;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

/// A way to store weights in fewer bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// 8.5 bits a weight.
    #[serde(rename = "q8_0")]
    Q8,
    /// 6.6 bits.
    #[serde(rename = "q6_k")]
    Q6K,
    /// 5.5 bits, 6.6 where it matters most.
    #[serde(rename = "q5_k_m")]
    Q5KM,
    /// 5.5 bits.
    #[serde(rename = "q5_k")]
    Q5K,
    /// 4.5 bits, 6.6 where it matters most.
    #[serde(rename = "q4_k_m")]
    Q4KM,
    /// 4.5 bits.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 4.5 bits, in the simplest blocks.
    #[serde(rename = "q4_0")]
    Q4,
}

/// There is no quantization of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is none of {}", Quantization::names())]
pub struct UnknownQuantization {
    name: String,
}

impl Quantization {
    /// All of them, the largest first.
    pub const ALL: [Self; 7] =
        [Self::Q8, Self::Q6K, Self::Q5KM, Self::Q5K, Self::Q4KM, Self::Q4K, Self::Q4];

    /// Its name, as GGUF files go by it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q5KM => "q5_k_m",
            Self::Q5K => "q5_k",
            Self::Q4KM => "q4_k_m",
            Self::Q4K => "q4_k",
            Self::Q4 => "q4_0",
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The blocks for the tensor of this Hugging Face name, whose rows have `inputs` numbers, in a model of so
    /// many layers.
    pub(crate) fn blocks(self, tensor: &str, inputs: usize, layers: usize) -> GgmlDType {
        let more = matters_more(tensor, layers);
        let wanted = match self {
            Self::Q8 => GgmlDType::Q8_0,
            Self::Q6K => GgmlDType::Q6K,
            Self::Q5KM | Self::Q4KM if more => GgmlDType::Q6K,
            Self::Q5KM | Self::Q5K => GgmlDType::Q5K,
            Self::Q4KM | Self::Q4K => GgmlDType::Q4K,
            // Without a mix, too: rows of the output decide between tokens.
            Self::Q4 if is_vocabulary(tensor) => GgmlDType::Q8_0,
            Self::Q4 => GgmlDType::Q4_0,
        };
        std::iter::successors(Some(wanted), |kind| smaller_blocks(*kind))
            .find(|kind| inputs.is_multiple_of(kind.block_size()))
            .unwrap_or(GgmlDType::F16)
    }
}

impl FromStr for Quantization {
    type Err = UnknownQuantization;

    fn from_str(name: &str) -> std::result::Result<Self, UnknownQuantization> {
        let known = Self::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(name));
        known.ok_or_else(|| UnknownQuantization { name: name.to_owned() })
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// About as many bits in blocks of fewer numbers.
const fn smaller_blocks(kind: GgmlDType) -> Option<GgmlDType> {
    match kind {
        GgmlDType::Q4K => Some(GgmlDType::Q5_0),
        GgmlDType::Q5K | GgmlDType::Q6K => Some(GgmlDType::Q8_0),
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => Some(GgmlDType::F16),
        _ => None,
    }
}

/// Whether a mix gives this tensor more bits: input and output, and values and what leaves the feed-forward
/// layer in the first and last eighth of the layers and every third between them.
fn matters_more(tensor: &str, layers: usize) -> bool {
    if is_vocabulary(tensor) {
        return true;
    }
    let Some(layer) = layer_of(tensor) else { return false };
    let eighth = layers / 8;
    let chosen = layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
    chosen && (tensor.contains(".v_proj.") || tensor.contains(".down_proj."))
}

fn is_vocabulary(tensor: &str) -> bool {
    tensor.starts_with("model.embed_tokens.") || tensor.starts_with("lm_head.")
}

fn layer_of(tensor: &str) -> Option<usize> {
    tensor.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// The weights `[outputs, inputs]` in such blocks. Rows are shared over the machine's threads; a row's
/// blocks depend on that row alone.
pub(crate) fn quantize(weights: &Tensor, kind: GgmlDType) -> Result<QTensor> {
    let (outputs, inputs) = weights.dims2()?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = outputs.div_ceil(threads).max(1);
    let pieces: Result<Vec<Vec<u8>>> = std::thread::scope(|scope| {
        let quantize = |first: usize| {
            let piece = weights.narrow(0, first, rows.min(outputs - first));
            scope.spawn(move || {
                let piece = piece?;
                // A copy, for a view has all of the storage behind it.
                let numbers = piece.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let numbers = Tensor::from_vec(numbers, piece.dims2()?, &Device::Cpu)?;
                Ok(QTensor::quantize(&numbers, kind)?.data()?.into_owned())
            })
        };
        let threads: Vec<_> = (0..outputs).step_by(rows).map(quantize).collect();
        let joined = threads.into_iter().map(|thread| {
            let broken = |_| Err(candle_core::Error::Msg("quantizing panicked".to_owned()));
            thread.join().unwrap_or_else(broken)
        });
        joined.collect()
    });
    let storage = QStorage::from_data(pieces?.concat().into(), &Device::Cpu, kind)?;
    QTensor::new(storage, (outputs, inputs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for one in Quantization::ALL {
            assert_eq!(one.name().parse(), Ok(one));
            assert_eq!(serde_json::to_string(&one).unwrap(), format!("\"{one}\""));
        }
        let error = "q3".parse::<Quantization>().unwrap_err().to_string();
        assert!(error.contains("`q3`") && error.contains("q4_k_m"), "{error}");
    }

    #[test]
    fn a_mix_gives_more_bits_where_they_matter() {
        let blocks = |tensor: &str| Quantization::Q4KM.blocks(tensor, 256, 8);
        assert_eq!(blocks("model.embed_tokens.weight"), GgmlDType::Q6K);
        assert_eq!(blocks("model.layers.0.self_attn.v_proj.weight"), GgmlDType::Q6K);
        assert_eq!(blocks("model.layers.1.self_attn.v_proj.weight"), GgmlDType::Q4K);
        assert_eq!(blocks("model.layers.3.mlp.down_proj.weight"), GgmlDType::Q6K);
        assert_eq!(blocks("model.layers.0.self_attn.q_proj.weight"), GgmlDType::Q4K);
    }

    #[test]
    fn rows_that_do_not_divide_fall_back() {
        let blocks = |one: Quantization, inputs| one.blocks("model.layers.0.x.weight", inputs, 8);
        assert_eq!(blocks(Quantization::Q4K, 96), GgmlDType::Q5_0);
        assert_eq!(blocks(Quantization::Q6K, 96), GgmlDType::Q8_0);
        assert_eq!(blocks(Quantization::Q4K, 40), GgmlDType::F16);
        assert_eq!(blocks(Quantization::Q8, 40), GgmlDType::F16);
    }

    #[test]
    fn rows_are_quantized_alike_however_they_are_shared() {
        let numbers = |i| crate::random::uniform(3, i) as f32 - 0.5;
        let weights: Vec<f32> = (0..7 * 256).map(numbers).collect();
        let weights = Tensor::from_vec(weights, (7, 256), &Device::Cpu).unwrap();
        for kind in [GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q5K, GgmlDType::Q4K] {
            let shared = quantize(&weights, kind).unwrap();
            let whole = QTensor::quantize(&weights, kind).unwrap();
            assert_eq!(shared.data().unwrap(), whole.data().unwrap(), "{kind:?}");
        }
    }
}
