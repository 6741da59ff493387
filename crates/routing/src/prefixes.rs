//! Which workers hold which prefix, by what they push.
//!
//! One index over all workers, from a block's short name to who holds it, so that a look-up costs the
//! logarithm of the prompt's length and not the number of workers: names are chained, so whoever holds a block holds
//! those before it, and holders only get fewer along a prompt. What is found is a guess: a block may
//! have gone since, and the worker computes it then.
//!
//! A worker tells of a prompt when it has computed it. Those that share it and come meanwhile would be computed
//! elsewhere too; so a prompt that was sent to a worker is expected there, as if it had told, for as long as its
//! sequence is there. Nothing is expected of a worker that never told of a block.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use proto::PrefixChange;

/// Who holds which block.
pub(crate) struct Prefixes {
    shards: Vec<RwLock<Shard>>,
    /// The blocks of each worker, to forget them all.
    held: RwLock<HashMap<u32, Mutex<Blocks>>>,
    /// How many that are over all workers, to know without looking whether prompts need names at all.
    blocks: AtomicUsize,
}

/// The blocks of one worker.
#[derive(Default)]
struct Blocks {
    /// What it told of.
    told: HashSet<u64, AsIs>,
    /// What it did not tell of yet, and how many sequences there are to bring it.
    expected: HashMap<u64, u32, AsIs>,
    /// It told of a block once: it keeps prefixes at all.
    keeps: bool,
}

/// The blocks of a prompt that was sent to a worker. Dropping it takes back what the worker did not confirm.
pub(crate) struct Expected {
    prefixes: Arc<Prefixes>,
    worker: u32,
    names: Arc<[u64]>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.prefixes.give_up(self.worker, &self.names);
    }
}

type Shard = HashMap<u64, Holders, AsIs>;
type AsIs = BuildHasherDefault<NameHasher>;

/// How many blocks of a prompt, from its beginning, workers hold: the most first.
pub(crate) type Matches = Vec<(u32, u32)>;

enum Holders {
    One(u32),
    Several(Vec<u32>),
}

impl Holders {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

impl Default for Prefixes {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, held: RwLock::default(), blocks: AtomicUsize::new(0) }
    }
}

impl Prefixes {
    /// Takes in what `worker` says that changed.
    pub(crate) fn learn(&self, worker: u32, change: &PrefixChange) {
        if change.reset {
            self.forget(worker);
        }
        let known = |held: &HashMap<_, _>| held.contains_key(&worker);
        if !known(&self.held.read().unwrap_or_else(PoisonError::into_inner)) {
            self.held.write().unwrap_or_else(PoisonError::into_inner).entry(worker).or_default();
        }
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let Some(blocks) = held.get(&worker) else { return };
        let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &change.removed {
            let was_told = blocks.told.remove(name);
            let was_expected = blocks.expected.remove(name).is_some();
            if was_told {
                self.blocks.fetch_sub(1, Ordering::Relaxed);
            }
            if was_told || was_expected {
                self.remove(worker, *name);
            }
        }
        blocks.keeps |= !change.added.is_empty();
        for name in &change.added {
            if blocks.told.len() < MAX_BLOCKS && blocks.told.insert(*name) {
                self.blocks.fetch_add(1, Ordering::Relaxed);
                if blocks.expected.remove(name).is_none() {
                    self.add(worker, *name);
                }
            }
        }
    }

