//! The line between the step thread and the reader of one sequence.
//!
//! Promise: the step thread never waits for a reader. What the reader has not taken yet is merged into
//! one event, so the line holds at most `max_output` token ids. A reader is woken for the first token at
//! once and then at most every [`wake_interval`]: many fast sequences would otherwise spend more on waking
//! readers than on computing. A reader on whom the sequence waits is always woken.
//!
//! Promise: a sequence's time is either its reader's or written off, never both and never neither, whichever side
//! lets go first. It is written off as abandoned where nobody reads its end, and as a hedge's where its reader
//! says so, even after that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::{FinishReason, GpuTime, Logprobs, Usage};
use tokio::sync::Notify;

use crate::attribution::Phase;
use crate::inbox::Inbox;
use crate::ledger::WrittenOff;
use crate::{Event, Failure};

/// The receiving end of a running sequence. Dropping it cancels the sequence; if its end was not read, its
/// time is written off as abandoned.
pub struct Sequence {
    line: Arc<Line>,
    inbox: Arc<Inbox>,
}

impl Sequence {
    /// The next event; `None` after the last one. Safe to drop and call again.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.line.lock().take() {
                Taken::Event(event) => return Some(event),
                Taken::Over => return None,
                Taken::Nothing => {}
            }
            self.line.changed.notified().await;
        }
    }

    /// Raises the number of output tokens paid for; a smaller number changes nothing.
    pub fn extend(&self, allowance: u32) {
        let mut mailbox = self.line.lock();
        if allowance > mailbox.allowance {
            mailbox.allowance = allowance;
            drop(mailbox);
            self.inbox.ring();
        }
    }

    /// Ends the sequence at the next step boundary; `next` then yields `Finished` with this reason, unless
    /// it ended by itself before. The first reason counts.
    pub fn stop(&self, reason: FinishReason) {
        let mut mailbox = self.line.lock();
        if mailbox.end == End::Open && mailbox.stop.is_none() {
            mailbox.stop = Some(reason);
            drop(mailbox);
            self.inbox.ring();
        }
    }

    /// Ends the sequence as `stop` does; `next` yields `Finished` with a usage whose time ends with the `kept`th token of
    /// the output. What it took after that is overhead, even if it ended by itself before, unless that was read.
    pub fn stop_after(&self, reason: FinishReason, kept: u32) {
        let mut mailbox = self.line.lock();
        if mailbox.stop.is_some() {
            return;
        }
        match std::mem::replace(&mut mailbox.end, End::Open) {
            End::Open => {
                (mailbox.stop, mailbox.kept) = (Some(reason), Some(kept));
                drop(mailbox);
                self.inbox.ring();
            }
            End::Due(Event::Finished { reason, mut usage }) if !mailbox.waived => {
                let overrun = mailbox.cut(&mut usage, kept);
                mailbox.end = End::Due(Event::Finished { reason, usage });
                drop(mailbox);
                self.inbox.write_off(WrittenOff { overrun, ..WrittenOff::default() });
            }
            end => mailbox.end = end,
        }
    }

    /// Ends the sequence as `stop` does, because another worker was faster: what it took is a hedge's, even if it
    /// ended by itself before, and even if that was read.
    pub fn waive(&self) {
        let mut mailbox = self.line.lock();
        if std::mem::replace(&mut mailbox.waived, true) {
            return;
        }
        let hedge = match &mailbox.end {
            // The step thread ends it, and then knows whose it is.
            End::Open => {
                mailbox.stop.get_or_insert(FinishReason::Cancelled);
                drop(mailbox);
                return self.inbox.ring();
            }
            End::Due(event) => billable(event),
            End::Read(time) => *time,
            End::WrittenOff => return,
        };
        drop(mailbox);
        self.inbox.write_off(WrittenOff { hedge, ..WrittenOff::default() });
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        let mut mailbox = self.line.lock();
        mailbox.gone = true;
        match std::mem::replace(&mut mailbox.end, End::WrittenOff) {
            End::Read(_) | End::WrittenOff => {}
            End::Due(_) if mailbox.waived => {}
            End::Due(event) => {
                drop(mailbox);
                let abandoned = billable(&event);
                self.inbox.write_off(WrittenOff { abandoned, ..WrittenOff::default() });
            }
            // The step thread ends it, and then knows that nobody reads.
            End::Open => {
                mailbox.end = End::Open;
                mailbox.stop.get_or_insert(FinishReason::Cancelled);
                drop(mailbox);
                self.inbox.ring();
            }
        }
    }
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequence").finish_non_exhaustive()
    }
}

