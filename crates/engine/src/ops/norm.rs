//! Root mean square normalisation (Zhang and Sennrich, 2019).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::numbers;
use super::vector::{self, Kernel, LANES, Machine, sum_lanes};

/// Normalises each row of `x` `[rows, width]` to root mean square 1 and scales it by `weight` `[width]`.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    x.apply_op2_no_bwd(weight, &RmsNorm { epsilon })
}

struct RmsNorm {
    epsilon: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        if weight.is_empty() || x_layout.dims().last() != Some(&weight.len()) {
            candle_core::bail!("rms_norm: {x_layout:?} with {} weights", weight.len());
        }
        let mut out = vec![0.0; x.len()];
        vector::run(Rows { x, weight, epsilon: self.epsilon, out: &mut out });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let mut squares = [0.0; LANES];
            let (blocks, rest) = x.as_chunks::<LANES>();
            for block in blocks {
                for lane in 0..LANES {
                    squares[lane] = block[lane].mul_add(block[lane], squares[lane]);
                }
            }
            for (lane, x) in rest.iter().enumerate() {
                squares[lane] = x.mul_add(*x, squares[lane]);
            }
            let mean = sum_lanes(squares) / width as f32;
            let scale = 1.0 / (mean + self.epsilon).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}
