//! The dense multiplication by itself, for measuring.

use candle_core::{DType, Device, Result, Tensor};

use super::Pool;
use super::dense::Dense;

/// f16 weights and threads to multiply with.
pub struct DenseBench {
    dense: Dense,
    pool: Pool,
    inputs: usize,
}

impl DenseBench {
    /// Weights `[outputs, inputs]` for `threads` threads.
    pub fn new(outputs: usize, inputs: usize, threads: u32) -> Result<Self> {
        let weights = Tensor::rand(-1.0_f32, 1.0, (outputs, inputs), &Device::Cpu)?;
        let dense = Dense::pack(&[weights.to_dtype(DType::F16)?])?;
        Ok(Self { dense, pool: Pool::new(threads)?, inputs })
    }

    /// Multiplies `rows` rows once.
    pub fn run(&self, rows: usize) -> Result<()> {
        let x = Tensor::ones((rows, self.inputs), DType::F32, &Device::Cpu)?;
        self.dense.apply(&x, &self.pool).map(drop)
    }
}