/// The step thread's end of the line. Dropping it without an end fails the sequence, so that no way out
/// of the step thread leaves a reader waiting.
pub(crate) struct Outlet {
    line: Arc<Line>,
    usage: Usage,
    /// Since when it waits for its first step; absent once that has begun.
    waits_since: Option<Instant>,
    /// When the reader was last woken.
    woken: Option<Instant>,
}

/// What the reader asked for, as of a step boundary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) allowance: u32,
    pub(crate) stop: Option<FinishReason>,
}

/// Both ends of a line for a sequence that has `generated` output tokens already.
pub(crate) fn line(inbox: &Arc<Inbox>, allowance: u32, usage: Usage) -> (Sequence, Outlet) {
    let mailbox = Mailbox {
        first: usage.completion_tokens,
        begins: usage.completion_tokens,
        spent: Vec::new(),
        kept: None,
        ids: Vec::new(),
        logprobs: Vec::new(),
        gpu: GpuTime::ZERO,
        cached: 0,
        allowance,
        stop: None,
        gone: false,
        waived: false,
        end: End::Open,
    };
    let line = Arc::new(Line { mailbox: Mutex::new(mailbox), changed: Notify::new() });
    let sequence = Sequence { line: line.clone(), inbox: inbox.clone() };
    (sequence, Outlet { line, usage, waits_since: Some(Instant::now()), woken: None })
}

impl Outlet {
    pub(crate) fn wish(&self) -> Wish {
        let mailbox = self.line.lock();
        Wish { allowance: mailbox.allowance, stop: mailbox.stop }
    }

    pub(crate) const fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Whether its first step is still to come.
    pub(crate) const fn waits(&self) -> bool {
        self.waits_since.is_some()
    }

    /// Notes that its first step begins at `now`.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.note_wait(now);
    }

    /// Notes that `tokens` more of its prompt were found in the cache, and what that saves.
    pub(crate) fn found(&mut self, tokens: u32, saved: GpuTime) {
        self.usage.cached_tokens += tokens;
        self.line.lock().cached = self.usage.cached_tokens;
        self.usage.times.saved += saved;
    }

    /// Books time on the sequence. What made up for a loss is told, but not billed.
    pub(crate) fn spend(&mut self, phase: Phase, time: GpuTime) {
        let times = &mut self.usage.times;
        match phase {
            Phase::Prefill => times.prefill += time,
            Phase::Decode => times.decode += time,
            Phase::Recompute(_) => {
                times.recompute += time;
                return;
            }
        }
        self.usage.gpu += time;
        self.line.lock().gpu += time;
    }

    /// Sends one output token; a reader that was woken within `interval` finds it when it is woken next.
    pub(crate) fn send(&mut self, id: u32, logprobs: Option<Logprobs>, interval: Duration) {
        self.usage.completion_tokens += 1;
        let mut mailbox = self.line.lock();
        mailbox.spent.push(self.usage.gpu);
        mailbox.ids.push(id);
        mailbox.logprobs.extend(logprobs);
        let waits_for_reader = self.usage.completion_tokens >= mailbox.allowance;
        drop(mailbox);
        let now = Instant::now();
        let recently = self.woken.is_some_and(|woken| now - woken < interval);
        if waits_for_reader || !recently {
            self.woken = Some(now);
            self.line.changed.notify_one();
        }
    }

    /// Ends the sequence. Returns the billable time that is now not its reader's.
    pub(crate) fn finish(mut self, reason: FinishReason) -> WrittenOff {
        let mut usage = self.final_usage();
        let overrun = self.line.lock().overrun(&mut usage);
        self.usage = usage;
        let mut written_off = self.end(Event::Finished { reason, usage });
        written_off.overrun += overrun;
        written_off
    }

    /// The same for a sequence that cannot go on.
    pub(crate) fn fail(mut self, failure: Failure) -> WrittenOff {
        let usage = self.final_usage();
        self.end(Event::Failed { failure, usage })
    }

    fn final_usage(&mut self) -> Usage {
        // A sequence that ends before its first step has only waited.
        self.note_wait(Instant::now());
        self.usage
    }

    fn note_wait(&mut self, until: Instant) {
        if let Some(since) = self.waits_since.take() {
            let nanos = until.saturating_duration_since(since).as_nanos();
            self.usage.times.queue = GpuTime::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
    }

    fn end(&self, event: Event) -> WrittenOff {
        let mut mailbox = self.line.lock();
        let gpu = self.usage.gpu;
        let written_off = match (mailbox.waived, mailbox.gone) {
            (true, _) => WrittenOff { hedge: gpu, ..WrittenOff::default() },
            (false, true) => WrittenOff { abandoned: gpu, ..WrittenOff::default() },
            (false, false) => WrittenOff::default(),
        };
        if mailbox.gone {
            mailbox.end = End::WrittenOff;
            return written_off;
        }
        mailbox.end = End::Due(event);
        drop(mailbox);
        self.line.changed.notify_one();
        written_off
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if self.line.lock().end == End::Open {
            let usage = self.final_usage();
            // The step thread is ending, and its books are closed.
            let _ = self.end(Event::Failed { failure: Failure::Stopped, usage });
        }
    }
}

