//! Empties a worker that leaves: keeps who is on it and how fast they are, and tells each that cannot end
//! in time when to go.
//!
//! A sequence that is told to go stops at its next step, and its last event says that it was handed over,
//! with all it used: once, like any other end. The decision itself is [`plan`](crate::plan::plan)'s; here it
//! is taken anew as time passes and sequences end, and the stage that watchers see follows from it.
//!
//! Promises: from the notice on the stage only rises; the nearest of several deadlines counts; a sequence
//! whose reader has asked for its end is not handed over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{FinishReason, ModelDigest, Stage};
use proto::{EmbedOrder, Event, Start};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::plan::{Departure, Running, Window, plan};

/// How far a worker is on its way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) stage: Stage,
    /// Its machine was said to be likely to go.
    pub(crate) at_risk: bool,
    /// When the machine goes, if that is known.
    pub(crate) leaves_at: Option<Instant>,
    /// When everybody must be out.
    out_by: Option<Instant>,
}

/// Who is on a worker, and how it leaves.
pub(crate) struct Drain {
    leaving: watch::Sender<Leaving>,
    books: Mutex<Books>,
    /// How many sequences are on it.
    occupied: watch::Sender<usize>,
    /// Rings when somebody came or went.
    moved: Notify,
}

#[derive(Default)]
struct Books {
    seats: BTreeMap<u64, Progress>,
    next: u64,
    /// What computing a token of a prompt took, lately.
    prompt_token: Option<Duration>,
    /// When somebody was handed over last.
    handed_over: Option<Instant>,
}

/// How far a sequence is.
struct Progress {
    model: ModelDigest,
    prompt: u32,
    /// Output tokens, those of workers before this one included.
    produced: u32,
    /// Whether the first token of its own has come.
    begun: bool,
    allowance: u32,
    max_output: u32,
    /// From one token to the next, lately.
    pace: Option<Duration>,
    /// When its last token was seen; absent before the first, and while it waits to be paid for.
    seen: Option<Instant>,
    /// Tells it to go.
    go: watch::Sender<bool>,
}

/// A sequence's place on a worker. Dropping it gives the place back.
pub(crate) struct Seat {
    drain: Arc<Drain>,
    key: u64,
    go: watch::Receiver<bool>,
    /// It was told to go.
    going: bool,
    /// How its reader wants it to end.
    wished: Option<FinishReason>,
}

