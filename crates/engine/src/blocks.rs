//! Hands out KV blocks and counts who holds them.
//!
//! Invariant: a block is free exactly when nobody holds it. A holder gives back what it took; nothing is
//! given back by being dropped.

/// The number of a block in the KV cache.
pub(crate) type Block = u32;

/// All blocks of one KV cache.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// Holders of each block.
    holders: Vec<u32>,
    /// Blocks without holders; the last one is given out next, so that warm memory is used again.
    free: Vec<Block>,
}

impl BlockPool {
    pub(crate) fn new(total: u32) -> Self {
        Self { holders: vec![0; total as usize], free: (0..total).rev().collect() }
    }

    pub(crate) fn total(&self) -> u32 {
        self.holders.len() as u32
    }

    pub(crate) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Takes `count` blocks with one holder each: all of them or none.
    pub(crate) fn take(&mut self, count: u32) -> Option<Vec<Block>> {
        let rest = self.free.len().checked_sub(count as usize)?;
        let taken = self.free.split_off(rest);
        for &block in &taken {
            self.holders[block as usize] = 1;
        }
        Some(taken)
    }

    /// Adds a holder to blocks that are held already.
    #[cfg_attr(not(test), expect(dead_code, reason = "prefix sharing is the caller to come"))]
    pub(crate) fn share(&mut self, blocks: &[Block]) {
        for &block in blocks {
            debug_assert!(self.holders[block as usize] > 0, "block {block} is free");
            self.holders[block as usize] += 1;
        }
    }

    /// Removes one holder from each block; the last block of a sequence is used again first.
    pub(crate) fn give_back(&mut self, blocks: &[Block]) {
        for &block in blocks {
            let holders = &mut self.holders[block as usize];
            debug_assert!(*holders > 0, "block {block} is free already");
            *holders -= 1;
            if *holders == 0 {
                self.free.push(block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Take(u32),
        Share(usize),
        GiveBack(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            (0..12_u32).prop_map(Act::Take),
            any::<usize>().prop_map(Act::Share),
            any::<usize>().prop_map(Act::GiveBack),
        ];
        prop::collection::vec(act, 0..80)
    }

    proptest! {
        #[test]
        fn every_block_is_free_or_held_and_all_come_back(acts in acts()) {
            let mut pool = BlockPool::new(24);
            let mut holds: Vec<Vec<Block>> = Vec::new();
            for act in acts {
                match act {
                    Act::Take(count) => {
                        let room = pool.free() >= count;
                        let taken = pool.take(count);
                        prop_assert_eq!(taken.is_some(), room, "all or none");
                        holds.extend(taken);
                    }
                    Act::Share(pick) if !holds.is_empty() => {
                        let hold = holds[pick % holds.len()].clone();
                        pool.share(&hold);
                        holds.push(hold);
                    }
                    Act::GiveBack(pick) if !holds.is_empty() => {
                        let index = pick % holds.len();
                        pool.give_back(&holds.swap_remove(index));
                    }
                    Act::Share(_) | Act::GiveBack(_) => {}
                }
                let mut held: Vec<Block> = holds.concat();
                held.sort_unstable();
                held.dedup();
                prop_assert_eq!(pool.free() as usize + held.len(), 24);
                prop_assert!(held.iter().all(|block| !pool.free.contains(block)));
            }
            for hold in holds {
                pool.give_back(&hold);
            }
            prop_assert_eq!(pool.free(), pool.total());
        }
    }
}
