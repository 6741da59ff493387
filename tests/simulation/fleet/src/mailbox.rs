//! What passes between a sequence's reader and the machine that computes it.
//!
//! The machine puts tokens in and looks at the wishes at each of its steps; the reader takes out what has come since
//! it last did. Bounded by the output, which is bounded.

use std::sync::{Mutex, MutexGuard, PoisonError};

use domain::{FinishReason, GpuTime};
use proto::Event;
use tokio::sync::Notify;

/// Between one reader and one machine.
pub(crate) struct Mailbox {
    inside: Mutex<Inside>,
    /// Rings when the reader is to look.
    bell: Notify,
}

struct Inside {
    first: u32,
    ids: Vec<u32>,
    gpu: GpuTime,
    end: Option<Event>,
    wishes: Wishes,
}

/// What the reader wishes, and what its machine was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    /// Tokens paid for, in total.
    pub(crate) allowance: u32,
    pub(crate) stop: Option<FinishReason>,
    /// It is to go on elsewhere.
    pub(crate) hand_over: bool,
    /// Nobody reads any more.
    pub(crate) gone: bool,
}

impl Mailbox {
    /// For a sequence whose next token is the one at `first`.
    pub(crate) fn new(first: u32, allowance: u32) -> Self {
        let wishes = Wishes { allowance, stop: None, hand_over: false, gone: false };
        let inside = Inside { first, ids: Vec::new(), gpu: GpuTime::ZERO, end: None, wishes };
        Self { inside: Mutex::new(inside), bell: Notify::new() }
    }

    pub(crate) fn wishes(&self) -> Wishes {
        self.inside().wishes
    }

    pub(crate) fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.inside().wishes);
    }

    /// A token; `told` if the reader is to know at once.
    pub(crate) fn put(&self, id: u32, gpu: GpuTime, told: bool) {
        let mut inside = self.inside();
        inside.ids.push(id);
        inside.gpu += gpu;
        drop(inside);
        if told {
            self.bell.notify_one();
        }
    }

    pub(crate) fn end(&self, event: Event) {
        self.inside().end.get_or_insert(event);
        self.bell.notify_one();
    }

    /// Waits for the next event.
    pub(crate) async fn next(&self) -> Event {
        loop {
            if let Some(event) = self.take() {
                return event;
            }
            self.bell.notified().await;
        }
    }

    fn take(&self) -> Option<Event> {
        let mut inside = self.inside();
        if inside.ids.is_empty() {
            return inside.end.take();
        }
        let ids = std::mem::take(&mut inside.ids);
        let gpu = std::mem::take(&mut inside.gpu);
        let first = inside.first;
        inside.first += ids.len() as u32;
        Some(Event::Tokens { first, ids, gpu, logprobs: Vec::new(), cached: 0 })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
