//! The multiplication with AVX-512.
//!
//! A panel is one register wide here, so a tile can be twice as high as with AVX2 and has as many
//! independent sums: the eight rows of a lot are one tile, and each weight is read and widened once.

use std::arch::x86_64::{
    __m512, _MM_HINT_T1, _mm_prefetch, _mm256_loadu_si256, _mm512_castsi512_ps,
    _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};
use std::ops::Range;

use half::{bf16, f16};

use super::x86::Widen;
use super::{Job, PANEL};

/// A weight of which sixteen can be widened at once.
pub(super) trait Widen16: Widen {
    /// # Safety
    /// `from` must point to sixteen weights, and the machine must have AVX-512F.
    unsafe fn widen16(from: *const Self) -> __m512;
}

impl Widen16 for f32 {
    #[inline(always)]
    unsafe fn widen16(from: *const Self) -> __m512 {
        // SAFETY: upheld by the caller.
        unsafe { _mm512_loadu_ps(from) }
    }
}

impl Widen16 for f16 {
    #[inline(always)]
    unsafe fn widen16(from: *const Self) -> __m512 {
        // SAFETY: upheld by the caller.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
}

impl Widen16 for bf16 {
    #[inline(always)]
    unsafe fn widen16(from: *const Self) -> __m512 {
        // SAFETY: upheld by the caller.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }
}

/// Multiplies all rows with the job's panels.
#[target_feature(enable = "avx512f")]
pub(super) fn run<T: Widen16>(job: &Job<'_, T>) {
    let panels = job.panels.len() / (job.inputs * PANEL);
    if job.columns.rows <= MAX_ROWS {
        rows(job, 0..panels);
        return;
    }
    // A few panels with all rows before the next few: they stay in the nearest cache meanwhile.
    for first in (0..panels).step_by(MAX_WIDE_PANELS) {
        rows(job, first..(first + MAX_WIDE_PANELS).min(panels));
    }
}

/// All rows with these panels.
#[target_feature(enable = "avx512f")]
fn rows<T: Widen16>(job: &Job<'_, T>, panels: Range<usize>) {
    let rows = job.columns.rows;
    let mut row = 0;
    while row < rows {
        let panels = panels.clone();
        row += match rows - row {
            1 => tiles::<T, 1, 8>(job, row, panels),
            2 => tiles::<T, 2, 8>(job, row, panels),
            3 => tiles::<T, 3, 4>(job, row, panels),
            4 => tiles::<T, 4, 4>(job, row, panels),
            5 => tiles::<T, 5, 4>(job, row, panels),
            6 => tiles::<T, 6, 4>(job, row, panels),
            7 => tiles::<T, 7, 3>(job, row, panels),
            9 => tiles::<T, 9, 3>(job, row, panels),
            10 => tiles::<T, 10, 2>(job, row, panels),
            11 => tiles::<T, 11, 2>(job, row, panels),
            12 => tiles::<T, MAX_ROWS, 2>(job, row, panels),
            // Of many rows, too: a full tile would leave a few over, which cost nearly as much. Three panels
            // beside each other, so that a row's number is read once for each of them: with two, reading
            // costs more than multiplying.
            _ => tiles::<T, 8, 3>(job, row, panels),
        };
    }
}

/// `ROWS` rows from `row` on with these panels, `WIDE` panels at a time; returns `ROWS`.
#[target_feature(enable = "avx512f")]
fn tiles<T: Widen16, const ROWS: usize, const WIDE: usize>(
    job: &Job<'_, T>,
    row: usize,
    panels: Range<usize>,
) -> usize {
    let wide = panels.end - panels.len() % WIDE;
    for panel in (panels.start..wide).step_by(WIDE) {
        // SAFETY: rows `row..row + ROWS` and panels `panel..panel + WIDE` exist.
        unsafe { tile::<T, ROWS, WIDE>(job, row, panel) };
    }
    for panel in wide..panels.end {
        // SAFETY: as above, for one panel.
        unsafe { tile::<T, ROWS, 1>(job, row, panel) };
    }
    ROWS
}

/// One tile of sums.
///
/// # Safety
/// The rows and panels must exist.
#[target_feature(enable = "avx512f")]
unsafe fn tile<T: Widen16, const ROWS: usize, const WIDE: usize>(
    job: &Job<'_, T>,
    row: usize,
    panel: usize,
) {
    let inputs = job.inputs;
    let mut sums = [[_mm512_setzero_ps(); WIDE]; ROWS];
    // SAFETY: the caller says that these rows and panels exist, and `input` is below `inputs`.
    unsafe {
        let x = job.x.as_ptr().add(row * inputs);
        let weights = job.panels.as_ptr().add(panel * inputs * PANEL);
        for input in 0..inputs {
            let mut widened = [_mm512_setzero_ps(); WIDE];
            for (wide, widened) in widened.iter_mut().enumerate() {
                let from = weights.add((wide * inputs + input) * PANEL);
                if WIDE <= MAX_WIDE_PANELS {
                    // The next panels, which come from afar; many at once keep the machine guessing right.
                    _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(WIDE * inputs * PANEL).cast());
                }
                *widened = T::widen16(from);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x.add(row * inputs + input));
                for (sum, widened) in sums.iter_mut().zip(widened) {
                    *sum = _mm512_fmadd_ps(widened, x, *sum);
                }
            }
        }
    }
    for (index, sums) in sums.iter().enumerate() {
        for (wide, sums) in sums.iter().enumerate() {
            let mut numbers = [0.0; PANEL];
            let column = job.first_column + (panel + wide) * PANEL;
            // SAFETY: `numbers` has room for the register; the columns belong to this job alone.
            unsafe {
                _mm512_storeu_ps(numbers.as_mut_ptr(), *sums);
                job.columns.write(row + index, column, &numbers);
            }
        }
    }
}

const MAX_ROWS: usize = 12;

/// Panels that many rows are multiplied with at a time.
const MAX_WIDE_PANELS: usize = 3;
