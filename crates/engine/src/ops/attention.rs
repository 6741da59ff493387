//! Causal attention over paged keys and values, for rows of many sequences at once.
//!
//! Each row attends all positions of its own sequence up to its own, in order of position: scores, their
//! maximum, exponentials, their sum, the weighted values. A row's result is the same whether its
//! neighbours are in the same step or were computed long ago.

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use half::f16;

use super::vector::{self, Kernel, LANES, Machine, exp, sum_lanes, tanh};
use super::{Pieces, Pool, halves, numbers};
use crate::step::Step;

/// Attention of one layer.
pub(crate) struct Attention<'a> {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// A multiple of 16.
    pub(crate) head_width: usize,
    /// A multiple of 16.
    pub(crate) block_tokens: usize,
    /// Scores are multiplied by this.
    pub(crate) scale: f32,
    /// Scores are squeezed below this.
    pub(crate) softcap: Option<f32>,
    pub(crate) window: Window<'a>,
    pub(crate) step: &'a Step,
    pub(crate) pool: &'a Pool,
}

/// Where the positions begin that a row attends; they end at the row's own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Window<'a> {
    /// At the first one.
    Whole,
    /// So that there are so many.
    Last(u32),
    /// At these, one for each row, none after the row's own.
    From(&'a [u32]),
}

impl Window<'_> {
    /// The first position that a row attends, of all before `end`.
    fn first(self, row: usize, end: usize) -> usize {
        match self {
            Self::Whole => 0,
            Self::Last(window) => end.saturating_sub(window as usize),
            Self::From(firsts) => firsts[row] as usize,
        }
    }
}

impl From<Option<u32>> for Window<'_> {
    fn from(window: Option<u32>) -> Self {
        window.map_or(Self::Whole, Self::Last)
    }
}

impl Attention<'_> {
    /// Attends with the queries in the first columns of `projection` `[rows, ...]`; keys are
    /// `[blocks, kv_heads, head_width, block_tokens]`, values `[blocks, kv_heads, block_tokens, head_width]`.
    /// Returns `[rows, heads * head_width]`.
    pub(crate) fn apply(
        &self,
        projection: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Tensor> {
        projection.apply_op3_no_bwd(keys, values, self)
    }

    /// Multiplications and additions in all.
    fn operations(&self) -> usize {
        let ends = self.step.positions.iter().map(|position| *position as usize + 1);
        let attended = ends.enumerate().map(|(row, end)| end - self.window.first(row, end));
        let positions: usize = attended.sum();
        positions * self.heads * self.head_width * 4
    }
}

impl CustomOp3 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        projection: &CpuStorage,
        projection_layout: &Layout,
        keys: &CpuStorage,
        keys_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, projection_width) = projection_layout.shape().dims2()?;
        let projection = numbers(projection, projection_layout)?;
        let (keys, values) = (halves(keys, keys_layout)?, halves(values, values_layout)?);
        let group_width = self.heads / self.kv_heads * self.head_width;
        let mut out = vec![0.0; rows * self.heads * self.head_width];
        // One part for each row and KV head; parts write disjoint pieces of `out`.
        let pieces = Pieces::new(&mut out, group_width);
        let parts = rows * self.kv_heads;
        self.pool.run(parts, self.operations() >= OPERATIONS_WORTH_SHARING, &|part| {
            let (row, kv_head) = (part / self.kv_heads, part % self.kv_heads);
            let query = row * projection_width + kv_head * group_width;
            let table = self.step.table_starts[row] as usize;
            let position = self.step.positions[row] as usize + 1;
            let from = self.window.first(row, position);
            // Blocks that lie before the window altogether are not looked at.
            let skipped = from / self.block_tokens;
            let end = position.div_ceil(self.block_tokens);
            let context = position - skipped * self.block_tokens;
            SCORES.with_borrow_mut(|scores| {
                vector::run(Group {
                    queries: &projection[query..query + group_width],
                    keys,
                    values,
                    blocks: &self.step.tables[table + skipped..table + end],
                    kv_head,
                    from: from % self.block_tokens,
                    context,
                    shape: self,
                    scores,
                    // SAFETY: each part is run once, and `part` is below `rows * kv_heads`.
                    out: unsafe { pieces.piece(part) },
                });
            });
        });
        Ok((CpuStorage::F32(out), Shape::from((rows, self.heads * self.head_width))))
    }
}

