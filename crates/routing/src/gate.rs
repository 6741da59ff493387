//! Where requests for one model wait when nobody has room, and who may try next.
//!
//! While there is room nobody waits. Once a worker pool has refused, whoever comes queues, and a few at a time, in
//! the queue's order, try again when something suggests that there is room: a sequence ended, a worker came or said
//! so, or the time it named has passed. Who would wait longer than it can is told at once, and when to come again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::queue::{FairQueue, Lane, Queued, Ticket};

/// The way to the workers of one model.
pub(crate) struct Gate {
    room: Mutex<Room>,
}

struct Room {
    queue: FairQueue,
    waiting: HashMap<u64, oneshot::Sender<Call>>,
    /// How many of the queue try now.
    trying: usize,
    /// Whoever tried last found no room.
    blocked: bool,
    /// How long from one that left the queue for a worker to the next, lately.
    pace: Option<Duration>,
    last_placed: Option<Instant>,
    next_id: u64,
}

/// What a request in the queue is told.
enum Call {
    /// Try now; the ticket as the queue knows it.
    Turn(Ticket),
    /// Somebody else has your place.
    Out,
}

/// One request on its way to a worker. Dropping it gives its place to the next.
pub(crate) struct Turn {
    gate: Arc<Gate>,
    ticket: Ticket,
    phase: Phase,
}

enum Phase {
    /// It may try; it has not waited.
    First,
    /// It may try, for the queue.
    Trying,
    Waiting(oneshot::Receiver<Call>),
    Done,
}

/// There is no place to wait, or no hope in it: when it may be better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoPlace {
    pub(crate) retry_in: Duration,
}

/// Why a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Until when it can.
    pub(crate) until: Instant,
    /// When there may be room, by what workers said.
    pub(crate) hint: Duration,
    /// Most that may wait for this reason.
    pub(crate) max: usize,
}

impl Gate {
    pub(crate) fn new(max: usize, aging: Duration) -> Arc<Self> {
        let queue = FairQueue::new(max, aging);
        Arc::new(Self {
            room: Mutex::new(Room {
                queue,
                waiting: HashMap::new(),
                trying: 0,
                blocked: false,
                pace: None,
                last_placed: None,
                next_id: 0,
            }),
        })
    }

    /// Begins the way of a request; `make` is given its number. One that nobody is before may try at once.
    pub(crate) fn enter(
        self: &Arc<Self>,
        wait: Wait,
        make: impl FnOnce(u64) -> Ticket,
    ) -> Result<Turn, NoPlace> {
        let mut room = self.room();
        room.next_id += 1;
        let ticket = make(room.next_id);
        let mut turn = Turn { gate: Arc::clone(self), ticket, phase: Phase::First };
        if !room.queue.is_empty() || room.trying > 0 {
            turn.phase = Phase::Done;
            let waiting = room.join(ticket, wait)?;
            turn.phase = Phase::Waiting(waiting);
            room.call();
        }
        drop(room);
        Ok(turn)
    }

    /// From now on so many may wait, and age in this time.
    pub(crate) fn reconfigure(&self, max: usize, aging: Duration) {
        self.room().queue.reconfigure(max, aging);
    }

    /// There may be room.
    pub(crate) fn open(&self) {
        let mut room = self.room();
        room.blocked = false;
        room.call();
    }

