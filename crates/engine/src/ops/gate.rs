//! The gated activation of the feed-forward layer: `SwiGLU` and `GeGLU` (Shazeer, 2020).

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::vector::{self, Kernel, Machine, erf, exp, tanh};
use super::{NUMBERS_WORTH_SHARING, Pieces, Pool, numbers};

/// What the gate's numbers go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// The Gaussian error linear unit, by its approximation with a hyperbolic tangent (Hendrycks and Gimpel, 2016).
    Gelu,
    /// The same unit by the error function itself.
    ExactGelu,
}

/// `activation(gate) * up` for rows that hold gate and up side by side: `[rows, 2 * width]` to
/// `[rows, width]`.
pub(crate) fn gated(gate_and_up: &Tensor, activation: Activation, pool: &Pool) -> Result<Tensor> {
    gate_and_up.apply_op1_no_bwd(&Gate { activation, pool })
}

struct Gate<'a> {
    activation: Activation,
    pool: &'a Pool,
}

impl CustomOp1 for Gate<'_> {
    fn name(&self) -> &'static str {
        "gate"
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
            let x = &x[row * both..(row + 1) * both];
            match self.activation {
                Activation::Silu => vector::run(Silu(Rows { x, width, out })),
                Activation::Gelu => vector::run(Gelu(Rows { x, width, out })),
                Activation::ExactGelu => vector::run(ExactGelu(Rows { x, width, out })),
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((rows, both / 2))))
    }
}

struct Rows<'a> {
    x: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

struct Silu<'a>(Rows<'a>);

impl Kernel for Silu<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        self.0.run(|x| x / (1.0 + exp(-x)));
    }
}

struct Gelu<'a>(Rows<'a>);

impl Kernel for Gelu<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        self.0.run(|x| 0.5 * x * (1.0 + tanh(ROOT_OF_2_BY_PI * (0.044_715 * x * x).mul_add(x, x))));
    }
}

struct ExactGelu<'a>(Rows<'a>);

impl Kernel for ExactGelu<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        self.0.run(exact_gelu);
    }
}

impl Rows<'_> {
    #[inline(always)]
    fn run(self, activate: impl Fn(f32) -> f32) {
        let rows = self.x.chunks_exact(2 * self.width).zip(self.out.chunks_exact_mut(self.width));
        for (x, out) in rows {
            let (gate, up) = x.split_at(self.width);
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = activate(*gate) * up;
            }
        }
    }
}

const ROOT_OF_2_BY_PI: f32 = 0.797_884_6;

/// The Gaussian error linear unit of every number, by the error function itself.
pub(crate) fn gelu(x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&EachGelu)
}

struct EachGelu;

impl CustomOp1 for EachGelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = numbers(x, layout)?.to_vec();
        vector::run(Numbers(&mut out));
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct Numbers<'a>(&'a mut [f32]);

impl Kernel for Numbers<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        for x in self.0 {
            *x = exact_gelu(*x);
        }
    }
}

#[inline(always)]
fn exact_gelu(x: f32) -> f32 {
    x * (0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)))
}
