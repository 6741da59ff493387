//! What others ask of the cache, done by the step thread between two steps, for a bounded time: a step waits for
//! little more than that.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::BlockHash;
use tokio::sync::oneshot;

use crate::blocks::BlockPool;
use crate::models::KvCache;

/// One thing to do, and who waits for it.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Tell how many of these blocks are there, up to the first that is not, and keep them: they are used.
    Count(Vec<BlockHash>, oneshot::Sender<usize>),
    /// Tell what a block holds, if it is there.
    Export(BlockHash, oneshot::Sender<Option<Vec<u8>>>),
    /// Take up what a block holds; whether it is there now.
    Import(BlockHash, Vec<u8>, oneshot::Sender<bool>),
}

/// The errands that are still to be done, a bounded number; nothing once nobody does any.
#[derive(Debug)]
pub(crate) struct Errands(Mutex<Option<VecDeque<Errand>>>);

impl Errands {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Some(VecDeque::new())))
    }

    /// Leaves an errand; one too many is dropped, and who waits for it hears that.
    pub(crate) fn leave(&self, errand: Errand) {
        let mut waiting = self.lock();
        if let Some(waiting) = waiting.as_mut().filter(|waiting| waiting.len() < MAX_ERRANDS) {
            waiting.push_back(errand);
        }
    }

    /// The next errand, and whether there are more.
    pub(crate) fn take(&self) -> Option<(Errand, bool)> {
        let mut waiting = self.lock();
        let waiting = waiting.as_mut()?;
        let errand = waiting.pop_front()?;
        Some((errand, !waiting.is_empty()))
    }

    /// Drops what will not be done any more, and what will be left from now on.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<Errand>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Errand {
    /// Does it. Who does not wait any more is not told.
    pub(crate) fn run(self, cache: &KvCache, blocks: &mut BlockPool) {
        match self {
            Self::Count(names, told) => {
                let found = blocks.find(&names);
                blocks.hold(&found);
                blocks.give_back(&found);
                let _ = told.send(found.len());
            }
            Self::Export(name, told) => {
                let found = blocks.find(&[name]).first().copied();
                let content = found.and_then(|block| logged(cache.read_block(block)));
                let _ = told.send(content);
            }
            Self::Import(name, content, told) => {
                let _ = told.send(import(cache, blocks, name, &content));
            }
        }
    }
}

fn import(cache: &KvCache, blocks: &mut BlockPool, name: BlockHash, content: &[u8]) -> bool {
    if !blocks.find(&[name]).is_empty() {
        return true;
    }
    let Some(taken) = blocks.take(1) else { return false };
    let block = taken[0];
    let written = logged(cache.write_block(block, content)).is_some();
    if written {
        blocks.name(block, name);
    }
    blocks.give_back(&taken);
    written
}

fn logged<T>(result: candle_core::Result<T>) -> Option<T> {
    result.inspect_err(|error| tracing::error!(error = %error, "block not copied")).ok()
}

const MAX_ERRANDS: usize = 256;
