//! What a model takes of memory, known before any of it is loaded: the headers of its files tell.
//!
//! Counted is what is held while it works: weights as they are stored or as they will be, and beside blocks of a
//! quantized matrix the copies that candle lays out for this processor when it first multiplies by them. What loading
//! takes for a moment is not counted, nor what a step computes with.

use candle_core::quantized::GgmlDType;

use crate::checkpoint::{self, Listed, Listing};
use crate::{Encoder, LoadError, ModelSource};

/// What a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of its weights and of copies of them.
    pub weights: u64,
    /// What its sequences take of a cache; `None` if it keeps none, because it embeds.
    pub sequences: Option<Sequences>,
}

/// What sequences of a model take of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Longest prompt plus output that the model itself reads, in tokens.
    pub context: u32,
    /// Bytes of keys and values of one token.
    pub bytes_per_token: u64,
}

impl Footprint {
    /// That of the model at `source`. Reads no weights, so it is quick.
    pub fn of(source: &ModelSource) -> Result<Self, LoadError> {
        if let ModelSource::Folder(folder) = source
            && Encoder::is_in(folder)
        {
            let tensors = checkpoint::tensors_in(folder)?;
            let weights = tensors.iter().map(of_encoder).sum();
            return Ok(Self { weights, sequences: None });
        }
        let Listed { shape, tensors } = checkpoint::list(source)?;
        let machine = Machine::here();
        let held = tensors.iter().filter(|tensor| !(shape.tied && is_head(&tensor.name)));
        let weights = held.map(|tensor| of_decoder(tensor, shape.tied, machine)).sum();
        let bytes_per_token = shape.kv_bytes_per_token();
        Ok(Self { weights, sequences: Some(Sequences { context: shape.context, bytes_per_token }) })
    }
}

/// What a decoder holds of a tensor.
fn of_decoder(tensor: &Listing, tied: bool, machine: Machine) -> u64 {
    let Some((outputs, inputs)) = tensor.matrix() else { return tensor.numbers() * F32_BYTES };
    let Some(kind) = tensor.kind else { return tensor.stored_bytes };
    let blocks = tensor.numbers().div_ceil(kind.block_size() as u64) * kind.type_size() as u64;
    // Rows are looked up in the blocks themselves.
    if is_embedding(&tensor.name) && !tied {
        return blocks;
    }
    blocks + machine.copies(kind, outputs, inputs)
}

/// What an encoder holds: tables that are looked up in single precision, all other matrices as they are stored.
fn of_encoder(tensor: &Listing) -> u64 {
    let is_table = tensor.name.contains("embeddings.");
    match tensor.matrix() {
        Some(_) if !is_table => tensor.stored_bytes,
        _ if tensor.kind.is_none() => 0,
        _ => tensor.numbers() * F32_BYTES,
    }
}

fn is_embedding(name: &str) -> bool {
    name.starts_with("model.embed_tokens.") || name.starts_with("token_embd.")
}

fn is_head(name: &str) -> bool {
    name.starts_with("lm_head.") || name == "output.weight"
}

/// What candle 0.11 makes of quantized matrices on a processor: the rules of its `repack`, which it does not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts of a processor, each by itself")]
struct Machine {
    /// It has 256-bit integer arithmetic of the x86.
    tiles: bool,
    /// It multiplies bytes and adds them in one instruction, so that 8-bit blocks are worth a copy.
    dot_products: bool,
    /// It has matrix tiles of bytes.
    matrices: bool,
    /// It is an ARM with dot products, where blocks of several rows are interleaved.
    interleaves: bool,
}

