//! Normalisation: by root mean square (Zhang and Sennrich, 2019), and by mean and deviation (Ba et al., 2016).

use candle_core::{CpuStorage, CustomOp2, CustomOp3, InplaceOp2, Layout, Result, Shape, Tensor};

use super::vector::{self, Kernel, LANES, Machine, sum_lanes};
use super::{NUMBERS_WORTH_SHARING, Pieces, Pool, numbers, numbers_mut};

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
            let scale = scale(x, self.epsilon);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

/// What brings the root mean square of `x` to 1.
#[inline(always)]
fn scale(x: &[f32], epsilon: f32) -> f32 {
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
    let mean = sum_lanes(squares) / x.len() as f32;
    1.0 / (mean + epsilon).sqrt()
}

/// Normalises heads of a projection, each by itself.
#[derive(Clone, Copy)]
pub(crate) struct HeadNorm<'a> {
    /// First column of the first head.
    pub(crate) column: usize,
    /// How many there are.
    pub(crate) heads: usize,
    pub(crate) epsilon: f32,
    pub(crate) pool: &'a Pool,
}

impl HeadNorm<'_> {
    /// Changes `projection` `[rows, ...]` in place; a head is as wide as `weight`.
    pub(crate) fn apply(&self, projection: &Tensor, weight: &Tensor) -> Result<()> {
        projection.inplace_op2(weight, self)
    }
}

impl InplaceOp2 for HeadNorm<'_> {
    fn name(&self) -> &'static str {
        "head_norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<()> {
        let (rows, width) = x_layout.shape().dims2()?;
        let weight = numbers(weight, weight_layout)?;
        let heads = self.column..self.column + self.heads * weight.len();
        if heads.end > width {
            candle_core::bail!("head_norm: columns {heads:?} of {width}");
        }
        let pieces = Pieces::new(numbers_mut(x, x_layout)?, width);
        self.pool.run(rows, rows * heads.len() >= NUMBERS_WORTH_SHARING, &|row| {
            // SAFETY: each row is run once, and there are as many pieces as rows.
            let row = unsafe { pieces.piece(row) };
            vector::run(Heads { x: &mut row[heads.clone()], weight, epsilon: self.epsilon });
        });
        Ok(())
    }
}

struct Heads<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f32,
}

impl Kernel for Heads<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        for head in self.x.chunks_exact_mut(self.weight.len()) {
            let scale = scale(head, self.epsilon);
            for (x, weight) in head.iter_mut().zip(self.weight) {
                *x = *x * scale * weight;
            }
        }
    }
}

/// Brings each row of `x` `[rows, width]` to mean 0 and deviation 1, scales it by `weight` and adds `bias`.
pub(crate) fn layer_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    epsilon: f32,
) -> Result<Tensor> {
    x.apply_op3_no_bwd(weight, bias, &LayerNorm { epsilon })
}

struct LayerNorm {
    epsilon: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        let bias = numbers(bias, bias_layout)?;
        if weight.is_empty()
            || x_layout.dims().last() != Some(&weight.len())
            || bias.len() != weight.len()
        {
            candle_core::bail!("layer_norm: {x_layout:?} with {} weights", weight.len());
        }
        let mut out = Vec::with_capacity(x.len());
        for row in x.chunks_exact(weight.len()) {
            // In double precision: means and squares of long rows cancel.
            let count = row.len() as f64;
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let squares = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
            let scale = 1.0 / (squares / count + f64::from(self.epsilon)).sqrt();
            let numbers =
                row.iter().zip(weight).zip(bias).map(|((x, weight), bias)| {
                    ((f64::from(*x) - mean) * scale) as f32 * weight + bias
                });
            out.extend(numbers);
        }
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}
