//! A product of two thin matrices that is added to some rows of a projection (Hu et al., 2021).

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};

use super::dense::Dense;
use super::vector::{self, Kernel, Machine};
use super::{NUMBERS_WORTH_SHARING, Pieces, Pool, numbers, numbers_mut};

/// What is added to some neighbouring columns of a projection: `scale * b(a(x))`.
#[derive(Debug)]
pub(crate) struct LowRank {
    /// `[rank, inputs]`
    pub(crate) a: Dense,
    /// `[outputs, rank]`
    pub(crate) b: Dense,
    pub(crate) scale: f32,
    /// The first of the columns.
    pub(crate) column: usize,
}

impl LowRank {
    /// Adds what comes of `x` `[rows, inputs]` to those rows of `projection` that are numbered in `rows`. They
    /// are different ones.
    pub(crate) fn add(
        &self,
        x: &Tensor,
        projection: &Tensor,
        rows: &[u32],
        pool: &Pool,
    ) -> Result<()> {
        let added = self.b.apply(&self.a.apply(x, pool)?, pool)?;
        projection.inplace_op2(&added, &Add { low_rank: self, rows, pool })
    }
}

struct Add<'a> {
    low_rank: &'a LowRank,
    rows: &'a [u32],
    pool: &'a Pool,
}

impl InplaceOp2 for Add<'_> {
    fn name(&self) -> &'static str {
        "low_rank"
    }

    fn cpu_fwd(
        &self,
        projection: &mut CpuStorage,
        projection_layout: &Layout,
        added: &CpuStorage,
        added_layout: &Layout,
    ) -> Result<()> {
        let (rows, width) = projection_layout.shape().dims2()?;
        let (added_rows, outputs) = added_layout.shape().dims2()?;
        let columns = self.low_rank.column..self.low_rank.column + outputs;
        // Ascending numbers are different ones.
        let ascending = self.rows.is_sorted_by(|one, next| one < next);
        let inside = self.rows.last().is_none_or(|last| (*last as usize) < rows);
        if columns.end > width || added_rows != self.rows.len() || !ascending || !inside {
            candle_core::bail!("low_rank: columns {columns:?} of {projection_layout:?}");
        }
        let (added, scale) = (numbers(added, added_layout)?, self.low_rank.scale);
        let pieces = Pieces::new(numbers_mut(projection, projection_layout)?, width);
        self.pool.run(added_rows, added.len() >= NUMBERS_WORTH_SHARING, &|index| {
            // SAFETY: no row is there twice, each index is run once, and there are as many pieces as rows.
            let row = unsafe { pieces.piece(self.rows[index] as usize) };
            let added = &added[index * outputs..(index + 1) * outputs];
            vector::run(Scaled { sum: &mut row[columns.clone()], added, scale });
        });
        Ok(())
    }
}

struct Scaled<'a> {
    sum: &'a mut [f32],
    added: &'a [f32],
    scale: f32,
}

impl Kernel for Scaled<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        for (sum, added) in self.sum.iter_mut().zip(self.added) {
            *sum = added.mul_add(self.scale, *sum);
        }
    }
}
