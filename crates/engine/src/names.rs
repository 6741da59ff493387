//! The names of what a sequence's blocks hold, as its text grows.

use domain::{BlockHash, BlockNames};

/// The names of all full blocks of a text that only grows.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    next: BlockNames,
    block_tokens: u32,
    named: Vec<BlockHash>,
}

impl Names {
    /// Names that begin with `first`, for blocks of `block_tokens`.
    pub(crate) const fn new(first: BlockNames, block_tokens: u32) -> Self {
        Self { next: first, block_tokens, named: Vec::new() }
    }

    pub(crate) const fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Names the blocks of `text` that became full; it begins with what was named before.
    pub(crate) fn follow(&mut self, text: &[u32]) {
        let named = self.named.len() * self.block_tokens as usize;
        for block in text[named..].chunks_exact(self.block_tokens as usize) {
            let name = self.next.next(block);
            self.named.push(name);
        }
    }

    /// The names so far.
    pub(crate) fn all(&self) -> &[BlockHash] {
        &self.named
    }

    /// The names of blocks that can take the place of computing, for a text of `tokens`: its last token is
    /// always computed, because its logits are wanted.
    pub(crate) fn usable(&self, tokens: u32) -> &[BlockHash] {
        let blocks = (tokens.saturating_sub(1) / self.block_tokens) as usize;
        &self.named[..blocks.min(self.named.len())]
    }
}
