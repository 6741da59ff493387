//! The arithmetic of a forward pass on the CPU, as candle operations.
//!
//! Promise: each output row depends on its own input row (and its own sequence's KV blocks) alone, bit for
//! bit: every sum runs in one order that knows nothing of the other rows, the threads or the chunking. The
//! vector and the portable code are the same code or the same order with fused multiply-add, so machines
//! agree too.
//!
//! Tensors are contiguous `f32`, keys and values `f16`; anything else is an error, never a copy.

#![expect(
    clippy::inline_always,
    reason = "a kernel that is not inlined into its AVX2 version is compiled without AVX2"
)]

pub(crate) mod attention;
pub(crate) mod bench;
pub(crate) mod dense;
pub(crate) mod gate;
pub(crate) mod linear;
pub(crate) mod low_rank;
pub(crate) mod norm;
mod pool;
pub(crate) mod rope;
mod vector;
pub(crate) mod weigh;

pub(crate) use pool::Pool;

use std::marker::PhantomData;

use candle_core::{CpuStorage, Layout, Result};
use half::f16;

/// A buffer of which several threads write a piece each.
struct Pieces<'a, T> {
    start: *mut T,
    width: usize,
    count: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: pieces are disjoint, and whoever asks for one promises to be the only one.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    /// Pieces of `width` numbers.
    fn new(buffer: &'a mut [T], width: usize) -> Self {
        let count = buffer.len() / width;
        Self { start: buffer.as_mut_ptr(), width, count, buffer: PhantomData }
    }

    /// # Safety
    /// No other reference to this piece may be alive.
    #[expect(clippy::mut_from_ref, reason = "pieces are disjoint; see above")]
    unsafe fn piece(&self, index: usize) -> &mut [T] {
        assert!(index < self.count, "piece {index} of {}", self.count);
        // SAFETY: the piece lies inside the buffer, and the caller is the only one who has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.width), self.width) }
    }
}

/// Squeezes numbers into `-cap..cap`: `cap * tanh(x / cap)`.
pub(crate) fn softcap(numbers: &mut [f32], cap: f32) {
    vector::run(Softcap { numbers, cap });
}

struct Softcap<'a> {
    numbers: &'a mut [f32],
    cap: f32,
}

impl vector::Kernel for Softcap<'_> {
    #[inline(always)]
    fn run<M: vector::Machine>(self) {
        for number in self.numbers {
            *number = self.cap * vector::tanh(*number / self.cap);
        }
    }
}

/// Fewer numbers are touched sooner by one thread than a second one is told of them.
const NUMBERS_WORTH_SHARING: usize = 2_048;

/// The numbers of a contiguous `f32` tensor.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let range = contiguous(layout)?;
    Ok(&storage.as_slice::<f32>()?[range])
}

/// The numbers of a contiguous `f16` tensor.
fn halves<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f16]> {
    let range = contiguous(layout)?;
    Ok(&storage.as_slice::<f16>()?[range])
}

/// The numbers of a contiguous `f16` tensor, to be changed in place.
fn halves_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f16]> {
    let range = contiguous(layout)?;
    match storage {
        CpuStorage::F16(numbers) => Ok(&mut numbers[range]),
        _ => candle_core::bail!("expected an f16 tensor"),
    }
}

/// The numbers of a contiguous `f32` tensor, to be changed in place.
fn numbers_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let range = contiguous(layout)?;
    match storage {
        CpuStorage::F32(numbers) => Ok(&mut numbers[range]),
        _ => candle_core::bail!("expected an f32 tensor"),
    }
}

fn contiguous(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("expected a contiguous tensor, not {layout:?}"),
    }
}

/// Asks for large pages behind a buffer that nobody has touched yet: blocks of keys and values lie all over
/// a cache, and with small pages every one of them costs a walk of the page tables. Changes nothing but the
/// time, and nothing at all where the system does not offer it.
pub(crate) fn prefer_large_pages<T>(buffer: &[T]) {
    #[cfg(target_os = "linux")]
    {
        let bytes = size_of_val(buffer);
        let unaligned = buffer.as_ptr().addr() % PAGE_BYTES;
        let skipped = (PAGE_BYTES - unaligned) % PAGE_BYTES;
        if bytes > skipped + PAGE_BYTES {
            // SAFETY: the range lies inside the buffer, and this advice does not change its content.
            unsafe {
                let start = buffer.as_ptr().byte_add(skipped).cast_mut();
                libc::madvise(start.cast(), bytes - skipped, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

/// The same for an `f16` tensor on the CPU.
pub(crate) fn prefer_large_pages_behind(tensor: &candle_core::Tensor) {
    let (storage, _) = tensor.storage_and_layout();
    if let candle_core::Storage::Cpu(candle_core::CpuStorage::F16(numbers)) = &*storage {
        prefer_large_pages(numbers);
    }
}

#[cfg(target_os = "linux")]
const PAGE_BYTES: usize = 4096;