impl Machine {
    #[cfg(target_arch = "x86_64")]
    fn here() -> Self {
        let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        let narrow = is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("avx2");
        let plain = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let leaf = core::arch::x86_64::__cpuid_count(7, 0);
        let has_matrices = leaf.edx & AMX_TILE != 0 && leaf.edx & AMX_INT8 != 0;
        Self {
            tiles: wide || narrow || plain,
            dot_products: wide || narrow,
            matrices: cfg!(target_os = "linux") && wide && has_matrices,
            interleaves: false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn here() -> Self {
        let interleaves = std::arch::is_aarch64_feature_detected!("dotprod");
        Self { interleaves, ..Self::default() }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn here() -> Self {
        Self::default()
    }

    /// Bytes of the copies of a matrix of such blocks.
    fn copies(self, kind: GgmlDType, outputs: u64, inputs: u64) -> u64 {
        let numbers = outputs * inputs;
        if self.interleaves {
            let rows = match kind {
                GgmlDType::Q4_0 | GgmlDType::Q8_0 => 4,
                GgmlDType::Q4K | GgmlDType::Q5K | GgmlDType::Q6K => 8,
                _ => return 0,
            };
            let bytes = numbers / kind.block_size() as u64 * kind.type_size() as u64;
            return if outputs.is_multiple_of(rows) { bytes } else { 0 };
        }
        let fits = outputs.is_multiple_of(TILE_ROWS) && inputs.is_multiple_of(TILE_COLUMNS);
        if !self.tiles || !fits {
            return 0;
        }
        let of_tile = match kind {
            // One for few rows, one for many.
            GgmlDType::Q4K if self.matrices => TILE_Q4K + TILE_Q4K_MATRICES,
            GgmlDType::Q4K => TILE_Q4K,
            GgmlDType::Q6K => TILE_Q6K,
            GgmlDType::Q8_0 if self.dot_products => TILE_Q8,
            _ => return 0,
        };
        numbers / (TILE_ROWS * TILE_COLUMNS) * of_tile
    }
}

const F32_BYTES: u64 = 4;

/// Of a tile of candle.
const TILE_ROWS: u64 = 16;
const TILE_COLUMNS: u64 = 256;
/// Scales and minima of 8 parts in single precision, and 4 bits a weight.
const TILE_Q4K: u64 = 2 * 8 * 16 * 4 + TILE_ROWS * TILE_COLUMNS / 2;
/// The same with 8 bits a weight.
const TILE_Q4K_MATRICES: u64 = 2 * 8 * 16 * 4 + TILE_ROWS * TILE_COLUMNS;
/// Scales of 16 parts in single precision, and 8 bits a weight.
const TILE_Q6K: u64 = 16 * 16 * 4 + TILE_ROWS * TILE_COLUMNS;
/// Scales of 8 parts in half precision, and 8 bits a weight.
const TILE_Q8: u64 = 8 * 16 * 2 + TILE_ROWS * TILE_COLUMNS;

#[cfg(target_arch = "x86_64")]
const AMX_TILE: u32 = 1 << 24;
#[cfg(target_arch = "x86_64")]
const AMX_INT8: u32 = 1 << 25;

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Machine =
        Machine { tiles: true, dot_products: true, matrices: true, interleaves: false };

    /// Bits of each weight that copies take.
    fn bits(machine: Machine, kind: GgmlDType) -> f64 {
        machine.copies(kind, 1024, 1024) as f64 * 8.0 / (1024.0 * 1024.0)
    }

    #[test]
    fn copies_are_what_the_processor_is_worth() {
        let plain = Machine { dot_products: false, matrices: false, ..ALL };
        let copies = |machine| {
            [GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::Q8_0, GgmlDType::Q5K, GgmlDType::F16]
                .map(|kind| bits(machine, kind))
        };
        assert_eq!(copies(ALL), [16.0, 10.0, 8.5, 0.0, 0.0]);
        assert_eq!(copies(plain), [6.0, 10.0, 0.0, 0.0, 0.0]);
        assert_eq!(copies(Machine::default()), [0.0; 5]);
        let arm = Machine { interleaves: true, ..Machine::default() };
        assert_eq!(copies(arm), [4.5, 6.5625, 8.5, 5.5, 0.0]);
    }

    #[test]
    fn a_matrix_that_is_not_cut_into_tiles_has_no_copy() {
        assert_eq!(ALL.copies(GgmlDType::Q8_0, 1000, 1024), 0);
        assert_eq!(ALL.copies(GgmlDType::Q8_0, 1024, 128), 0);
    }

    #[test]
    fn the_demo_model_takes_what_its_file_does() {
        let footprint = Footprint::of(&ModelSource::Demo).unwrap();
        let sequences = footprint.sequences.unwrap();
        assert_eq!(sequences.context, 2048);
        assert!((13 << 20..15 << 20).contains(&footprint.weights), "{footprint:?}");
    }
}
