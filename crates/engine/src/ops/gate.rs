//! The gated activation of the feed-forward layer, `SwiGLU` (Shazeer, 2020).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::vector::{self, Kernel, Machine, exp};
use super::{NUMBERS_WORTH_SHARING, Pieces, Pool, numbers};

/// `silu(gate) * up` for rows that hold gate and up side by side: `[rows, 2 * width]` to `[rows, width]`.
pub(crate) fn swiglu(gate_and_up: &Tensor, pool: &Pool) -> Result<Tensor> {
    gate_and_up.apply_op1_no_bwd(&SwiGlu { pool })
}

struct SwiGlu<'a> {
    pool: &'a Pool,
}

impl CustomOp1 for SwiGlu<'_> {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, both) = layout.shape().dims2()?;
        let x = numbers(x, layout)?;
        let width = both / 2;
        let mut out = vec![0.0; rows * width];
        let worth = out.len() >= NUMBERS_WORTH_SHARING;
        let pieces = Pieces::new(&mut out, width);
        self.pool.run(rows, worth, &|row| {
            // SAFETY: each row is run once, and there are as many pieces as rows.
            let out = unsafe { pieces.piece(row) };
            vector::run(Rows { x: &x[row * both..(row + 1) * both], width, out });
        });
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
