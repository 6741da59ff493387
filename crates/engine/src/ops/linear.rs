//! A projection, by weights of whatever kind the file holds.

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Module, Result, Tensor};

use super::Pool;
use super::dense::Dense;

/// Weights `[outputs, inputs]`, possibly of several projections below each other.
#[derive(Debug)]
pub(crate) enum Linear {
    /// 16 or 32 bits.
    Dense(Dense),
    /// Quantized blocks, one matrix for each projection.
    Quantized(Vec<Quantized>),
}

/// One quantized matrix.
#[derive(Debug)]
pub(crate) struct Quantized {
    weights: QMatMul,
    /// candle multiplies a single row by this type in another order than many.
    single_row_differs: bool,
}

impl Linear {
    /// `x` `[rows, inputs]` to `[rows, outputs]`.
    pub(crate) fn apply(&self, x: &Tensor, pool: &Pool) -> Result<Tensor> {
        match self {
            Self::Dense(dense) => dense.apply(x, pool),
            Self::Quantized(parts) => {
                let outs: Result<Vec<Tensor>> = parts.iter().map(|part| part.apply(x)).collect();
                Tensor::cat(&outs?, 1)
            }
        }
    }

    /// The same into a buffer that is used again, for results that are large every time.
    pub(crate) fn apply_into(&self, x: &Tensor, pool: &Pool, out: &mut Vec<f32>) -> Result<()> {
        if let Self::Dense(dense) = self {
            return dense.apply_into(x, pool, out);
        }
        out.clear();
        out.extend(self.apply(x, pool)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    /// The weights of single outputs, `[ids, inputs]`: a look-up of embeddings.
    pub(crate) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Dense(dense) => dense.rows(ids),
            Self::Quantized(parts) => {
                let [part] = parts.as_slice() else {
                    candle_core::bail!("rows of several quantized matrices");
                };
                let ids = Tensor::new(ids, &candle_core::Device::Cpu)?;
                part.weights.embedding(&ids)
            }
        }
    }
}

impl Quantized {
    pub(crate) fn new(weights: QTensor) -> Result<Self> {
        let single_row_differs = weights.dtype() == GgmlDType::Q6K;
        Ok(Self { weights: QMatMul::from_qtensor(weights)?, single_row_differs })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if self.single_row_differs && x.dim(0)? == 1 {
            let twice = Tensor::cat(&[x, x], 0)?;
            return self.weights.forward(&twice)?.narrow(0, 0, 1)?.contiguous();
        }
        self.weights.forward(x)
    }
}

#[cfg(test)]
mod tests;
