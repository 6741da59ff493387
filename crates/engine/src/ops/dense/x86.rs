//! The multiplication with AVX2, FMA and F16C.
//!
//! A tile is up to six rows by one to four panels: eight to twelve independent sums, which hides the
//! latency of a fused multiply-add and leaves registers for weights and inputs.

use std::arch::x86_64::{
    __m256, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm256_castsi256_ps, _mm256_cvtepu16_epi32,
    _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_slli_epi32, _mm256_storeu_ps,
};
use std::ops::Range;

use half::{bf16, f16};

use super::{Element, Job, PANEL};

/// A weight of which eight can be widened at once.
pub(super) trait Widen: Element {
    /// # Safety
    /// `from` must point to eight weights, and the machine must have AVX2 and F16C.
    unsafe fn widen8(from: *const Self) -> __m256;
}

impl Widen for f32 {
    #[inline(always)]
    unsafe fn widen8(from: *const Self) -> __m256 {
        // SAFETY: upheld by the caller.
        unsafe { _mm256_loadu_ps(from) }
    }
}

impl Widen for f16 {
    #[inline(always)]
    unsafe fn widen8(from: *const Self) -> __m256 {
        // SAFETY: upheld by the caller.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
}

impl Widen for bf16 {
    #[inline(always)]
    unsafe fn widen8(from: *const Self) -> __m256 {
        // SAFETY: upheld by the caller.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        }
    }
}

/// Multiplies all rows with the job's panels.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<T: Widen>(job: &Job<'_, T>) {
    let panels = job.panels.len() / (job.inputs * PANEL);
    if job.columns.rows <= MAX_ROWS {
        rows(job, 0..panels);
        return;
    }
    // One panel with all rows before the next one: it stays in the nearest cache meanwhile.
    for panel in 0..panels {
        rows(job, panel..panel + 1);
    }
}

/// All rows with these panels.
#[target_feature(enable = "avx2,fma,f16c")]
fn rows<T: Widen>(job: &Job<'_, T>, panels: Range<usize>) {
    let rows = job.columns.rows;
    let mut row = 0;
    while row < rows {
        // 7 and 8 are cut in halves: a full tile would leave one or two rows over, which cost nearly as much.
        let tile = match rows - row {
            left @ 1..=5 => left,
            7 | 8 => 4,
            _ => MAX_ROWS,
        };
        let panels = panels.clone();
        match tile {
            1 => tiles::<T, 1, 4>(job, row, panels),
            2 => tiles::<T, 2, 2>(job, row, panels),
            3 => tiles::<T, 3, 2>(job, row, panels),
            4 => tiles::<T, 4, 1>(job, row, panels),
            5 => tiles::<T, 5, 1>(job, row, panels),
            _ => tiles::<T, MAX_ROWS, 1>(job, row, panels),
        }
        row += tile;
    }
}

/// `ROWS` rows from `row` on with these panels, `WIDE` panels at a time.
#[target_feature(enable = "avx2,fma,f16c")]
fn tiles<T: Widen, const ROWS: usize, const WIDE: usize>(
    job: &Job<'_, T>,
    row: usize,
    panels: Range<usize>,
) {
    let wide = panels.end - panels.len() % WIDE;
    for panel in (panels.start..wide).step_by(WIDE) {
        // SAFETY: rows `row..row + ROWS` and panels `panel..panel + WIDE` exist.
        unsafe { tile::<T, ROWS, WIDE>(job, row, panel) };
    }
    for panel in wide..panels.end {
        // SAFETY: as above, for one panel.
        unsafe { tile::<T, ROWS, 1>(job, row, panel) };
    }
}

/// One tile of sums.
///
/// # Safety
/// The rows and panels must exist.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<T: Widen, const ROWS: usize, const WIDE: usize>(
    job: &Job<'_, T>,
    row: usize,
    panel: usize,
) {
    let inputs = job.inputs;
    let mut sums = [[[_mm256_setzero_ps(); 2]; WIDE]; ROWS];
    // SAFETY: the caller says that these rows and panels exist, and `input` is below `inputs`.
    unsafe {
        let x = job.x.as_ptr().add(row * inputs);
        let weights = job.panels.as_ptr().add(panel * inputs * PANEL);
        for input in 0..inputs {
            for wide in 0..WIDE {
                let from = weights.add((wide * inputs + input) * PANEL);
                if WIDE == 1 {
                    // The next panel, which comes from afar; several at once keep the machine guessing right.
                    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(inputs * PANEL).cast());
                }
                let weights = [T::widen8(from), T::widen8(from.add(8))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*x.add(row * inputs + input));
                    sums[wide][0] = _mm256_fmadd_ps(weights[0], x, sums[wide][0]);
                    sums[wide][1] = _mm256_fmadd_ps(weights[1], x, sums[wide][1]);
                }
            }
        }
    }
    for (index, sums) in sums.iter().enumerate() {
        for (wide, sums) in sums.iter().enumerate() {
            let mut numbers = [0.0; PANEL];
            let column = job.first_column + (panel + wide) * PANEL;
            // SAFETY: `numbers` has room for both registers; the columns belong to this job alone.
            unsafe {
                _mm256_storeu_ps(numbers.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(numbers.as_mut_ptr().add(8), sums[1]);
                job.columns.write(row + index, column, &numbers);
            }
        }
    }
}

const MAX_ROWS: usize = 6;
