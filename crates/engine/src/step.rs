//! The input of one forward pass: tokens of many sequences in one flat list.

use std::sync::Arc;

use crate::adapter::{self, Adapter, Group};
use crate::blocks::Block;

/// One ragged step. Rows are tokens; the rows of a sequence are consecutive and in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    /// Token id of each row.
    pub(crate) tokens: Vec<u32>,
    /// Position of each row in its sequence; it attends positions `0..=position`.
    pub(crate) positions: Vec<u32>,
    /// Where each row's keys and values go: block times block size plus offset.
    pub(crate) slots: Vec<u32>,
    /// Where each row's block table begins in `tables`.
    pub(crate) table_starts: Vec<u32>,
    /// Block tables of all sequences, one after the other.
    pub(crate) tables: Vec<Block>,
    /// Rows whose logits are wanted, ascending.
    pub(crate) sampled: Vec<u32>,
    /// Rows that ask for adapters.
    pub(crate) groups: Vec<Group>,
}

impl Step {
    /// Adds `tokens` of a sequence that stand at positions from `first` on. The logits of the last `sampled` of
    /// them are wanted.
    pub(crate) fn push(&mut self, tokens: &[u32], first: u32, blocks: Blocks<'_>, sampled: u32) {
        let table_start = self.tables.len() as u32;
        for (position, &token) in (first..).zip(tokens) {
            let block = blocks.table[(position / blocks.block_tokens) as usize];
            self.tokens.push(token);
            self.positions.push(position);
            self.slots.push(block * blocks.block_tokens + position % blocks.block_tokens);
            self.table_starts.push(table_start);
        }
        let used = (first + tokens.len() as u32).div_ceil(blocks.block_tokens) as usize;
        self.tables.extend_from_slice(&blocks.table[..used]);
        let end = self.tokens.len() as u32;
        self.sampled.extend(end - sampled..end);
    }

    /// Has `adapter` added to the last `count` rows.
    pub(crate) fn adapt(&mut self, adapter: &Arc<Adapter>, count: u32) {
        let first = self.tokens.len() as u32 - count;
        adapter::group(&mut self.groups, adapter, first, count);
    }
}

/// The blocks of one sequence, in order of position.
#[derive(Clone, Copy)]
pub(crate) struct Blocks<'a> {
    pub(crate) table: &'a [Block],
    pub(crate) block_tokens: u32,
}
