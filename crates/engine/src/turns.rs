//! A queue in which tenants take turns.
//!
//! Each tenant has a clock: the time that was spent on what it asked for, over its weight. Next is something of the
//! tenant whose clock shows least, so whoever asks for much, or for what takes long, waits behind itself. Who was
//! away starts where the tenant that was served last stands: being away saves nothing up.
//!
//! Pure: time is handed in. Knows nothing of what it queues.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use domain::{ProjectId, Share};

use crate::fair::queue_share;

/// What waits, in the order of its tenants' clocks.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    tenants: BTreeMap<ProjectId, Tenant<T>>,
    waiting: usize,
    /// The clock of the tenant that was served last.
    now: u128,
}

#[derive(Debug)]
struct Tenant<T> {
    items: VecDeque<T>,
    /// Its clock.
    had: u128,
    weight: u32,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { tenants: BTreeMap::new(), waiting: 0, now: 0 }
    }
}

impl<T> Turns<T> {
    /// Queues `item` behind everything else of its tenant.
    pub(crate) fn push(&mut self, share: Share, item: T) {
        self.push_before(share, item, |_| false);
    }

    /// Queues `item` before the first of its tenant's that is to come `later`.
    pub(crate) fn push_before(&mut self, share: Share, item: T, later: impl Fn(&T) -> bool) {
        let now = self.now;
        let new = || Tenant { items: VecDeque::new(), had: now, weight: 1 };
        let tenant = self.tenants.entry(share.tenant).or_insert_with(new);
        tenant.weight = share.weight.max(1);
        if tenant.items.is_empty() {
            tenant.had = tenant.had.max(now);
        }
        let at = tenant.items.iter().position(later).unwrap_or(tenant.items.len());
        tenant.items.insert(at, item);
        self.waiting += 1;
    }

    /// Takes what is next of all that `may` come now.
    pub(crate) fn pop(&mut self, may: impl Fn(ProjectId, &T) -> bool) -> Option<T> {
        let first = |(id, tenant): (&ProjectId, &Tenant<T>)| {
            let at = tenant.items.iter().position(|item| may(*id, item))?;
            Some((tenant.had, *id, at))
        };
        let (had, id, at) = self.tenants.iter().filter_map(first).min()?;
        self.now = self.now.max(had);
        self.waiting -= 1;
        self.tenants.get_mut(&id)?.items.remove(at)
    }

    /// Notes that so much time was spent on something of a tenant's.
    pub(crate) fn charge(&mut self, share: Share, time: Duration) {
        if let Some(tenant) = self.tenants.get_mut(&share.tenant) {
            tenant.had += time.as_nanos() * SCALE / u128::from(share.weight.max(1));
        }
        if self.tenants.len() > MAX_IDLE_TENANTS {
            self.tenants.retain(|_, tenant| !tenant.items.is_empty());
        }
    }

    /// Takes everything out that is not `wanted`.
    pub(crate) fn retain(&mut self, tenant: ProjectId, wanted: impl Fn(&T) -> bool) {
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            let before = tenant.items.len();
            tenant.items.retain(wanted);
            self.waiting -= before - tenant.items.len();
        }
    }

    /// Whether a queue of `max` takes one more of a tenant's: when it is full, only of those that have less than
    /// their share of it waiting, and up to as many again.
    pub(crate) fn has_room(&self, share: Share, max: usize) -> bool {
        if self.waiting < max {
            return true;
        }
        let own = self.tenants.get(&share.tenant).map_or(0, |tenant| tenant.items.len());
        let others =
            self.tenants.iter().filter(|(id, it)| **id != share.tenant && !it.items.is_empty());
        let weights: u64 = others.map(|(_, it)| u64::from(it.weight)).sum();
        let share = queue_share(max, share.weight, weights + u64::from(share.weight.max(1)));
        own < share && self.waiting < max.saturating_mul(2)
    }

    /// How much waits.
    pub(crate) const fn len(&self) -> usize {
        self.waiting
    }
}

/// Parts of a nanosecond that a clock can tell.
const SCALE: u128 = 1 << 20;
/// More tenants than these are forgotten when they have nothing waiting.
const MAX_IDLE_TENANTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn share(tenant: u128, weight: u32) -> Share {
        Share { weight, ..Share::of(ProjectId::from_u128(tenant)) }
    }

    /// Serves `count` things that take `millis` each of tenants 1 and 2; how many of each.
    fn serve(turns: &mut Turns<Share>, count: usize, millis: [u64; 2]) -> [usize; 2] {
        let mut served = [0, 0];
        for _ in 0..count {
            let item = turns.pop(|_, _| true).unwrap();
            let tenant = usize::from(item.tenant == ProjectId::from_u128(2));
            turns.charge(item, Duration::from_millis(millis[tenant]));
            served[tenant] += 1;
        }
        served
    }

    fn queued(items: &[(Share, usize)]) -> Turns<Share> {
        let mut turns = Turns::default();
        for (share, count) in items {
            (0..*count).for_each(|_| turns.push(*share, *share));
        }
        turns
    }

    #[test]
    fn what_takes_long_comes_seldom() {
        let mut turns = queued(&[(share(1, 1), 100), (share(2, 1), 100)]);
        assert_eq!(serve(&mut turns, 44, [10, 1]), [4, 40]);
    }

    #[test]
    fn weights_are_shares_of_time() {
        let mut turns = queued(&[(share(1, 1), 100), (share(2, 3), 100)]);
        assert_eq!(serve(&mut turns, 80, [1, 1]), [20, 60]);
    }

    #[test]
    fn who_was_away_has_saved_nothing_up() {
        let mut turns = queued(&[(share(1, 1), 100)]);
        serve(&mut turns, 50, [1, 1]);
        (0..50).for_each(|_| turns.push(share(2, 1), share(2, 1)));
        assert_eq!(serve(&mut turns, 20, [1, 1]), [10, 10]);
    }

    #[test]
    fn what_may_not_come_waits_and_holds_nobody_up() {
        let mut turns = queued(&[(share(1, 1), 3), (share(2, 1), 2)]);
        let second = |turns: &mut Turns<Share>| {
            turns.pop(|tenant, _| tenant == ProjectId::from_u128(2)).is_some()
        };
        assert_eq!(
            [second(&mut turns), second(&mut turns), second(&mut turns)],
            [true, true, false]
        );
        assert_eq!(turns.len(), 3);
    }

    #[test]
    fn a_full_queue_takes_who_has_less_than_its_share_of_it() {
        let mut turns = queued(&[(share(1, 1), 10)]);
        assert!(!turns.has_room(share(1, 1), 10), "who fills it");
        for taken in 0..5 {
            assert!(turns.has_room(share(2, 1), 10), "{taken} of 5");
            turns.push(share(2, 1), share(2, 1));
        }
        assert!(!turns.has_room(share(2, 1), 10), "it has its half");
    }
}
