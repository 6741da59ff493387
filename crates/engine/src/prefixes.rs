//! Tells whoever wants to know which blocks the cache holds: all of them first, then what changes.
//!
//! Promise: whoever follows the changes knows what the cache holds, as of the last one. A reader too slow for
//! the changes is told everything anew; nothing piles up for it, and the step thread never waits for it. The
//! lock is held for as long as it takes to copy eight bytes for each block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::blocks::Change;

/// What changed in the cache. Blocks go by [`domain::BlockHash::short`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheChange {
    /// Forget everything that was said before.
    pub reset: bool,
    /// Blocks it holds now.
    pub added: Vec<u64>,
    /// Blocks it no longer holds.
    pub removed: Vec<u64>,
}

/// Where the step thread says what changed.
#[derive(Debug)]
pub(crate) struct Prefixes(Mutex<Told>);

#[derive(Debug)]
struct Told {
    held: BTreeSet<u64>,
    /// Absent once nothing can change any more.
    changes: Option<broadcast::Sender<CacheChange>>,
}

impl Prefixes {
    pub(crate) fn new() -> Self {
        let changes = Some(broadcast::Sender::new(CHANGES_KEPT));
        Self(Mutex::new(Told { held: BTreeSet::new(), changes }))
    }

    /// Tells the readers what came of `changes`, in their order.
    pub(crate) fn tell(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let ends = changes.iter().map(|change| match change {
            Change::Known(name) => (name.short(), true),
            Change::Gone(name) => (name.short(), false),
        });
        let mut told = self.lock();
        let mut change = CacheChange::default();
        for (block, held) in ends.collect::<BTreeMap<_, _>>() {
            if held && told.held.insert(block) {
                change.added.push(block);
            } else if !held && told.held.remove(&block) {
                change.removed.push(block);
            }
        }
        if let Some(changes) = told.changes.as_ref().filter(|_| change != CacheChange::default()) {
            // That nobody listens is no failure.
            let _ = changes.send(change);
        }
    }

    /// Nothing changes any more: readers are at their end.
    pub(crate) fn close(&self) {
        self.lock().changes = None;
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of what the cache holds.
#[derive(Debug)]
pub struct CachedBlocks {
    prefixes: Arc<Prefixes>,
    /// Absent until everything was told.
    changes: Option<broadcast::Receiver<CacheChange>>,
}

impl CachedBlocks {
    pub(crate) const fn new(prefixes: Arc<Prefixes>) -> Self {
        Self { prefixes, changes: None }
    }

    /// Everything at first and after missing something, else the next change; `None` when the engine has ended.
    /// Safe to drop and call again.
    pub async fn next(&mut self) -> Option<CacheChange> {
        let Some(changes) = &mut self.changes else { return self.everything() };
        match changes.recv().await {
            Ok(change) => Some(change),
            Err(RecvError::Lagged(_)) => self.everything(),
            Err(RecvError::Closed) => None,
        }
    }

    fn everything(&mut self) -> Option<CacheChange> {
        let told = self.prefixes.lock();
        // Under the lock, so that no change comes between the two.
        self.changes = Some(told.changes.as_ref()?.subscribe());
        let added = told.held.iter().copied().collect();
        Some(CacheChange { reset: true, added, removed: Vec::new() })
    }
}

/// Changes kept for a slow reader, of a step each.
const CHANGES_KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use domain::BlockHash;
    use proptest::prelude::*;

    use super::*;

    fn apply(known: &mut BTreeSet<u64>, change: CacheChange) {
        if change.reset {
            known.clear();
        }
        known.extend(change.added);
        known.retain(|block| !change.removed.contains(block));
    }

    fn name(number: u8) -> BlockHash {
        BlockHash::from_bytes([number; 32])
    }

    proptest! {
        #[test]
        fn whoever_follows_knows_what_is_held(
            steps in prop::collection::vec(prop::collection::vec((0..9_u8, any::<bool>()), 0..5), 0..900),
            read_every in 1..600_usize,
        ) {
            let prefixes = Arc::new(Prefixes::new());
            let mut reader = CachedBlocks::new(Arc::clone(&prefixes));
            let (mut held, mut known) = (BTreeSet::new(), BTreeSet::new());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for (index, step) in steps.iter().enumerate() {
                let mut changes = Vec::new();
                for &(number, comes) in step {
                    if comes && held.insert(name(number).short()) {
                        changes.push(Change::Known(name(number)));
                    } else if !comes && held.remove(&name(number).short()) {
                        changes.push(Change::Gone(name(number)));
                    }
                }
                prefixes.tell(&changes);
                if index % read_every == 0 || index + 1 == steps.len() {
                    runtime.block_on(async {
                        while let Ok(change) = tokio::time::timeout(std::time::Duration::ZERO, reader.next()).await {
                            apply(&mut known, change.unwrap());
                        }
                    });
                    prop_assert_eq!(&known, &held);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_reader_is_at_its_end_when_nothing_changes_any_more() {
        let prefixes = Arc::new(Prefixes::new());
        let mut reader = CachedBlocks::new(Arc::clone(&prefixes));
        assert!(reader.next().await.unwrap().reset);

        prefixes.close();

        assert_eq!(reader.next().await, None);
    }
}
