//! The one way into the step thread: the bounded queue of waiting sequences, and the bell.
//!
//! Promise: nobody waits here but the step thread, and only when it has nothing to do. Locks are held
//! for a few instructions.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::GpuTime;

use crate::Refusal;
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
    retry_in: Duration,
}

/// What the handles and readers tell the step thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Take no new sequences.
    pub(crate) draining: bool,
    /// End the thread at the next step boundary.
    pub(crate) shutdown: bool,
    /// Billable time of sequences whose end nobody will read, since the last look.
    pub(crate) abandoned: GpuTime,
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
    pub(crate) fn offer(&self, arrival: Arrival) -> Result<(), Refusal> {
        let mut queue = self.lock();
        if queue.orders.draining || queue.orders.shutdown {
            return Err(Refusal::Draining);
        }
        if queue.waiting.len() >= self.max_waiting {
            return Err(Refusal::Full { retry_in: queue.retry_in });
        }
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

    /// Tells the step thread of time that nobody will hear of.
    pub(crate) fn abandon(&self, time: GpuTime) {
        let mut queue = self.lock();
        queue.orders.abandoned += time;
        self.ring_locked(&mut queue);
    }

    /// What the step thread is told now; forgets the bell, so look at everything after this.
    pub(crate) fn orders(&self) -> Orders {
        let mut queue = self.lock();
        queue.rung = false;
        let orders = queue.orders;
        queue.orders.abandoned = GpuTime::ZERO;
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

    /// Takes the oldest waiting sequence if `fits` says so. First come, first served: if the oldest does
    /// not fit, nobody overtakes it.
    pub(crate) fn take_first(&self, fits: impl FnOnce(&Arrival) -> bool) -> Option<Arrival> {
        let mut queue = self.lock();
        if !fits(queue.waiting.front()?) {
            return None;
        }
        queue.waiting.pop_front()
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

const FIRST_RETRY_HINT: Duration = Duration::from_secs(1);