impl Drain {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            leaving: watch::Sender::new(Leaving::default()),
            books: Mutex::default(),
            occupied: watch::Sender::new(0),
            moved: Notify::new(),
        })
    }

    /// How far it is, now and whenever that changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Leaving> {
        self.leaving.subscribe()
    }

    /// Notes that the machine may go some day.
    pub(crate) fn warn(&self) {
        self.leaving.send_if_modified(|leaving| !std::mem::replace(&mut leaving.at_risk, true));
    }

    /// Begins to leave, or leaves earlier: in `leaves_in`, or at leisure, within `patience`.
    pub(crate) fn leave(&self, leaves_in: Option<Duration>, patience: Duration) {
        let now = Instant::now();
        let after = |time: Duration| now + time.min(LONGEST);
        let out_by = after(leaves_in.map_or(patience, |left| left.saturating_sub(margin(left))));
        self.leaving.send_if_modified(|leaving| {
            let before = *leaving;
            leaving.stage = leaving.stage.max(Stage::Draining);
            leaving.leaves_at = nearer(leaving.leaves_at, leaves_in.map(after));
            leaving.out_by = nearer(leaving.out_by, Some(out_by));
            *leaving != before
        });
    }

    /// A place for a sequence that begins.
    pub(crate) fn seat(self: &Arc<Self>, start: &Start) -> Seat {
        let length = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        self.take(Progress {
            model: start.model.clone(),
            prompt: length(start.prompt.len()),
            produced: length(start.generated.len()),
            begun: false,
            allowance: start.allowance,
            max_output: start.max_output,
            pace: None,
            seen: None,
            go: watch::Sender::new(false),
        })
    }

    /// A place for texts that are read whole. Like what has begun they stay for as long as they can: they end by
    /// themselves, and soon.
    pub(crate) fn seat_of_texts(self: &Arc<Self>, order: &EmbedOrder) -> Seat {
        let tokens: usize = order.texts.iter().map(|text| text.len()).sum();
        self.take(Progress {
            model: order.model.clone(),
            prompt: u32::try_from(tokens).unwrap_or(u32::MAX),
            produced: 0,
            begun: true,
            allowance: 1,
            max_output: 1,
            pace: None,
            seen: None,
            go: watch::Sender::new(false),
        })
    }

    fn take(self: &Arc<Self>, progress: Progress) -> Seat {
        let go = progress.go.subscribe();
        let mut books = self.books();
        let key = books.next;
        books.next += 1;
        books.seats.insert(key, progress);
        self.occupied.send_replace(books.seats.len());
        drop(books);
        self.moved.notify_one();
        Seat { drain: Arc::clone(self), key, go, going: false, wished: None }
    }

    /// How many sequences and orders of these models are on it.
    pub(crate) fn count(&self, models: &[ModelDigest]) -> u32 {
        let books = self.books();
        let count = books.seats.values().filter(|seat| models.contains(&seat.model)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Tells everybody on these models to go now.
    pub(crate) fn send_off(&self, models: &[ModelDigest]) {
        for seat in self.books().seats.values().filter(|seat| models.contains(&seat.model)) {
            seat.go.send_replace(true);
        }
    }

    /// Resolves when nobody is on it, and nobody is likely to want blocks of those handed over.
    pub(crate) async fn out(&self) {
        // The sender is ours, so waiting cannot fail.
        let _ = self.occupied.subscribe().wait_for(|occupied| *occupied == 0).await;
        let handed_over = self.books().handed_over;
        if let Some(at) = handed_over {
            let until = nearer(Some(at + LINGER), self.leaving.borrow().leaves_at);
            tokio::time::sleep_until(until.unwrap_or(at)).await;
        }
    }

    /// Tells sequences to go, each at its time, for as long as there are any.
    pub(crate) async fn evacuate(self: Arc<Self>) {
        let mut notices = self.leaving.subscribe();
        let mut free_at = None;
        loop {
            let out_by = notices.borrow_and_update().out_by;
            let pause = out_by.and_then(|out_by| self.revise(out_by, &mut free_at));
            tokio::select! {
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                () = self.moved.notified(), if pause.is_none() => {}
                changed = notices.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Decides who goes, and tells those whose time has come; returns when to look again, if anybody is left.
    fn revise(&self, out_by: Instant, free_at: &mut Option<Instant>) -> Option<Duration> {
        let now = Instant::now();
        let until = out_by.saturating_duration_since(now);
        // Whoever goes on with them may want to copy what they computed, before the first one goes.
        let free = *free_at.get_or_insert(now + LEAD.min(until / 4));
        let window = Window { not_before: free.saturating_duration_since(now), until };
        let books = self.books();
        let running = books.running();
        if running.is_empty() {
            return None;
        }
        let departures = plan(&running, window, books.token_again());
        let evacuating = departures.first().is_some_and(|first| first.leaves_in <= LEAD);
        if evacuating {
            self.leaving.send_if_modified(|leaving| {
                std::mem::replace(&mut leaving.stage, Stage::Evacuating) != Stage::Evacuating
            });
        }
        let due = |departure: &&Departure| departure.leaves_in <= TICK;
        for departure in departures.iter().filter(due) {
            books.seats[&departure.key].go.send_replace(true);
            *free_at = Some(free.max(now + departure.slot));
        }
        let next = departures.iter().find(|departure| !due(departure));
        Some(next.map_or(REVISE, |next| next.leaves_in.min(REVISE)))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Everybody who was not told to go.
    fn running(&self) -> Vec<Running> {
        let staying = self.seats.iter().filter(|(_, progress)| !*progress.go.borrow());
        let paces: Vec<Duration> = self.seats.values().filter_map(|seat| seat.pace).collect();
        let all: Duration = paces.iter().sum();
        let usual = u32::try_from(paces.len()).ok().and_then(|count| all.checked_div(count));
        let again = self.token_again();
        staying.map(|(key, progress)| progress.described(*key, usual, again)).collect()
    }

    fn token_again(&self) -> Duration {
        self.prompt_token.unwrap_or(PROMPT_TOKEN)
    }
}

impl Progress {
    fn described(&self, key: u64, usual: Option<Duration>, prompt_token: Duration) -> Running {
        let begun = self.begun;
        let tokens = u64::from(self.prompt) + u64::from(self.produced);
        let pace = self.pace.or(usual).filter(|_| !self.is_paused());
        let rest =
            pace.map(|pace| pace.saturating_mul(self.max_output.saturating_sub(self.produced)));
        let first = if begun { Duration::ZERO } else { prompt_token.saturating_mul(self.prompt) };
        let needs = rest.map(|rest| rest.saturating_add(first));
        Running { key, computed: if begun { tokens } else { 0 }, needs }
    }

    /// Whether it waits to be paid for, and nobody knows for how long.
    const fn is_paused(&self) -> bool {
        self.produced >= self.allowance && self.produced < self.max_output
    }

    fn saw(&mut self, tokens: u32) {
        let now = Instant::now();
        self.begun = true;
        if let Some(seen) = self.seen {
            let sample = now.duration_since(seen) / tokens.max(1);
            self.pace = Some(self.pace.map_or(sample, |pace| (pace * 3 + sample) / 4));
        }
        self.produced = self.produced.saturating_add(tokens).min(self.max_output);
        self.seen = (!self.is_paused()).then_some(now);
    }
}

impl Seat {
    /// Resolves once, when the sequence is to stop here.
    pub(crate) async fn told_to_go(&mut self) {
        let may_go = !self.going && self.wished.is_none();
        if may_go && self.go.wait_for(|go| *go).await.is_ok() {
            self.going = true;
            return;
        }
        std::future::pending::<()>().await;
    }

    /// Notes that so many tokens are paid for.
    pub(crate) fn extend(&self, allowance: u32) {
        if let Some(progress) = self.drain.books().seats.get_mut(&self.key) {
            progress.allowance = progress.allowance.max(allowance);
        }
    }

    /// Notes that its reader wants it to end.
    pub(crate) fn stop(&mut self, reason: FinishReason) {
        self.wished = self.wished.or(Some(reason));
    }

    /// Notes what the sequence told, and returns what its reader is told.
    pub(crate) fn saw(&mut self, event: Event) -> Event {
        if let Event::Tokens { first, ids, gpu, .. } = &event {
            let mut books = self.drain.books();
            let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
            if let Some(progress) = books.seats.get_mut(&self.key) {
                progress.saw(tokens);
                let prompt = progress.prompt;
                if let (0, Some(sample)) = (*first, gpu.nanos().checked_div(prompt.into())) {
                    let sample = Duration::from_nanos(sample);
                    let known = books.prompt_token;
                    books.prompt_token = Some(known.map_or(sample, |time| (time * 3 + sample) / 4));
                }
            }
            return event;
        }
        let event = match (event, self.wished) {
            (Event::Finished { reason: FinishReason::Cancelled, usage }, None) if self.going => {
                self.drain.books().handed_over = Some(Instant::now());
                Event::HandedOver { usage }
            }
            // It was told to go first, and its reader then asked for its end.
            (Event::Finished { reason: FinishReason::Cancelled, usage }, Some(reason)) => {
                Event::Finished { reason, usage }
            }
            (event, _) => event,
        };
        self.leave();
        event
    }

    fn leave(&self) {
        let mut books = self.drain.books();
        if books.seats.remove(&self.key).is_some() {
            self.drain.occupied.send_replace(books.seats.len());
            drop(books);
            self.drain.moved.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

fn nearer(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// How long before the machine goes everybody is to be out: a notice is never exact.
fn margin(left: Duration) -> Duration {
    (left / 10).min(LONGEST_MARGIN)
}

const LONGEST_MARGIN: Duration = Duration::from_secs(10);
/// Nobody waits longer; moments that far away can still be told.
const LONGEST: Duration = Duration::from_hours(24 * 30);
/// How long before the first sequence goes watchers are told of it.
const LEAD: Duration = Duration::from_secs(1);
/// How often it is decided anew who goes.
const REVISE: Duration = Duration::from_millis(100);
/// What a timer cannot tell from now.
const TICK: Duration = Duration::from_millis(1);
/// What a token of a prompt is thought to take before any was computed.
const PROMPT_TOKEN: Duration = Duration::from_millis(1);
/// How long blocks of sequences that were handed over stay to be fetched.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
