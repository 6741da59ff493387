//! The KV blocks of a simulated machine: which prefixes it holds, who uses them, and which go first.
//!
//! Blocks that somebody uses stay; the others stay until their place is needed, and the least recently used
//! go first, of one prompt the last ones. What changes is kept until it is told. Knows nothing of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The blocks of one machine.
pub(crate) struct Cache {
    total: usize,
    held: HashMap<u64, Held>,
    /// Blocks that nobody uses, in the order in which they go.
    idle: BTreeSet<(u64, Reverse<u32>, u64)>,
    /// Blocks set aside for what has no name yet.
    private: usize,
    ticks: u64,
    /// What was not told yet, by name: whether it is held.
    news: BTreeMap<u64, bool>,
}

struct Held {
    users: u32,
    used: u64,
    depth: u32,
}

/// What one sequence has of the cache.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    /// So many of its names, from the first on, are in the cache.
    pub(crate) named: usize,
    private: usize,
}

impl Cache {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total,
            held: HashMap::new(),
            idle: BTreeSet::new(),
            private: 0,
            ticks: 0,
            news: BTreeMap::new(),
        }
    }

    /// Blocks that a new sequence could have.
    pub(crate) fn free(&self) -> usize {
        self.total - self.used()
    }

    /// Blocks that somebody uses.
    pub(crate) fn used(&self) -> usize {
        self.private + self.held.len() - self.idle.len()
    }

    /// Sets `blocks` aside for a sequence, those included that it finds under its first names. `None` if there are
    /// not enough.
    pub(crate) fn admit(&mut self, names: &[u64], blocks: usize) -> Option<Pinned> {
        let matched = names.iter().take_while(|name| self.held.contains_key(name)).count();
        let matched = matched.min(blocks);
        let waking = names[..matched].iter().filter(|name| self.held[name].users == 0).count();
        let private = blocks - matched;
        if private + waking > self.free() {
            return None;
        }
        self.ticks += 1;
        for name in &names[..matched] {
            self.pin(*name);
        }
        self.private += private;
        self.make_room();
        Some(Pinned { named: matched, private })
    }

    /// Takes in what others have computed since: blocks under the sequence's next names need not be computed again.
    /// `true` if there was something.
    pub(crate) fn find_more(&mut self, names: &[u64], pinned: &mut Pinned) -> bool {
        let before = pinned.named;
        while let Some(name) = names.get(pinned.named)
            && pinned.private > 0
            && self.held.contains_key(name)
        {
            self.pin(*name);
            pinned.private -= 1;
            self.private -= 1;
            pinned.named += 1;
        }
        pinned.named > before
    }

    /// The next of the sequence's blocks is computed, and has this name.
    pub(crate) fn seal(&mut self, pinned: &mut Pinned, name: u64) {
        if pinned.private == 0 {
            return;
        }
        pinned.private -= 1;
        self.private -= 1;
        if self.held.contains_key(&name) {
            self.pin(name);
        } else {
            let depth = pinned.named as u32;
            self.held.insert(name, Held { users: 1, used: self.ticks, depth });
            self.news.insert(name, true);
        }
        pinned.named += 1;
    }

    /// The sequence with these names is gone.
    pub(crate) fn release(&mut self, names: &[u64], pinned: &Pinned) {
        self.private -= pinned.private;
        self.ticks += 1;
        for name in &names[..pinned.named] {
            let Some(held) = self.held.get_mut(name) else { continue };
            held.users -= 1;
            held.used = self.ticks;
            if held.users == 0 {
                self.idle.insert((held.used, Reverse(held.depth), *name));
            }
        }
    }

    /// What was added and removed since this was asked last.
    pub(crate) fn news(&mut self) -> (Vec<u64>, Vec<u64>) {
        let news = std::mem::take(&mut self.news);
        let (added, removed): (Vec<_>, Vec<_>) = news.into_iter().partition(|(_, held)| *held);
        let names = |changes: Vec<(u64, bool)>| changes.into_iter().map(|(name, _)| name).collect();
        (names(added), names(removed))
    }

    /// All names, in order; nothing of them is news any more.
    pub(crate) fn all(&mut self) -> Vec<u64> {
        self.news.clear();
        let mut names: Vec<u64> = self.held.keys().copied().collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    fn pin(&mut self, name: u64) {
        let Some(held) = self.held.get_mut(&name) else { return };
        if held.users == 0 {
            self.idle.remove(&(held.used, Reverse(held.depth), name));
        }
        held.users += 1;
        held.used = self.ticks;
    }

    fn make_room(&mut self) {
        while self.private + self.held.len() > self.total {
            let Some((_, _, name)) = self.idle.pop_first() else { return };
            self.held.remove(&name);
            self.news.insert(name, false);
        }
    }
}