    /// How many wait in each lane.
    pub(crate) fn queued(&self) -> [usize; 4] {
        let room = self.room();
        Lane::ALL.map(|lane| room.queue.len_of(lane))
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn join(&mut self, ticket: Ticket, wait: Wait) -> Result<oneshot::Receiver<Call>, NoPlace> {
        let expected = self.expected_wait(&ticket, ticket.since).max(wait.hint);
        let too_long = ticket.since + expected > wait.until;
        let stays = ticket.lane == Lane::Continuation;
        if (too_long || self.queue.len() >= wait.max) && !stays {
            return Err(NoPlace { retry_in: expected });
        }
        match self.queue.push(ticket) {
            Queued::Refused => return Err(NoPlace { retry_in: expected }),
            Queued::InPlaceOf(other) => {
                if let Some(other) = self.waiting.remove(&other) {
                    let _ = other.send(Call::Out);
                }
            }
            Queued::Waits => {}
        }
        let (call, called) = oneshot::channel();
        self.waiting.insert(ticket.id, call);
        Ok(called)
    }

    /// How long one that comes now would wait, by how fast those before it went; nothing if nobody did.
    fn expected_wait(&self, ticket: &Ticket, now: Instant) -> Duration {
        let (Some(pace), Some(last)) = (self.pace, self.last_placed) else {
            return Duration::ZERO;
        };
        // A queue that stands still is slower than it was.
        let pace = pace.max(now.saturating_duration_since(last) / 2);
        let ahead = u32::try_from(self.queue.ahead_of(ticket)).unwrap_or(u32::MAX);
        pace.saturating_mul(ahead.saturating_add(1)).min(LONGEST_WAIT)
    }

    /// Lets those who are next try, a few at a time.
    fn call(&mut self) {
        while !self.blocked && self.trying < MAX_TRYING {
            let Some(ticket) = self.queue.take(Instant::now()) else { return };
            let called = self.waiting.remove(&ticket.id);
            if called.is_some_and(|called| called.send(Call::Turn(ticket)).is_ok()) {
                self.trying += 1;
            }
        }
    }

    fn left_for_worker(&mut self, now: Instant) {
        if let Some(last) = self.last_placed.replace(now) {
            let since = now.saturating_duration_since(last);
            let pace = self.pace.unwrap_or(since);
            self.pace = Some((pace * 7 + since) / 8);
        }
        if self.queue.is_empty() && self.trying == 0 {
            // The next queue is another one: how long this one was empty is not its pace.
            self.last_placed = None;
        }
    }
}

impl Turn {
    /// Waits until it may try. `false` when it may not any more: the time is up, or somebody has its place.
    pub(crate) async fn comes(&mut self, until: Instant, pause: Duration) -> bool {
        let Phase::Waiting(called) = &mut self.phase else { return true };
        loop {
            tokio::select! {
                biased;
                call = &mut *called => {
                    let Ok(Call::Turn(ticket)) = call else {
                        self.phase = Phase::Done;
                        return false;
                    };
                    self.ticket = ticket;
                    self.phase = Phase::Trying;
                    return true;
                }
                () = tokio::time::sleep_until(until) => return false,
                // Whatever was to wake the queue may have been missed.
                () = tokio::time::sleep(pause) => self.gate.open(),
            }
        }
    }

    /// There is no room: back to the place it had, or to the queue for the first time.
    pub(crate) fn wait(&mut self, wait: Wait) -> Result<(), NoPlace> {
        let mut room = self.gate.room();
        room.blocked = true;
        let called = if let Phase::Trying = std::mem::replace(&mut self.phase, Phase::Done) {
            room.trying -= 1;
            let (call, called) = oneshot::channel();
            room.queue.put_back(self.ticket);
            room.waiting.insert(self.ticket.id, call);
            called
        } else {
            room.join(self.ticket, wait)?
        };
        self.phase = Phase::Waiting(called);
        Ok(())
    }

    /// It runs. Whoever is next may try: there may be room for more.
    pub(crate) fn placed(mut self, now: Instant) {
        let mut room = self.gate.room();
        if matches!(std::mem::replace(&mut self.phase, Phase::Done), Phase::Trying) {
            room.trying -= 1;
            room.left_for_worker(now);
            room.call();
        }
    }

    /// How the queue stands for one like this.
    pub(crate) fn expected_wait(&self, now: Instant) -> Duration {
        self.gate.room().expected_wait(&self.ticket, now)
    }

    /// The queue, for whoever has news of room.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        if matches!(phase, Phase::First | Phase::Done) {
            return;
        }
        let mut room = self.gate.room();
        let mut tries = matches!(phase, Phase::Trying);
        if let Phase::Waiting(mut called) = phase {
            room.waiting.remove(&self.ticket.id);
            tries =
                !room.queue.remove(self.ticket) && matches!(called.try_recv(), Ok(Call::Turn(_)));
        }
        if tries {
            room.trying -= 1;
        }
        room.call();
    }
}

/// So many of a queue try at a time: one after the other would leave room unused, all at once would ask workers in vain.
const MAX_TRYING: usize = 8;
/// The longest wait that is predicted.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
