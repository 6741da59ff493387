//! Hands out KV blocks, counts who holds them, and keeps what they hold findable for as long as there is room.
//!
//! A block that is full and computed gets the name of what it holds ([`BlockHash`]: model, tenant, and every
//! token up to its end). Whoever's text begins alike finds it and holds it too. When nobody holds it any more it
//! stays known, and is given out anew only when no nameless block is left: the one that was used least
//! recently first.
//!
//! Nobody writes into a block with a name: a sequence writes only positions after what it found, and those are in
//! blocks of its own. So sharing needs no copying on write. What two texts share of a block that is not full they
//! compute twice, which is less than a block's worth.
//!
//! Invariant: a block is free exactly when nobody holds it. A holder gives back what it took; nothing is
//! given back by being dropped. A name stands for one block.

use std::collections::{BTreeMap, HashMap};

use domain::BlockHash;

/// The number of a block in the KV cache.
pub(crate) type Block = u32;

/// All blocks of one KV cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Entry>,
    /// Blocks without holders and names; the last one is given out next, so that warm memory is used again.
    nameless: Vec<Block>,
    /// Blocks with names and without holders, by when they were used last.
    unused: BTreeMap<u64, Block>,
    known: HashMap<BlockHash, Block>,
    /// Counts the uses.
    uses: u64,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    holders: u32,
    name: Option<BlockHash>,
    last_use: u64,
}

/// A block became known, or is known no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Known(BlockHash),
    Gone(BlockHash),
}

impl BlockPool {
    pub(crate) fn new(total: u32) -> Self {
        Self {
            blocks: vec![Entry::default(); total as usize],
            nameless: (0..total).rev().collect(),
            unused: BTreeMap::new(),
            known: HashMap::new(),
            uses: 0,
            changes: Vec::new(),
        }
    }

    pub(crate) fn total(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Blocks without holders, known ones included.
    pub(crate) fn free(&self) -> u32 {
        (self.nameless.len() + self.unused.len()) as u32
    }

    /// Blocks with names.
    pub(crate) fn known(&self) -> u32 {
        self.known.len() as u32
    }

    /// Takes `count` blocks with one holder each: all of them or none. What they held is known no longer.
    pub(crate) fn take(&mut self, count: u32) -> Option<Vec<Block>> {
        if count > self.free() {
            return None;
        }
        let rest = self.nameless.len().saturating_sub(count as usize);
        let mut taken = self.nameless.split_off(rest);
        while taken.len() < count as usize {
            let (_, block) = self.unused.pop_first()?;
            self.lose_name(block);
            taken.push(block);
        }
        for &block in &taken {
            self.blocks[block as usize].holders = 1;
        }
        Some(taken)
    }

    /// The blocks of these names, up to the first that is not known.
    pub(crate) fn find(&self, names: &[BlockHash]) -> Vec<Block> {
        names.iter().map_while(|name| self.known.get(name).copied()).collect()
    }

    /// How many of these blocks nobody holds.
    pub(crate) fn unheld(&self, blocks: &[Block]) -> u32 {
        blocks.iter().filter(|block| self.blocks[**block as usize].holders == 0).count() as u32
    }

    /// Adds a holder to blocks that are held already, or known.
    pub(crate) fn hold(&mut self, blocks: &[Block]) {
        for &block in blocks {
            let entry = &mut self.blocks[block as usize];
            if entry.holders == 0 {
                debug_assert!(entry.name.is_some(), "block {block} is free");
                self.unused.remove(&entry.last_use);
            }
            entry.holders += 1;
        }
    }

    /// Removes one holder from each block of a sequence, which come in its order: the last of them is
    /// given out first, because those before it are of use without it, and not the other way round.
    pub(crate) fn give_back(&mut self, blocks: &[Block]) {
        for &block in blocks.iter().rev() {
            let entry = &mut self.blocks[block as usize];
            debug_assert!(entry.holders > 0, "block {block} is free already");
            entry.holders -= 1;
            if entry.holders > 0 {
                continue;
            }
            if entry.name.is_some() {
                self.uses += 1;
                entry.last_use = self.uses;
                self.unused.insert(self.uses, block);
            } else {
                self.nameless.push(block);
            }
        }
    }

    /// Makes a held block known by the name of what it holds: from now on nobody may write into it. If
    /// another block has the name, that one keeps it.
    pub(crate) fn name(&mut self, block: Block, name: BlockHash) {
        let entry = &mut self.blocks[block as usize];
        debug_assert!(entry.holders > 0, "block {block} is free");
        debug_assert!(entry.name.is_none(), "block {block} has a name");
        if self.known.contains_key(&name) {
            return;
        }
        entry.name = Some(name);
        self.known.insert(name, block);
        self.changes.push(Change::Known(name));
    }

    /// Nobody is to find these held blocks any more: what they hold may be wrong.
    pub(crate) fn distrust(&mut self, blocks: &[Block]) {
        for &block in blocks {
            debug_assert!(self.blocks[block as usize].holders > 0, "block {block} is free");
            self.lose_name(block);
        }
    }

    /// What became known and what is no longer, since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn lose_name(&mut self, block: Block) {
        if let Some(name) = self.blocks[block as usize].name.take() {
            self.known.remove(&name);
            self.changes.push(Change::Gone(name));
        }
    }
}

#[cfg(test)]
mod tests;
