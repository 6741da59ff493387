//! Matrix multiplication by weights of 16 or 32 bits.
//!
//! Weights are packed in panels of 16 outputs, `[panel][input][16]`, as stored in the file (f16, bf16 or
//! f32) and widened in the inner loop. Each output is one chain of fused multiply-adds over the inputs, in
//! order, whatever the number of rows or threads.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use half::{bf16, f16};

use super::{Pool, numbers};

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_512;

/// Packed weights `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Dense {
    panels: Panels,
    outputs: usize,
    inputs: usize,
}

#[derive(Debug)]
enum Panels {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// A weight as it is stored.
trait Element: Copy + Default + Send + Sync {
    fn widen(self) -> f32;
}

impl Element for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Dense {
    /// Packs matrices `[outputs, inputs]` below each other; they must have one type and width.
    pub(crate) fn pack(parts: &[Tensor]) -> Result<Self> {
        let Some(first) = parts.first() else {
            candle_core::bail!("no weights to pack");
        };
        let (_, inputs) = first.dims2()?;
        let mut outputs = 0;
        for part in parts {
            let (part_outputs, part_inputs) = part.dims2()?;
            if part_inputs != inputs || part.dtype() != first.dtype() {
                candle_core::bail!("weights to pack differ in width or type");
            }
            outputs += part_outputs;
        }
        let panels = match first.dtype() {
            DType::F32 => Panels::F32(pack(parts, outputs, inputs)?),
            DType::F16 => Panels::F16(pack(parts, outputs, inputs)?),
            DType::BF16 => Panels::Bf16(pack(parts, outputs, inputs)?),
            other => candle_core::bail!("weights of type {other:?} cannot be packed"),
        };
        Ok(Self { panels, outputs, inputs })
    }

    /// `x` `[rows, inputs]` times the transposed weights: `[rows, outputs]`.
    pub(crate) fn apply(&self, x: &Tensor, pool: &Pool) -> Result<Tensor> {
        x.apply_op1_no_bwd(&Multiply { dense: self, pool })
    }

    /// The same into `out`, whatever it held before.
    pub(crate) fn apply_into(&self, x: &Tensor, pool: &Pool, out: &mut Vec<f32>) -> Result<()> {
        let (storage, layout) = x.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("the rows to multiply must be on the CPU");
        };
        self.multiply(self.numbers_of(storage, layout)?, out, pool);
        Ok(())
    }

    /// The numbers of an `x` that these weights can be multiplied with.
    fn numbers_of<'a>(&self, x: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
        let (_, inputs) = layout.shape().dims2()?;
        if inputs != self.inputs {
            candle_core::bail!("{inputs} inputs for weights of {}", self.inputs);
        }
        numbers(x, layout)
    }

    /// The weights of single outputs: `[ids, inputs]`.
    pub(crate) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let mut out = Vec::with_capacity(ids.len() * self.inputs);
        for &id in ids {
            if id as usize >= self.outputs {
                candle_core::bail!("row {id} of {} weights", self.outputs);
            }
            match &self.panels {
                Panels::F32(panels) => self.push_row(panels, id as usize, &mut out),
                Panels::F16(panels) => self.push_row(panels, id as usize, &mut out),
                Panels::Bf16(panels) => self.push_row(panels, id as usize, &mut out),
            }
        }
        Tensor::from_vec(out, (ids.len(), self.inputs), &candle_core::Device::Cpu)
    }

    fn push_row<T: Element>(&self, panels: &[T], row: usize, out: &mut Vec<f32>) {
        let start = row / PANEL * self.inputs * PANEL + row % PANEL;
        out.extend((0..self.inputs).map(|input| panels[start + input * PANEL].widen()));
    }

    /// Multiplies all rows of `x`: `out` becomes `[rows, outputs]`, whatever it held before.
    fn multiply(&self, x: &[f32], out: &mut Vec<f32>, pool: &Pool) {
        let size = x.len() / self.inputs * self.outputs;
        out.clear();
        out.reserve(size);
        let to = out.as_mut_ptr();
        match &self.panels {
            Panels::F32(panels) => self.multiply_with(panels, x, to, pool),
            Panels::F16(panels) => self.multiply_with(panels, x, to, pool),
            Panels::Bf16(panels) => self.multiply_with(panels, x, to, pool),
        }
        // SAFETY: there is room for `size` numbers, and the parts have written every column of every row.
        unsafe { out.set_len(size) };
    }

    fn multiply_with<T: Widen>(&self, panels: &[T], x: &[f32], out: *mut f32, pool: &Pool) {
        let rows = x.len() / self.inputs;
        let count = self.outputs.div_ceil(PANEL);
        let worth = rows * self.inputs * self.outputs >= PRODUCTS_WORTH_SHARING;
        let columns = Columns { out, rows, outputs: self.outputs };
        pool.run(count.div_ceil(PANELS_PER_PART), worth, &|part| {
            let first = part * PANELS_PER_PART;
            let last = (first + PANELS_PER_PART).min(count);
            let job = Job {
                x,
                inputs: self.inputs,
                panels: &panels[first * self.inputs * PANEL..last * self.inputs * PANEL],
                first_column: first * PANEL,
                // Parts have disjoint columns, and each part runs once.
                columns: &columns,
            };
            run(&job);
        });
    }
}