/// The query heads of one row that share one KV head.
struct Group<'a> {
    /// `[group, head_width]`
    queries: &'a [f32],
    keys: &'a [f16],
    values: &'a [f16],
    blocks: &'a [u32],
    kv_head: usize,
    /// The first position to attend, counted from the first block.
    from: usize,
    /// The end of the positions to attend.
    context: usize,
    shape: &'a Attention<'a>,
    /// Room for the scores of the heads at work.
    scores: &'a mut Vec<f32>,
    /// `[group, head_width]`
    out: &'a mut [f32],
}

impl Kernel for Group<'_> {
    #[inline(always)]
    fn run<M: Machine>(mut self) {
        let heads = self.queries.len() / self.shape.head_width;
        let paired = heads - heads % 2;
        for head in (0..paired).step_by(2) {
            self.attend::<M, 2>(head);
        }
        if paired < heads {
            self.attend::<M, 1>(paired);
        }
    }
}

impl Group<'_> {
    /// Attends with `HEADS` heads from `head` on, side by side: enough independent sums to hide the
    /// latency of a multiply-add. Each sum is the same whatever runs beside it.
    #[inline(always)]
    fn attend<M: Machine, const HEADS: usize>(&mut self, head: usize) {
        // Scores of one head, `[stride]`; what lies beyond the context is not used.
        let stride = self.blocks.len() * self.shape.block_tokens;
        self.scores.resize(HEADS * stride, 0.0);
        if self.shape.block_tokens.is_multiple_of(2 * LANES) {
            self.score::<M, HEADS, 2>(head, stride);
        } else {
            self.score::<M, HEADS, 1>(head, stride);
        }
        let mut scales = [0.0; HEADS];
        for (scores, scale) in self.scores.chunks_exact_mut(stride).zip(&mut scales) {
            let scores = &mut scores[self.from..self.context];
            if let Some(cap) = self.shape.softcap {
                squeeze(scores, cap);
            }
            *scale = 1.0 / softmax(scores);
        }
        if self.shape.head_width.is_multiple_of(2 * LANES) {
            self.weigh::<M, HEADS, 2>(head, stride, scales);
        } else {
            self.weigh::<M, HEADS, 1>(head, stride, scales);
        }
    }

    /// Numbers of one head in one block, in a cache `[blocks, kv_heads, ...]`, by lanes.
    #[inline(always)]
    fn page<'c>(&self, cache: &'c [f16], block: u32) -> &'c [[f16; LANES]] {
        let size = self.shape.block_tokens * self.shape.head_width;
        let start = (block as usize * self.shape.kv_heads + self.kv_head) * size;
        cache[start..start + size].as_chunks().0
    }

    /// Where the page that comes after the one at `index` begins, to ask for it before it is used: blocks lie
    /// apart, so the machine cannot guess. The last one again if there is none.
    #[inline(always)]
    fn next_page<'c>(&self, cache: &'c [f16], index: usize) -> &'c [[f16; LANES]] {
        self.page(cache, self.blocks[(index + 1).min(self.blocks.len() - 1)])
    }

    /// The page of the next KV head in the same block, which is attended next. The same one again if there is
    /// none.
    #[inline(always)]
    fn next_head<'c>(&self, cache: &'c [f16], block: u32) -> &'c [[f16; LANES]] {
        let size = self.shape.block_tokens * self.shape.head_width;
        let kv_head = (self.kv_head + 1).min(self.shape.kv_heads - 1);
        let start = (block as usize * self.shape.kv_heads + kv_head) * size;
        cache[start..start + size].as_chunks().0
    }

    /// Queries times keys, for all positions of the blocks, `WIDE` times 16 at a time.
    #[inline(always)]
    fn score<M: Machine, const HEADS: usize, const WIDE: usize>(
        &mut self,
        head: usize,
        stride: usize,
    ) {
        let (width, tokens) = (self.shape.head_width, self.shape.block_tokens);
        let scale = self.shape.scale;
        let queries: [&[f32]; HEADS] =
            std::array::from_fn(|h| &self.queries[(head + h) * width..(head + h + 1) * width]);
        for (index, &block) in self.blocks.iter().enumerate() {
            let page = self.page(self.keys, block);
            let next = self.next_page(self.keys, index);
            // Asked for here, the values are near when the scores are known.
            let values = self.page(self.values, block);
            for start in (0..tokens / LANES).step_by(WIDE) {
                let mut sums = [[[0.0_f32; LANES]; WIDE]; HEADS];
                let lines = page
                    .chunks_exact(tokens / LANES)
                    .zip(next.chunks_exact(tokens / LANES))
                    .zip(values.chunks_exact(tokens / LANES));
                for (number, ((keys, next), values)) in lines.enumerate() {
                    vector::prefetch(&next[start..]);
                    vector::prefetch(&values[start..]);
                    let keys: [_; WIDE] = std::array::from_fn(|w| M::widen(&keys[start + w]));
                    for h in 0..HEADS {
                        add_product(&mut sums[h], &keys, queries[h][number]);
                    }
                }
                for (h, sums) in sums.iter().enumerate() {
                    let at = h * stride + index * tokens + start * LANES;
                    let scores = &mut self.scores[at..at + WIDE * LANES];
                    for (score, sum) in scores.iter_mut().zip(sums.as_flattened()) {
                        *score = sum * scale;
                    }
                }
            }
        }
    }

    /// The values, weighed by the scores, `WIDE` times 16 numbers of a head at a time.
    #[inline(always)]
    fn weigh<M: Machine, const HEADS: usize, const WIDE: usize>(
        &mut self,
        head: usize,
        stride: usize,
        scales: [f32; HEADS],
    ) {
        let (width, tokens) = (self.shape.head_width, self.shape.block_tokens);
        for start in (0..width / LANES).step_by(WIDE) {
            let mut sums = [[[0.0_f32; LANES]; WIDE]; HEADS];
            for (index, &block) in self.blocks.iter().enumerate() {
                let first = index * tokens;
                let used = tokens.min(self.context - first);
                // Positions before the window, in the first block alone.
                let unused = self.from.saturating_sub(first);
                let weights: [&[f32]; HEADS] =
                    std::array::from_fn(|h| &self.scores[h * stride + first..][..used]);
                let page = self.page(self.values, block);
                let next = self.next_head(self.keys, block);
                let lines = page.chunks_exact(width / LANES).zip(next.chunks_exact(width / LANES));
                for (token, (values, next)) in lines.take(used).enumerate().skip(unused) {
                    vector::prefetch(&next[start..]);
                    let values: [_; WIDE] = std::array::from_fn(|w| M::widen(&values[start + w]));
                    for h in 0..HEADS {
                        add_product(&mut sums[h], &values, weights[h][token]);
                    }
                }
            }
            for (h, sums) in sums.iter().enumerate() {
                let at = (head + h) * width + start * LANES;
                let out = &mut self.out[at..at + WIDE * LANES];
                for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                    *out = sum * scales[h];
                }
            }
        }
    }
}

/// `sums += numbers * factor`, lane by lane.
#[inline(always)]
fn add_product<const WIDE: usize>(
    sums: &mut [[f32; LANES]; WIDE],
    numbers: &[[f32; LANES]; WIDE],
    factor: f32,
) {
    for (sums, numbers) in sums.iter_mut().zip(numbers) {
        for lane in 0..LANES {
            sums[lane] = numbers[lane].mul_add(factor, sums[lane]);
        }
    }
}

/// Squeezes scores below `cap`.
#[inline(always)]
fn squeeze(scores: &mut [f32], cap: f32) {
    for score in scores {
        *score = cap * tanh(*score / cap);
    }
}

/// Replaces scores by exponentials relative to the largest; returns their sum.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    for score in scores.iter() {
        max = if *score > max { *score } else { max };
    }
    let mut sums = [0.0; LANES];
    for block in scores.chunks_mut(LANES) {
        for (score, sum) in block.iter_mut().zip(&mut sums) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    sum_lanes(sums)
}

thread_local! {
    /// Scores of one head, used again to save an allocation for each part.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// About 50 microseconds of work; waking a helper costs about a tenth of it.
const OPERATIONS_WORTH_SHARING: usize = 1_000_000;

#[cfg(test)]
mod tests;