struct Line {
    mailbox: Mutex<Mailbox>,
    changed: Notify,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Mailbox {
    /// Output index of `ids[0]`.
    first: u32,
    /// Output index of the first token that was produced here.
    begins: u32,
    /// What had been spent when each token from there on was told; steps are booked before their tokens are told.
    spent: Vec<GpuTime>,
    ids: Vec<u32>,
    /// One for each of `ids`, or none.
    logprobs: Vec<Logprobs>,
    gpu: GpuTime,
    /// Prompt tokens that the cache held.
    cached: u32,
    allowance: u32,
    stop: Option<FinishReason>,
    /// Tokens of the output that count, if it is to stop and not all of them do.
    kept: Option<u32>,
    /// Nobody reads any more.
    gone: bool,
    /// Another worker was faster. Its time is written off if it has ended, and will be if it has not.
    waived: bool,
    end: End,
}

#[derive(PartialEq)]
enum End {
    Open,
    Due(Event),
    /// Read: so much of it was billable.
    Read(GpuTime),
    /// Nobody can read it any more.
    WrittenOff,
}

enum Taken {
    Event(Event),
    Nothing,
    Over,
}

impl Mailbox {
    /// Takes out of `usage` what was spent after the tokens that its reader said it keeps.
    fn overrun(&self, usage: &mut Usage) -> GpuTime {
        self.kept.map_or(GpuTime::ZERO, |kept| self.cut(usage, kept))
    }

    /// Takes out of `usage` what was spent after the `kept`th token of the output.
    fn cut(&self, usage: &mut Usage, kept: u32) -> GpuTime {
        let until = match kept.checked_sub(self.begins) {
            None | Some(0) => GpuTime::ZERO,
            Some(own) => self.spent.get(own as usize - 1).copied().unwrap_or(usage.gpu),
        };
        let overrun = usage.gpu - until.min(usage.gpu);
        usage.gpu = usage.gpu - overrun;
        // The first token comes out of the prompt's own step, so it is decoding that goes on for too long.
        let decode = overrun.min(usage.times.decode);
        usage.times.decode = usage.times.decode - decode;
        usage.times.prefill = usage.times.prefill - (overrun - decode);
        overrun
    }

