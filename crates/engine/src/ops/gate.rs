//! The gated activation of the feed-forward layer, `SwiGLU` (Shazeer, 2020).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::numbers;
use super::vector::{self, Kernel, Machine, exp};

/// `silu(gate) * up` for rows that hold gate and up side by side: `[rows, 2 * width]` to `[rows, width]`.
pub(crate) fn swiglu(gate_and_up: &Tensor) -> Result<Tensor> {
    gate_and_up.apply_op1_no_bwd(&SwiGlu)
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, both) = layout.shape().dims2()?;
        let x = numbers(x, layout)?;
        let mut out = vec![0.0; x.len() / 2];
        vector::run(Rows { x, width: both / 2, out: &mut out });
        Ok((CpuStorage::F32(out), Shape::from((rows, both / 2))))
    }
}

struct Rows<'a> {
    x: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        let rows = self.x.chunks_exact(2 * self.width).zip(self.out.chunks_exact_mut(self.width));
        for (x, out) in rows {
            let (gate, up) = x.split_at(self.width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        }
    }
}
