//! A source that is asked again and again: a failure is told once, and then it is asked ever more seldom.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// When a source is asked, and what is known of its failures.
pub(crate) struct Rounds {
    source: &'static str,
    /// From one question to the next while all is well.
    every: Duration,
    /// When to ask next.
    next: Instant,
    /// Failures since it answered last.
    failures: u32,
}

impl Rounds {
    /// Begins now.
    pub(crate) fn new(source: &'static str, every: Duration) -> Self {
        Self { source, every, next: Instant::now(), failures: 0 }
    }

    /// Waits until it is time for the next question. Nothing is lost when the wait is given up.
    pub(crate) async fn turn(&self) {
        tokio::time::sleep_until(self.next).await;
    }

    /// Notes what came of a question, and returns what was learned.
    pub(crate) fn heard<T>(&mut self, answer: Result<T, impl Display>) -> Option<T> {
        let learned = match answer {
            Ok(learned) => {
                if std::mem::take(&mut self.failures) > 0 {
                    tracing::info!(source = self.source, "source of notices answers again");
                }
                Some(learned)
            }
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!(source = self.source, error = %error, "source of notices fails");
                }
                self.failures = self.failures.saturating_add(1);
                None
            }
        };
        self.next = Instant::now() + self.pause();
        learned
    }

    /// How long to wait before it is asked again.
    fn pause(&self) -> Duration {
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