#[cfg(target_arch = "x86_64")]
use x86_512::Widen16 as Widen;

#[cfg(not(target_arch = "x86_64"))]
use Element as Widen;

#[cfg(target_arch = "x86_64")]
fn run<T: Widen>(job: &Job<'_, T>) {
    if super::vector::has_avx512() {
        // SAFETY: the machine was just found to have these features.
        unsafe { x86_512::run(job) }
    } else if super::vector::has_avx2() {
        // SAFETY: the machine was just found to have these features.
        unsafe { x86::run(job) }
    } else {
        portable::run(job);
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn run<T: Widen>(job: &Job<'_, T>) {
    portable::run(job);
}

/// Some neighbouring panels times all rows.
struct Job<'a, T> {
    /// `[rows, inputs]`
    x: &'a [f32],
    inputs: usize,
    /// `[panels, inputs, 16]`
    panels: &'a [T],
    /// Output column of the first panel.
    first_column: usize,
    columns: &'a Columns,
}

/// The output `[rows, outputs]`, of which jobs write disjoint columns.
struct Columns {
    out: *mut f32,
    rows: usize,
    outputs: usize,
}

// SAFETY: jobs that run at the same time have different columns.
unsafe impl Sync for Columns {}

impl Columns {
    /// Writes a panel's sums to a row; columns that only pad the panel are left out.
    ///
    /// # Safety
    /// The columns must belong to the caller's job alone.
    #[inline(always)]
    unsafe fn write(&self, row: usize, column: usize, sums: &[f32; PANEL]) {
        debug_assert!(row < self.rows && column < self.outputs);
        let width = PANEL.min(self.outputs - column);
        // SAFETY: `row` and `column + width` are inside; nobody else writes these columns.
        unsafe {
            let to = self.out.add(row * self.outputs + column);
            if width == PANEL {
                // The common case with a size known to the compiler, or it calls a function for it.
                std::ptr::copy_nonoverlapping(sums.as_ptr(), to, PANEL);
            } else {
                std::ptr::copy_nonoverlapping(sums.as_ptr(), to, width);
            }
        }
    }
}

struct Multiply<'a> {
    dense: &'a Dense,
    pool: &'a Pool,
}

impl CustomOp1 for Multiply<'_> {
    fn name(&self) -> &'static str {
        "multiply"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = Vec::new();
        self.dense.multiply(self.dense.numbers_of(x, layout)?, &mut out, self.pool);
        let rows = out.len() / self.dense.outputs;
        Ok((CpuStorage::F32(out), Shape::from((rows, self.dense.outputs))))
    }
}

/// Packs into panels; outputs that only fill the last panel are zero.
fn pack<T: Element + candle_core::WithDType>(
    parts: &[Tensor],
    outputs: usize,
    inputs: usize,
) -> Result<Vec<T>> {
    let mut panels = vec![<T as Default>::default(); outputs.div_ceil(PANEL) * PANEL * inputs];
    super::prefer_large_pages(&panels);
    let mut output = 0;
    for part in parts {
        let part = part.contiguous()?;
        let (storage, layout) = part.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("weights to pack must be on the CPU");
        };
        let range = super::contiguous(layout)?;
        for row in storage.as_slice::<T>()?[range].chunks_exact(inputs) {
            let start = output / PANEL * inputs * PANEL + output % PANEL;
            for (input, &weight) in row.iter().enumerate() {
                panels[start + input * PANEL] = weight;
            }
            output += 1;
        }
    }
    Ok(panels)
}

/// Outputs of a panel: two AVX2 registers, or one of AVX-512.
const PANEL: usize = 16;

/// Enough for eight independent chains of sums with a single row, in registers of either width.
const PANELS_PER_PART: usize = 8;

/// About 50 microseconds of work; waking a helper costs about a tenth of it.
const PRODUCTS_WORTH_SHARING: usize = 1_000_000;

#[cfg(test)]
mod tests;
