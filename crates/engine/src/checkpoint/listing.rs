//! What is in a model's files, without reading weights: names, sizes and types, as the headers tell.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;

use super::safetensors::Archive;
use super::{gguf, safetensors as folder};
use crate::models::Shape;
use crate::{LoadError, ModelSource, Quantization};

/// The tensors of a model that makes text.
pub(crate) struct Listed {
    pub(crate) shape: Shape,
    pub(crate) tensors: Vec<Listing>,
}

/// One tensor.
pub(crate) struct Listing {
    /// As the files have it.
    pub(crate) name: String,
    pub(crate) dims: Vec<usize>,
    /// What it is kept in, or turned into; `None` if it is of no kind that is computed with.
    pub(crate) kind: Option<GgmlDType>,
    /// Its size in the file.
    pub(crate) stored_bytes: u64,
}

impl Listing {
    /// Outputs and inputs, if it has rows; those of all experts where a file keeps them in one.
    pub(crate) fn matrix(&self) -> Option<(u64, u64)> {
        match self.dims.as_slice() {
            [outputs, inputs] => Some((*outputs as u64, *inputs as u64)),
            [experts, outputs, inputs] => Some(((experts * outputs) as u64, *inputs as u64)),
            _ => None,
        }
    }

    pub(crate) fn numbers(&self) -> u64 {
        self.dims.iter().map(|dim| *dim as u64).product()
    }
}

/// What is in the files of a model that makes text.
pub(crate) fn list(source: &ModelSource) -> Result<Listed, LoadError> {
    let (config, archive, quantization) = match source {
        ModelSource::Gguf { weights, .. } => return gguf::list(weights),
        ModelSource::Demo => (folder::demo_config()?, folder::demo_archive()?, None),
        ModelSource::Quantized { folder: None, quantization } => {
            (folder::demo_config()?, folder::demo_archive()?, Some(*quantization))
        }
        ModelSource::Folder(path) => (folder::config_in(path)?, folder::archive_in(path)?, None),
        ModelSource::Quantized { folder: Some(path), quantization } => {
            (folder::config_in(path)?, folder::archive_in(path)?, Some(*quantization))
        }
    };
    let shape = config.shape()?;
    let mut tensors = listings(&archive);
    if let Some(quantization) = quantization {
        for tensor in &mut tensors {
            quantize(tensor, quantization, shape.layers);
        }
    }
    Ok(Listed { shape, tensors })
}

/// The tensors of any folder in the layout of Hugging Face.
pub(crate) fn tensors_in(path: &Path) -> Result<Vec<Listing>, LoadError> {
    Ok(listings(&folder::archive_in(path)?))
}

fn listings(archive: &Archive) -> Vec<Listing> {
    let list = |(name, dims, dtype, bytes): (String, Vec<usize>, Dtype, usize)| Listing {
        name,
        dims,
        kind: match dtype {
            Dtype::F32 => Some(GgmlDType::F32),
            Dtype::F16 => Some(GgmlDType::F16),
            Dtype::BF16 => Some(GgmlDType::BF16),
            _ => None,
        },
        stored_bytes: bytes as u64,
    };
    archive.typed_tensors().into_iter().map(list).collect()
}

fn quantize(tensor: &mut Listing, quantization: Quantization, layers: usize) {
    let Some((_, inputs)) = tensor.matrix() else { return };
    let wanted = quantization.blocks(&tensor.name, usize::try_from(inputs).unwrap_or(0), layers);
    // What divides into no blocks stays as it is.
    if tensor.kind.is_some() && wanted != GgmlDType::F16 {
        tensor.kind = Some(wanted);
    }
}
