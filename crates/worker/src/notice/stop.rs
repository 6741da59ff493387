//! SIGTERM, or whatever else the process takes for the order to end.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;

use super::{Notice, NoticeSource};

/// The order to end within some time.
pub(crate) struct Stop {
    /// Absent once it came.
    ordered: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    within: Duration,
}

impl Stop {
    /// The order comes when `ordered` resolves.
    pub(crate) fn new(
        ordered: impl Future<Output = ()> + Send + 'static,
        within: Duration,
    ) -> Self {
        Self { ordered: Some(Box::pin(ordered)), within }
    }
}

#[async_trait]
impl NoticeSource for Stop {
    fn name(&self) -> &'static str {
        "stop"
    }

    async fn next(&mut self) -> Notice {
        let Some(ordered) = &mut self.ordered else { return std::future::pending().await };
        ordered.await;
        self.ordered = None;
        Notice::Exit(self.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_order_comes_once() {
        let mut stop = Stop::new(std::future::ready(()), Duration::from_secs(3));

        assert_eq!(stop.next().await, Notice::Exit(Duration::from_secs(3)));
        assert!(tokio::time::timeout(Duration::from_hours(1), stop.next()).await.is_err());
    }
}
