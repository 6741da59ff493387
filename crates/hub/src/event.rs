//! What is told while a model is pulled, to whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Something worth showing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A sentence.
    Note(String),
    /// So many bytes of so many are here.
    Progress {
        /// Bytes that are here, those of earlier attempts included.
        done: u64,
        /// Bytes of all the files.
        total: u64,
    },
}

/// Whoever shows it. Called from several tasks, often: it must not wait.
pub type Show<'a> = dyn Fn(Event) + Send + Sync + 'a;

/// Counts, and tells.
pub(crate) struct Teller<'a> {
    show: &'a Show<'a>,
    done: AtomicU64,
    total: AtomicU64,
    fetched: AtomicU64,
}

impl<'a> Teller<'a> {
    pub(crate) const fn new(show: &'a Show<'a>) -> Self {
        let [done, total, fetched] = [const { AtomicU64::new(0) }; 3];
        Self { show, done, total, fetched }
    }

    pub(crate) fn note(&self, text: String) {
        (self.show)(Event::Note(text));
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.show();
    }

    /// Bytes that came over the network.
    pub(crate) fn came(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.have(bytes);
    }

    /// Bytes that were here.
    pub(crate) fn have(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        self.show();
    }

    /// Bytes that are worth nothing after all.
    pub(crate) fn lost(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    fn show(&self) {
        let done = self.done.load(Ordering::Relaxed);
        (self.show)(Event::Progress { done, total: self.total.load(Ordering::Relaxed) });
    }
}
