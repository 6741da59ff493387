//! Rotary position embedding (Su et al., 2021), and writing keys and values into the KV cache.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor};
use half::f16;

use super::{NUMBERS_WORTH_SHARING, Pieces, Pool, halves_mut, numbers, numbers_mut};

/// Which numbers of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// Number `i` of the first half with number `i` of the second: the layout of safetensors.
    Halves,
    /// Neighbours: the layout of GGUF files of the `llama` architecture.
    Neighbours,
}

/// How positions turn the numbers of a head.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pairing: Pairing,
    /// Angle per position for each pair of numbers.
    frequencies: Vec<f64>,
    scale: f64,
}

/// The rotation of the rows of one step; the same in all layers.
pub(crate) struct Turns {
    pairing: Pairing,
    /// Pairs of a head.
    half: usize,
    /// `(cosine, sine)`, `[rows, half]`.
    angles: Vec<(f32, f32)>,
}

impl Rotation {
    /// A rotation by these angles per position; what is turned is multiplied by `scale`.
    pub(crate) fn new(pairing: Pairing, frequencies: &[f64], scale: f64) -> Self {
        Self { pairing, frequencies: frequencies.to_vec(), scale }
    }

    /// The rotation of rows at these positions.
    pub(crate) fn turns(&self, positions: &[u32]) -> Turns {
        let angles = positions.iter().flat_map(|&position| {
            self.frequencies.iter().map(move |frequency| f64::from(position) * frequency)
        });
        let turn =
            |angle: f64| ((angle.cos() * self.scale) as f32, (angle.sin() * self.scale) as f32);
        let angles = angles.map(turn).collect();
        Turns { pairing: self.pairing, half: self.frequencies.len(), angles }
    }
}

impl Turns {
    /// Rotates the first `heads` heads of each row of `x` in place. Of wider heads the first numbers turn.
    pub(crate) fn apply(
        &self,
        x: &Tensor,
        heads: usize,
        head_width: usize,
        pool: &Pool,
    ) -> Result<()> {
        x.inplace_op1(&Rotate { turns: self, heads, head_width, pool })
    }

    fn rotate(&self, head: &mut [f32], turns: &[(f32, f32)]) {
        for (pair, &(cosine, sine)) in turns.iter().enumerate() {
            let (i, j) = match self.pairing {
                Pairing::Halves => (pair, pair + self.half),
                Pairing::Neighbours => (2 * pair, 2 * pair + 1),
            };
            let (a, b) = (head[i], head[j]);
            head[i] = a * cosine - b * sine;
            head[j] = b * cosine + a * sine;
        }
    }
}

struct Rotate<'a> {
    turns: &'a Turns,
    heads: usize,
    head_width: usize,
    pool: &'a Pool,
}

impl InplaceOp1 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (_, width) = layout.shape().dims2()?;
        let half = self.turns.half;
        let numbers = numbers_mut(x, layout)?;
        let (rows, worth) = (numbers.len() / width, numbers.len() >= NUMBERS_WORTH_SHARING);
        let pieces = Pieces::new(numbers, width);
        self.pool.run(rows, worth, &|row| {
            let turns = &self.turns.angles[row * half..(row + 1) * half];
            // SAFETY: each row is run once, and there are as many pieces as rows.
            let row = unsafe { pieces.piece(row) };
            for head in row[..self.heads * self.head_width].chunks_exact_mut(self.head_width) {
                self.turns.rotate(&mut head[..2 * half], turns);
            }
        });
        Ok(())
    }
}

/// Where the keys or values of a row stand in its fused projection, and how the cache lays them out.
#[derive(Clone, Copy)]
pub(crate) struct Store<'a> {
    /// First column.
    pub(crate) column: usize,
    pub(crate) heads: usize,
    pub(crate) head_width: usize,
    pub(crate) block_tokens: usize,
    /// Numbers of one head in a block are `[head_width, block_tokens]` (keys) or
    /// `[block_tokens, head_width]` (values).
    pub(crate) transposed: bool,
    /// Where each row goes: block times block size plus offset. Each row has a slot of its own.
    pub(crate) slots: &'a [u32],
    pub(crate) pool: &'a Pool,
}

impl Store<'_> {
    /// Writes the rows of `projection` into `cache`, rounded to 16 bits.
    pub(crate) fn write(&self, cache: &Tensor, projection: &Tensor) -> Result<()> {
        cache.inplace_op2(projection, self)
    }
}

impl InplaceOp2 for Store<'_> {
    fn name(&self) -> &'static str {
        "store"
    }

    fn cpu_fwd(
        &self,
        cache: &mut CpuStorage,
        cache_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        let (_, width) = x_layout.shape().dims2()?;
        let x = numbers(x, x_layout)?;
        let cache = halves_mut(cache, cache_layout)?;
        let Self { heads, head_width, block_tokens, .. } = *self;
        let (token_stride, number_stride) =
            if self.transposed { (1, block_tokens) } else { (head_width, 1) };
        let worth = self.slots.len() * heads * head_width >= NUMBERS_WORTH_SHARING;
        let cache = Pieces::new(cache, 1);
        self.pool.run(self.slots.len(), worth, &|row| {
            let slot = self.slots[row] as usize;
            let (block, offset) = (slot / block_tokens, slot % block_tokens);
            let row = &x[row * width + self.column..][..heads * head_width];
            for (head, numbers) in row.chunks_exact(head_width).enumerate() {
                let start =
                    (block * heads + head) * block_tokens * head_width + offset * token_stride;
                for (index, &number) in numbers.iter().enumerate() {
                    // SAFETY: no other row has this slot.
                    let kept = unsafe { cache.piece(start + index * number_stride) };
                    kept[0] = f16::from_f32(number);
                }
            }
        });
        Ok(())
    }
}
