//! The one way into the step thread: the bounded queue of waiting sequences, and the bell.
//!
//! When the queue is full, tenants that have less than their share of it waiting are taken all the same, up to
//! as many again; who fills it is refused first. Nobody who was accepted is put out: an accepted request
//! is somebody's open stream.
//!
//! Promise: nobody waits here but the step thread, and only when it has nothing to do. Locks are held
//! for a few instructions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{ProjectId, Share};

use crate::Refusal;
use crate::fair::queue_share;
use crate::ledger::WrittenOff;
use crate::running::Arrival;

/// Shared by all handles, all sequences and the step thread.
pub(crate) struct Inbox {
    queue: Mutex<Queue>,
    bell: Condvar,
    max_waiting: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arrival>,
    orders: Orders,
    /// Whether something happened since the step thread last looked.
    rung: bool,
    /// From the end of one sequence to the next, roughly.
    retry_in: Duration,
    /// Sequences that ever came.
    came: u64,
}

/// What the handles and readers tell the step thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Take no new sequences.
    pub(crate) draining: bool,
    /// End the thread at the next step boundary.
    pub(crate) shutdown: bool,
    /// Billable time of sequences that nobody is to be billed for, since the last look.
    pub(crate) written_off: WrittenOff,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    pub(crate) fn new(max_waiting: u32) -> Self {
        let queue = Queue { retry_in: FIRST_RETRY_HINT, ..Queue::default() };
        Self { queue: Mutex::new(queue), bell: Condvar::new(), max_waiting: max_waiting as usize }
    }

    /// Queues a sequence, or says why not.
    pub(crate) fn offer(&self, mut arrival: Arrival) -> Result<(), Refusal> {
        let mut queue = self.lock();
        if queue.orders.draining || queue.orders.shutdown {
            return Err(Refusal::Draining);
        }
        if queue.waiting.len() >= self.max_waiting {
            queue.make_exception(arrival.place.share, self.max_waiting)?;
        }
        arrival.place.number = queue.came;
        queue.came += 1;
        queue.waiting.push_back(arrival);
        self.ring_locked(&mut queue);
        Ok(())
    }

    /// Refuses new sequences from now on.
    pub(crate) fn drain(&self) {
        let mut queue = self.lock();
        queue.orders.draining = true;
        self.ring_locked(&mut queue);
    }

    /// Asks the step thread to end.
    pub(crate) fn shut_down(&self) {
        let mut queue = self.lock();
        queue.orders.shutdown = true;
        self.ring_locked(&mut queue);
    }

    /// Refuses new sequences and fails the waiting ones: nobody will step them.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut queue = self.lock();
            queue.orders.shutdown = true;
            std::mem::take(&mut queue.waiting)
        };
        drop(waiting);
    }

    /// Makes the step thread look at its sequences again.
    pub(crate) fn ring(&self) {
        let mut queue = self.lock();
        self.ring_locked(&mut queue);
    }

    /// Tells the step thread of time that nobody is to be billed for.
    pub(crate) fn write_off(&self, time: WrittenOff) {
        let mut queue = self.lock();
        queue.orders.written_off += time;
        self.ring_locked(&mut queue);
    }

    /// What the step thread is told now; forgets the bell, so look at everything after this.
    pub(crate) fn orders(&self) -> Orders {
        let mut queue = self.lock();
        queue.rung = false;
        let orders = queue.orders;
        queue.orders.written_off = WrittenOff::default();
        orders
    }

    /// Takes waiting sequences out that `leaves` says are over, wherever they stand.
    pub(crate) fn take_stopped(&self, leaves: impl Fn(&Arrival) -> bool) -> Vec<Arrival> {
        let mut queue = self.lock();
        if !queue.waiting.iter().any(&leaves) {
            return Vec::new();
        }
        let (gone, waiting) = queue.waiting.drain(..).partition(|arrival| leaves(arrival));
        queue.waiting = waiting;
        Vec::from_iter::<VecDeque<Arrival>>(gone)
    }

    /// Takes the waiting sequence of the least rank if `fits` says so; those without a rank may not come yet.
    /// If the first does not fit, nobody overtakes it: else what is large would wait for ever.
    pub(crate) fn take_first<R: Ord>(
        &self,
        rank: impl Fn(&Arrival) -> Option<R>,
        fits: impl FnOnce(&Arrival) -> bool,
    ) -> Option<Arrival> {
        let mut queue = self.lock();
        let ranked = queue.waiting.iter().enumerate();
        let ranked = ranked.filter_map(|(index, arrival)| Some((rank(arrival)?, index)));
        let (_, first) = ranked.min()?;
        if !fits(&queue.waiting[first]) {
            return None;
        }
        queue.waiting.remove(first)
    }

    /// For whom sequences wait, in order of arrival.
    pub(crate) fn shares(&self) -> Vec<Share> {
        self.lock().waiting.iter().map(|arrival| arrival.place.share).collect()
    }

    /// Number of waiting sequences and the prompt tokens they bring.
    pub(crate) fn waiting(&self) -> (u32, u64) {
        let queue = self.lock();
        let tokens = queue.waiting.iter().map(|arrival| arrival.tokens.len() as u64).sum();
        (queue.waiting.len() as u32, tokens)
    }

    /// Updates the hint given with refusals.
    pub(crate) fn hint(&self, retry_in: Duration) {
        self.lock().retry_in = retry_in;
    }

    /// Sleeps until the bell rings.
    pub(crate) fn wait(&self) {
        let mut queue = self.lock();
        while !queue.rung {
            queue = self.bell.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ring_locked(&self, queue: &mut Queue) {
        queue.rung = true;
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Whether a tenant may add to a queue that is full, since others fill it; else when it may come again.
    fn make_exception(&self, share: Share, max_waiting: usize) -> Result<(), Refusal> {
        let mut weights: HashMap<ProjectId, u32> = HashMap::new();
        weights.insert(share.tenant, share.weight.max(1));
        let mut own = 0;
        for Share { tenant, weight, .. } in self.waiting.iter().map(|waiting| waiting.place.share) {
            weights.entry(tenant).or_insert(weight.max(1));
            own += usize::from(tenant == share.tenant);
        }
        let weights: u64 = weights.into_values().map(u64::from).sum();
        let below = own < queue_share(max_waiting, share.weight, weights);
        let room = self.waiting.len() < max_waiting.saturating_mul(2);
        if below && room && max_waiting > 0 {
            return Ok(());
        }
        // A place gets free for this tenant when one of its own is admitted, and that is its share of the ends.
        let turns = u32::try_from(weights / u64::from(share.weight.max(1))).unwrap_or(u32::MAX);
        let retry_in = self.retry_in.saturating_mul(turns.max(1)).min(LONGEST_RETRY_HINT);
        Err(Refusal::Full { retry_in })
    }
}

const LONGEST_RETRY_HINT: Duration = Duration::from_secs(30);
const FIRST_RETRY_HINT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{BlockNames, CacheSalt, ModelDigest, OutputRules, Sampling, Usage};

    use super::*;
    use crate::Request;
    use crate::names::Names;
    use crate::sequence::line;

    fn offer(inbox: &Arc<Inbox>, tenant: u128, weight: u32) -> Result<(), Refusal> {
        let request = Request {
            prompt: [1].into(),
            generated: Vec::new(),
            max_output: 1,
            allowance: 1,
            sampling: Sampling::greedy(),
            output: OutputRules::default(),
            share: Share { weight, ..Share::of(ProjectId::from_u128(tenant)) },
            salt: CacheSalt::from_bytes([1; 16]),
            adapter: None,
        };
        let names = BlockNames::new(&ModelDigest::new("model"), request.salt, 1);
        let (_, outlet) = line(inbox, 1, Usage::default());
        inbox.offer(Arrival::new(request, Names::new(names, 1), None, outlet))
    }

    /// How many of `count` sequences are taken.
    fn taken(inbox: &Arc<Inbox>, tenant: u128, weight: u32, count: usize) -> usize {
        (0..count).filter(|_| offer(inbox, tenant, weight).is_ok()).count()
    }

    #[test]
    fn who_fills_the_queue_is_refused_and_others_still_find_their_share() {
        let inbox = Arc::new(Inbox::new(100));
        assert_eq!(taken(&inbox, 1, 1, 300), 100, "one alone may fill it");
        assert_eq!(taken(&inbox, 2, 1, 300), 50, "half, beside one other");
        assert_eq!(taken(&inbox, 3, 2, 300), 50, "half, beside two of half its weight");
        assert_eq!(taken(&inbox, 1, 1, 1), 0);
        assert_eq!(taken(&inbox, 4, 1, 300), 0, "there is an end to exceptions");
        assert_eq!(inbox.waiting().0, 200);
    }

    #[test]
    fn a_refused_tenant_is_told_to_wait_for_its_own_share_of_the_ends() {
        let inbox = Arc::new(Inbox::new(10));
        let refused = |tenant, weight| match offer(&inbox, tenant, weight) {
            Err(Refusal::Full { retry_in }) => retry_in,
            other => panic!("{other:?}"),
        };
        taken(&inbox, 1, 1, 10);
        inbox.hint(Duration::from_millis(200));
        assert_eq!(refused(1, 1), Duration::from_millis(200));
        taken(&inbox, 2, 3, 100);
        assert_eq!(refused(1, 1), Duration::from_millis(800), "one end in four is its own");
        assert_eq!(refused(2, 3), Duration::from_millis(200));
    }

    #[test]
    fn a_queue_without_places_takes_nobody() {
        assert_eq!(taken(&Arc::new(Inbox::new(0)), 1, 1, 5), 0);
    }
}
