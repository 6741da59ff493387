//! Copies what a block of the cache holds out of it and into it, as other engines of the same model keep it:
//! layer after layer, keys and then values, in the cache's own precision and order, little end first.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor};
use half::f16;

use super::KvCache;
use crate::blocks::Block;

impl KvCache {
    /// What a block holds.
    pub(crate) fn read_block(&self, block: Block) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(self.block_bytes());
        for tensor in self.tensors() {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cpu(CpuStorage::F16(numbers)) = &*storage else {
                candle_core::bail!("expected an f16 tensor on the CPU")
            };
            let (start, width) = place(tensor, layout, block)?;
            for number in &numbers[start..start + width] {
                content.extend_from_slice(&number.to_le_bytes());
            }
        }
        Ok(content)
    }

    /// Puts `content` into a block that nobody reads. Content of another length is refused.
    pub(crate) fn write_block(&self, block: Block, content: &[u8]) -> Result<()> {
        if content.len() != self.block_bytes() {
            candle_core::bail!("{} bytes for a block of {}", content.len(), self.block_bytes());
        }
        let mut rest = content;
        for tensor in self.tensors() {
            let (piece, after) = rest.split_at(numbers_of_one(tensor)? * size_of::<f16>());
            tensor.inplace_op1(&Put { tensor, block, piece })?;
            rest = after;
        }
        Ok(())
    }

    /// What a block takes.
    pub(crate) fn block_bytes(&self) -> usize {
        let numbers = |tensor: &Tensor| numbers_of_one(tensor).unwrap_or(0);
        self.tensors().map(numbers).sum::<usize>() * size_of::<f16>()
    }

    /// Keys and values of each layer.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.keys.iter().zip(&self.values).flat_map(|(keys, values)| [keys, values])
    }
}

/// Overwrites one block.
struct Put<'a> {
    tensor: &'a Tensor,
    block: Block,
    piece: &'a [u8],
}

impl InplaceOp1 for Put<'_> {
    fn name(&self) -> &'static str {
        "put-block"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F16(numbers) = storage else {
            candle_core::bail!("expected an f16 tensor")
        };
        let (start, width) = place(self.tensor, layout, self.block)?;
        let pairs = self.piece.chunks_exact(size_of::<f16>());
        for (number, bytes) in numbers[start..start + width].iter_mut().zip(pairs) {
            *number = f16::from_le_bytes([bytes[0], bytes[1]]);
        }
        Ok(())
    }
}

/// Where a block's numbers begin in the storage of a tensor, and how many they are.
fn place(tensor: &Tensor, layout: &Layout, block: Block) -> Result<(usize, usize)> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("the cache is not contiguous")
    };
    let width = numbers_of_one(tensor)?;
    let first = start + block as usize * width;
    if first + width > end {
        candle_core::bail!("there is no block {block}");
    }
    Ok((first, width))
}

/// The numbers of one block in a tensor.
fn numbers_of_one(tensor: &Tensor) -> Result<usize> {
    let (_, heads, rows, columns) = tensor.dims4()?;
    Ok(heads * rows * columns)
}
