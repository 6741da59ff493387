//! Compiles one kernel for AVX-512, for AVX2 and for any machine, and chooses at run time.
//!
//! Kernels are plain loops over fixed-size arrays with `mul_add`; all versions round alike.

use half::f16;

/// A kernel; `run` must be `#[inline(always)]`, or the AVX2 version is compiled without AVX2.
pub(super) trait Kernel {
    fn run<M: Machine>(self);
}

/// What no plain loop compiles to.
pub(super) trait Machine {
    /// Makes `f32` of 16 numbers; exact, so machines agree.
    fn widen(numbers: &[f16; LANES]) -> [f32; LANES];
}

struct AnyMachine;

impl Machine for AnyMachine {
    fn widen(numbers: &[f16; LANES]) -> [f32; LANES] {
        numbers.map(f16::to_f32)
    }
}

/// Only for code inside [`run_avx2`].
#[cfg(target_arch = "x86_64")]
struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Machine for Avx2 {
    #[inline(always)]
    fn widen(numbers: &[f16; LANES]) -> [f32; LANES] {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        let mut wide = [0.0; LANES];
        let (from, to) = (numbers.as_ptr(), wide.as_mut_ptr());
        // SAFETY: both halves lie inside, and whoever runs this has found that the machine has F16C.
        unsafe {
            _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(from.cast())));
            _mm256_storeu_ps(to.add(8), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())));
        }
        wide
    }
}

/// Only for code inside [`run_avx512`].
#[cfg(target_arch = "x86_64")]
struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Machine for Avx512 {
    #[inline(always)]
    fn widen(numbers: &[f16; LANES]) -> [f32; LANES] {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
        let mut wide = [0.0; LANES];
        // SAFETY: all of it lies inside, and whoever runs this has found that the machine has AVX-512F.
        unsafe {
            let half = _mm256_loadu_si256(numbers.as_ptr().cast());
            _mm512_storeu_ps(wide.as_mut_ptr(), _mm512_cvtph_ps(half));
        }
        wide
    }
}

/// Runs `kernel` in the widest version this machine has.
pub(super) fn run(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the machine was just found to have these features.
        return unsafe { run_avx512(kernel) };
    }
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the machine was just found to have these features.
        return unsafe { run_avx2(kernel) };
    }
    kernel.run::<AnyMachine>();
}

/// Whether AVX2, FMA and F16C can be used.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Whether AVX-512 with 16-bit and narrower forms can be used, and everything of AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
fn run_avx512(kernel: impl Kernel) {
    kernel.run::<Avx512>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run::<Avx2>();
}

/// e to the `x`, for `x` up to 88; relative error below 3e-7. Smaller than -87 counts as -87, and what is
/// no number stays none.
///
/// The reduction and polynomial are those of Cephes' `expf` (Moshier).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = if x < MIN_EXPONENT { MIN_EXPONENT } else { x };
    let x = if x > MAX_EXPONENT { MAX_EXPONENT } else { x };
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_6e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()).wrapping_add(127);
    y * f32::from_bits(exponent << 23)
}

/// The hyperbolic tangent; absolute error below 3e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Beyond this it is 1 to all digits, and the exponential would overflow.
    let x = x.clamp(-LARGEST_TANGENT, LARGEST_TANGENT);
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The error function; absolute error below 2e-7 (Abramowitz and Stegun, 7.1.26, is good to 1.5e-7 before
/// rounding).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let size = x.abs();
    let t = 1.0 / 0.327_591_1_f32.mul_add(size, 1.0);
    let mut p = 1.061_405_4_f32;
    p = p.mul_add(t, -1.453_152);
    p = p.mul_add(t, 1.421_413_7);
    p = p.mul_add(t, -0.284_496_74);
    p = p.mul_add(t, 0.254_829_6);
    let found = (-p * t).mul_add(exp(-size * size), 1.0);
    if x < 0.0 { -found } else { found }
}

/// The sum of 16 lanes, always in this order.
#[inline(always)]
pub(super) fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Asks for what lies there to be brought into the cache; changes nothing but the time.
#[inline(always)]
pub(super) fn prefetch<T>(numbers: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching has no effect on memory, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(numbers.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Numbers that kernels work on side by side: two AVX2 registers.
pub(super) const LANES: usize = 16;

const LARGEST_TANGENT: f32 = 10.0;
const MIN_EXPONENT: f32 = -87.0;
const MAX_EXPONENT: f32 = 88.0;
const ROUNDER: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_right_to_six_digits() {
        for step in -30_000..30_000 {
            let x = step as f32 * 1e-3;
            let error = (f64::from(tanh(x)) - f64::from(x).tanh()).abs();
            assert!(error < 3e-7, "tanh({x}) is off by {error}");
        }
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_right_to_six_digits() {
        // From the tables.
        for (x, expected) in [
            (0.0, 0.0),
            (0.1, 0.112_462_916),
            (0.5, 0.520_499_878),
            (1.0, 0.842_700_793),
            (2.0, 0.995_322_265),
            (3.5, 0.999_999_257),
        ] {
            assert!((f64::from(erf(x)) - expected).abs() < 4e-7, "erf({x}) is {}", erf(x));
            assert!(x == 0.0 || erf(-x) == -erf(x));
        }
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_right_to_seven_digits() {
        for step in 0..175_000 {
            let x = -87.0 + step as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }
}
