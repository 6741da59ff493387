//! The latest value of something, and whoever waits for it to change.
//!
//! Those who wait are woken in the order in which they began to: what follows from a change is the same in every run of
//! the same events. Tokio's own watch channel wakes them in an order that it draws by lot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A value that changes.
#[derive(Default)]
pub(crate) struct Latest<T>(Arc<Shared<T>>);

/// Follows a value, for one who waits.
pub(crate) struct Follower<T> {
    shared: Arc<Shared<T>>,
    /// How often it had changed when it was looked at last.
    seen: u64,
}

#[derive(Default)]
struct Shared<T> {
    value: Mutex<(T, u64)>,
    bell: Notify,
}

impl<T: Copy + Default> Latest<T> {
    /// Its value now.
    pub(crate) fn value(&self) -> T {
        self.0.value().0
    }

    /// Follows it from now on.
    pub(crate) fn follow(&self) -> Follower<T> {
        let seen = self.0.value().1;
        Follower { shared: Arc::clone(&self.0), seen }
    }

    /// Changes it; those who wait are told if that is news.
    pub(crate) fn set(&self, value: T, is_news: impl FnOnce(&T) -> bool) {
        let mut known = self.0.value();
        let news = is_news(&known.0);
        *known = (value, known.1 + u64::from(news));
        drop(known);
        if news {
            self.0.bell.notify_waiters();
        }
    }
}

impl<T: Copy> Follower<T> {
    /// Waits for news, and returns the value then. Nothing is lost if this is dropped before it is done.
    pub(crate) async fn changed(&mut self) -> T {
        loop {
            let rung = self.shared.bell.notified();
            tokio::pin!(rung);
            // From here on a change is not missed.
            rung.as_mut().enable();
            let (value, changes) = *self.shared.value();
            if changes != self.seen {
                self.seen = changes;
                return value;
            }
            rung.await;
        }
    }

    /// Its value now.
    pub(crate) fn value(&self) -> T {
        self.shared.value().0
    }

    /// Makes the next [`Follower::changed`] return at once.
    pub(crate) fn mark_changed(&mut self) {
        self.seen = u64::MAX;
    }
}

impl<T> Shared<T> {
    fn value(&self) -> MutexGuard<'_, (T, u64)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_reach_all_who_wait_in_their_order_and_nothing_else_does() {
        let latest = Arc::new(Latest::<u32>::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (mut follower, order) = (latest.follow(), Arc::clone(&order));
            waiting.spawn(async move {
                let value = follower.changed().await;
                order.lock().unwrap().push((number, value));
            });
        }
        tokio::task::yield_now().await;
        latest.set(7, |_| false);
        tokio::task::yield_now().await;
        assert_eq!((order.lock().unwrap().len(), latest.value()), (0, 7));

        latest.set(8, |known| *known == 7);
        waiting.join_all().await;
        assert_eq!(*order.lock().unwrap(), (0..50).map(|number| (number, 8)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_changed_before_it_was_waited_for_is_news() {
        let latest = Latest::<u32>::default();
        let mut follower = latest.follow();
        latest.set(1, |_| true);
        assert_eq!(follower.changed().await, 1);
        follower.mark_changed();
        assert_eq!((follower.changed().await, follower.value()), (1, 1));
    }
}