    /// A prompt with these names was sent to `worker`.
    pub(crate) fn expect(self: &Arc<Self>, worker: u32, names: &Arc<[u64]>) -> Option<Expected> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let mut blocks = held.get(&worker)?.lock().unwrap_or_else(PoisonError::into_inner);
        if !blocks.keeps || names.is_empty() {
            return None;
        }
        let Blocks { told, expected, .. } = &mut *blocks;
        for name in names.iter().filter(|name| !told.contains(name)) {
            if let Some(sequences) = expected.get_mut(name) {
                *sequences += 1;
            } else if expected.len() < MAX_EXPECTED {
                expected.insert(*name, 1);
                self.add(worker, *name);
            } else {
                // What comes after it cannot be found without it.
                break;
            }
        }
        Some(Expected { prefixes: Arc::clone(self), worker, names: Arc::clone(names) })
    }

    /// A sequence with these names is no longer on `worker`.
    fn give_up(&self, worker: u32, names: &[u64]) {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let Some(blocks) = held.get(&worker) else { return };
        let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let Some(sequences) = blocks.expected.get_mut(name) else { continue };
            *sequences -= 1;
            if *sequences == 0 {
                blocks.expected.remove(name);
                self.remove(worker, *name);
            }
        }
    }

    /// Nothing is known of `worker` any more.
    pub(crate) fn forget(&self, worker: u32) {
        let blocks = self.held.write().unwrap_or_else(PoisonError::into_inner).remove(&worker);
        let Some(blocks) = blocks else { return };
        let Blocks { told, expected, .. } =
            blocks.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.blocks.fetch_sub(told.len(), Ordering::Relaxed);
        for name in told.into_iter().chain(expected.into_keys()) {
            self.remove(worker, name);
        }
    }

    /// Whether nobody told of anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.load(Ordering::Relaxed) == 0
    }

    /// Who holds how much of a prompt whose blocks have these names.
    pub(crate) fn find(&self, names: &[u64]) -> Matches {
        let mut found = Matches::new();
        let mut seen = HashSet::new();
        let mut end = names.len();
        // From the longest match down: each round finds the next shorter length at which somebody's ends.
        for _ in 0..MAX_LENGTHS {
            let longer = found.len();
            let depth = names[..end].partition_point(|name| self.count(*name) > longer);
            let Some(last) = depth.checked_sub(1) else { break };
            self.with(names[last], |holders| {
                let fresh = holders.iter().filter(|holder| seen.insert(**holder));
                found.extend(fresh.map(|holder| (*holder, depth as u32)));
            });
            end = last;
        }
        found
    }

    fn count(&self, name: u64) -> usize {
        self.with(name, <[u32]>::len)
    }

    fn with<T>(&self, name: u64, read: impl FnOnce(&[u32]) -> T) -> T {
        let shard = self.shard(name).read().unwrap_or_else(PoisonError::into_inner);
        read(shard.get(&name).map_or(&[], Holders::as_slice))
    }

    fn add(&self, worker: u32, name: u64) {
        let mut shard = self.shard(name).write().unwrap_or_else(PoisonError::into_inner);
        match shard.get_mut(&name) {
            None => {
                shard.insert(name, Holders::One(worker));
            }
            Some(Holders::Several(several)) => several.push(worker),
            Some(one @ Holders::One(_)) => {
                let several = one.as_slice().iter().copied().chain([worker]).collect();
                *one = Holders::Several(several);
            }
        }
    }

    fn remove(&self, worker: u32, name: u64) {
        let mut shard = self.shard(name).write().unwrap_or_else(PoisonError::into_inner);
        let empty = match shard.get_mut(&name) {
            None => false,
            Some(Holders::One(one)) => *one == worker,
            Some(Holders::Several(several)) => {
                several.retain(|holder| *holder != worker);
                several.is_empty()
            }
        };
        if empty {
            shard.remove(&name);
        }
    }

    fn shard(&self, name: u64) -> &RwLock<Shard> {
        // The table inside uses the other end of the name.
        &self.shards[(name >> 56) as usize % SHARDS]
    }
}

/// Names are hashes already.
#[derive(Default)]
pub(crate) struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, name: u64) {
        // A worker chooses what it pushes; one multiplication spreads what it might line up.
        self.0 = name.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ name;
    }
}

const SHARDS: usize = 64;
/// Blocks that are remembered of one worker: a million tokens in blocks of sixteen.
const MAX_BLOCKS: usize = 65_536;
/// Blocks that are expected of one worker beside those.
const MAX_EXPECTED: usize = 16_384;
/// Different lengths of matches that are told apart; what matches less counts as nothing.
const MAX_LENGTHS: usize = 8;

#[cfg(test)]
mod tests;