    fn take(&mut self) -> Taken {
        if !self.ids.is_empty() {
            let ids = std::mem::take(&mut self.ids);
            let gpu = std::mem::take(&mut self.gpu);
            let logprobs = std::mem::take(&mut self.logprobs);
            let first = self.first;
            self.first += ids.len() as u32;
            return Taken::Event(Event::Tokens { first, ids, gpu, logprobs, cached: self.cached });
        }
        match std::mem::replace(&mut self.end, End::WrittenOff) {
            End::Due(event) => {
                self.end = End::Read(billable(&event));
                Taken::Event(event)
            }
            End::Open => {
                self.end = End::Open;
                Taken::Nothing
            }
            over @ (End::Read(_) | End::WrittenOff) => {
                self.end = over;
                Taken::Over
            }
        }
    }
}

/// The billable time that a last event tells of.
fn billable(event: &Event) -> GpuTime {
    event.usage().map_or(GpuTime::ZERO, |usage| usage.gpu)
}

/// How often one of `readers` readers is woken at most, so that waking all of them takes a bounded part of
/// the machine. Text that comes 50 times a second is read as if it came at once.
pub(crate) fn wake_interval(readers: usize) -> Duration {
    let readers = u32::try_from(readers).unwrap_or(u32::MAX);
    WAKE_PACE.saturating_mul(readers).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

/// From one wake to the next, whoever is woken.
const WAKE_PACE: Duration = Duration::from_micros(1_250);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
const LONGEST_INTERVAL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn step(outlet: &mut Outlet, phase: Phase, nanos: u64) {
        outlet.spend(phase, GpuTime::from_nanos(nanos));
        outlet.send(7, None, Duration::ZERO);
    }

    /// A sequence of three tokens after `generated` others, each of whose steps took ten times the one before.
    fn three_tokens(generated: u32) -> (Arc<Inbox>, Sequence, Outlet) {
        let inbox = Arc::new(Inbox::new(1));
        let usage = Usage { completion_tokens: generated, ..Usage::default() };
        let (sequence, mut outlet) = line(&inbox, 100, usage);
        step(&mut outlet, Phase::Prefill, 1);
        step(&mut outlet, Phase::Decode, 10);
        step(&mut outlet, Phase::Decode, 100);
        outlet.spend(Phase::Decode, GpuTime::from_nanos(1000));
        (inbox, sequence, outlet)
    }

    /// The last event's prefill, decode and billable time.
    async fn told(sequence: &mut Sequence) -> (u64, u64, u64) {
        loop {
            if let Some(Event::Finished { usage, .. }) = sequence.next().await {
                let Usage { times, gpu, .. } = usage;
                return (times.prefill.nanos(), times.decode.nanos(), gpu.nanos());
            }
        }
    }

    #[tokio::test]
    async fn what_follows_the_tokens_a_reader_keeps_is_written_off() {
        for (generated, kept, left) in [
            (0, 1, (1, 0, 1)),
            (0, 2, (1, 10, 11)),
            (5, 7, (1, 10, 11)),
            (5, 5, (0, 0, 0)),
            (5, 2, (0, 0, 0)),
            (0, 9, (1, 1110, 1111)),
        ] {
            let (_, mut sequence, outlet) = three_tokens(generated);
            sequence.stop_after(FinishReason::Stop, kept);
            let written_off = outlet.finish(FinishReason::Stop);
            assert_eq!(told(&mut sequence).await, left, "{kept} kept after {generated}");
            assert_eq!(written_off.overrun.nanos() + left.2, 1111);
        }
    }

    #[tokio::test]
    async fn that_holds_for_one_that_ended_by_itself_until_its_end_was_read() {
        let (inbox, mut sequence, outlet) = three_tokens(0);
        assert_eq!(outlet.finish(FinishReason::Length), WrittenOff::default());
        sequence.stop_after(FinishReason::Stop, 2);
        assert_eq!(told(&mut sequence).await, (1, 10, 11));
        sequence.stop_after(FinishReason::Stop, 1);
        assert_eq!(inbox.orders().written_off.overrun.nanos(), 1100);
    }

    #[test]
    fn time_that_is_written_off_twice_over_is_written_off_once() {
        let (_, sequence, outlet) = three_tokens(0);
        sequence.stop_after(FinishReason::Stop, 2);
        drop(sequence);
        let WrittenOff { abandoned, hedge, overrun } = outlet.finish(FinishReason::Stop);
        assert_eq!((abandoned.nanos(), hedge.nanos(), overrun.nanos()), (11, 0, 1100));
    }
}
