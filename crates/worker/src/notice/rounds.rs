//! A source that fails: told once, and asked ever more seldom.

use std::fmt::Display;
use std::time::Duration;

/// What is known of a source's failures.
pub(crate) struct Trouble {
    source: &'static str,
    /// From one question to the next while all is well.
    every: Duration,
    /// Failures since it answered last.
    failures: u32,
}

impl Trouble {
    pub(crate) const fn new(source: &'static str, every: Duration) -> Self {
        Self { source, every, failures: 0 }
    }

    /// Notes a failure.
    pub(crate) fn tell(&mut self, error: &dyn Display) {
        if self.failures == 0 {
            tracing::warn!(source = self.source, error = %error, "source of notices fails");
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Notes an answer.
    pub(crate) fn over(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!(source = self.source, "source of notices answers again");
        }
    }

    /// How long to wait before it is asked again.
    pub(crate) fn pause(&self) -> Duration {
        if self.failures == 0 {
            return self.every;
        }
        let longer = self.every.max(SHORTEST_PAUSE) * (1 << self.failures.min(MAX_DOUBLINGS));
        longer.min(LONGEST_PAUSE).max(self.every)
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const MAX_DOUBLINGS: u32 = 6;
/// A notice of half a minute must not be missed because the service failed before.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
