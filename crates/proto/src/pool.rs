//! Some connections to one worker, and which of them carries a call.
//!
//! A connection is one TCP stream, one task that makes frames and encrypts them, and one window that all of its
//! calls share: with a single one, a lost packet or a large transfer would hold every sequence of that worker
//! up. Each call goes to the connection with the fewest calls, so a second connection is made only when two
//! calls run at a time.

use std::sync::Arc;

/// Connections to one worker.
#[derive(Clone)]
pub(crate) struct Pool<C>(Arc<[Lane<C>]>);

struct Lane<C> {
    client: C,
    /// As many as there are calls, and one.
    calls: Arc<()>,
}

/// A call in progress; it counts until it is dropped.
pub(crate) struct Using {
    _calls: Arc<()>,
}

impl<C: Clone> Pool<C> {
    pub(crate) fn new(clients: impl IntoIterator<Item = C>) -> Self {
        let lane = |client| Lane { client, calls: Arc::new(()) };
        Self(clients.into_iter().map(lane).collect())
    }

    /// The connection that carries the fewest calls. There is one.
    pub(crate) fn least_used(&self) -> (C, Using) {
        let mut lanes = self.0.iter();
        let mut least = lanes.next().expect("a pool is made of at least one connection");
        for lane in lanes {
            if Arc::strong_count(&lane.calls) < Arc::strong_count(&least.calls) {
                least = lane;
            }
        }
        (least.client.clone(), Using { _calls: Arc::clone(&least.calls) })
    }
}

/// Connections to one worker elsewhere. More than a worker's machine has cores for would only cost memory;
/// with four, what happens to one of them concerns a quarter of the sequences.
pub(crate) const CONNECTIONS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_spread_over_connections_and_places_are_taken_again() {
        let pool = Pool::new(["a", "b", "c"]);

        let (first, _first) = pool.least_used();
        let (second, using) = pool.least_used();
        let (third, _third) = pool.least_used();
        drop(using);
        let (fourth, _fourth) = pool.least_used();

        assert_eq!([first, second, third, fourth], ["a", "b", "c", "b"]);
    }

    #[test]
    fn one_call_at_a_time_needs_one_connection() {
        let pool = Pool::new(["a", "b", "c"]);
        for _ in 0..5 {
            assert_eq!(pool.least_used().0, "a");
        }
    }
}
