//! The memory of all the copies of compiled languages that an engine's sequences have, and who holds it.
//!
//! A copy is begun only where there is room for it. When there is none, a tenant that holds less than its share
//! still may, up to as much again, so nobody's large formats keep others from theirs.
//!
//! Pure accounts: what a copy takes is told by who has it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::{ProjectId, Share};

use crate::fair::queue_share;

/// Who holds how many bytes of a budget. Clones share it.
#[derive(Clone)]
pub(super) struct Memory {
    budget: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    all: usize,
    tenants: HashMap<ProjectId, Part>,
}

struct Part {
    bytes: usize,
    weight: u32,
    /// Copies.
    copies: usize,
}

/// What one copy takes. Dropping it gives that back.
pub(super) struct Hold {
    memory: Memory,
    share: Share,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, held: Arc::default() }
    }

    /// Whether a tenant may have `bytes` more. Where nobody holds anything everybody may.
    pub(super) fn has_room(&self, share: Share, bytes: usize) -> bool {
        self.held().has_room(share, bytes, self.budget)
    }

    /// Takes so much for a copy, whether there is room or not.
    pub(super) fn hold(&self, share: Share, bytes: usize) -> Hold {
        let mut held = self.held();
        held.all += bytes;
        let part = held.part(share);
        part.bytes += bytes;
        part.copies += 1;
        drop(held);
        Hold { memory: self.clone(), share, bytes }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn all(&self) -> usize {
        self.held().all
    }
}

impl Held {
    fn part(&mut self, share: Share) -> &mut Part {
        let new = || Part { bytes: 0, weight: 1, copies: 0 };
        let part = self.tenants.entry(share.tenant).or_insert_with(new);
        part.weight = share.weight.max(1);
        part
    }

    fn has_room(&self, share: Share, bytes: usize, budget: usize) -> bool {
        if self.all == 0 || self.all + bytes <= budget {
            return true;
        }
        let own = self.tenants.get(&share.tenant).map_or(0, |part| part.bytes);
        let others = self.tenants.iter().filter(|(id, _)| **id != share.tenant);
        let weights: u64 = others.map(|(_, part)| u64::from(part.weight)).sum();
        let part = queue_share(budget, share.weight, weights + u64::from(share.weight.max(1)));
        own + bytes <= part && self.all + bytes <= budget.saturating_mul(2)
    }
}

impl Hold {
    /// Whether the copy may take `bytes` from now on; if not, nothing changes.
    pub(super) fn try_resize(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.memory.has_room(self.share, more) {
            return false;
        }
        self.resize(bytes);
        true
    }

    /// Notes that the copy takes `bytes` now.
    pub(super) fn resize(&mut self, bytes: usize) {
        let mut held = self.memory.held();
        held.all = held.all - self.bytes + bytes;
        let part = held.part(self.share);
        part.bytes = part.bytes - self.bytes + bytes;
        drop(held);
        self.bytes = bytes;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.memory.held();
        held.all -= self.bytes;
        let part = held.part(self.share);
        part.bytes -= self.bytes;
        part.copies -= 1;
        if part.copies == 0 {
            held.tenants.remove(&self.share.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(tenant: u128, weight: u32) -> Share {
        Share { weight, ..Share::of(ProjectId::from_u128(tenant)) }
    }

    /// As many copies of `bytes` as there is room for.
    fn fill(memory: &Memory, share: Share, bytes: usize) -> Vec<Hold> {
        let mut holds = Vec::new();
        while memory.has_room(share, bytes) {
            holds.push(memory.hold(share, bytes));
        }
        holds
    }

    #[test]
    fn who_holds_all_of_it_leaves_others_their_share() {
        let memory = Memory::new(100);
        let greedy = fill(&memory, share(1, 1), 10);
        let calm = fill(&memory, share(2, 1), 5);
        let heavy = fill(&memory, share(3, 2), 5);
        assert_eq!((greedy.len(), calm.len(), heavy.len()), (10, 10, 10));
        assert!(!memory.has_room(share(4, 1), 1), "there is an end to exceptions");
        drop((greedy, calm, heavy));
        assert_eq!(memory.all(), 0);
        assert!(memory.held().tenants.is_empty());
    }

    #[test]
    fn a_copy_grows_only_into_what_is_free() {
        let memory = Memory::new(100);
        let mut growing = memory.hold(share(1, 1), 40);
        let _other = memory.hold(share(1, 1), 40);
        assert!(growing.try_resize(60));
        assert!(!growing.try_resize(61));
        assert!(growing.try_resize(10), "less is always fine");
        assert_eq!(memory.all(), 50);
    }

    #[test]
    fn what_is_larger_than_the_budget_may_come_when_nobody_else_is_there() {
        let memory = Memory::new(100);
        assert!(memory.has_room(share(1, 1), 1_000));
        let _hold = memory.hold(share(2, 1), 1);
        assert!(!memory.has_room(share(1, 1), 1_000));
    }
}
