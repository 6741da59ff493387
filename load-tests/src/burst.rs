//! The same request again and again, from threads that wait: what many clients at a time, or a schedule,
//! make of a server, to the microsecond.
//!
//! Beside [`run`](crate::run), which streams and reads what comes: here answers are whole, and the
//! client is as light as can be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::percentiles::Percentiles;
use crate::wire::{Message, Wire};

/// One request, and the clients that send it.
#[derive(Clone, Debug)]
pub struct Burst {
    /// Who is asked.
    pub server: SocketAddr,
    /// What is asked.
    pub message: Message,
    /// Connections, each with one request at a time.
    pub clients: usize,
    /// Before anything is measured.
    pub ramp: Duration,
    /// How long is measured.
    pub window: Duration,
}

/// What a burst came to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answers, from the first request to the last.
    pub answered: u64,
    /// Answers that came within the window, per second.
    pub per_second: f64,
    /// How long requests took that were due within the window.
    pub times: Percentiles,
    /// What went wrong, from the first request to the last: a status, or `broken`.
    pub failures: BTreeMap<String, u64>,
}

/// One client's answers and failures.
#[derive(Default)]
struct Notes {
    /// When each answer was due, and when it came.
    answers: Vec<(Instant, Instant)>,
    failures: BTreeMap<String, u64>,
}

impl Burst {
    /// Every client sends its next request when the last one was answered.
    pub fn closed(&self) -> Tally {
        let began = Instant::now();
        let end = began + self.ramp + self.window;
        self.run(began, &|| {
            let now = Instant::now();
            (now < end).then_some(now)
        })
    }

    /// Requests are due at `arrivals` after the beginning, however slow the answers are. A request that
    /// no client is free for waits, and its wait counts.
    pub fn open(&self, arrivals: &[Duration]) -> Tally {
        let (began, next) = (Instant::now() + START_PAUSE, AtomicUsize::new(0));
        self.run(began, &|| {
            let due = began + *arrivals.get(next.fetch_add(1, Ordering::Relaxed))?;
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "tokio's clock ticks in milliseconds"
                )]
                std::thread::sleep(early);
            }
            Some(due)
        })
    }

    /// Each client asks whenever `turn` says when its next request is due, until there is none.
    fn run(&self, began: Instant, turn: &(impl Fn() -> Option<Instant> + Sync)) -> Tally {
        let notes: Vec<Notes> = std::thread::scope(|scope| {
            let client = || self.client(turn);
            let clients: Vec<_> = (0..self.clients).map(|_| scope.spawn(client)).collect();
            clients.into_iter().filter_map(|client| client.join().ok()).collect()
        });
        let begin = began + self.ramp;
        Tally::of(notes, begin, begin + self.window)
    }

    fn client(&self, turn: &impl Fn() -> Option<Instant>) -> Notes {
        let (mut wire, mut notes) = (Wire::to(self.server), Notes::default());
        while let Some(due) = turn() {
            let failure = match wire.ask(&self.message) {
                Ok((200, _)) => {
                    notes.answers.push((due, Instant::now()));
                    continue;
                }
                Ok((status, _)) => format!("status_{status}"),
                Err(_) => "broken".to_owned(),
            };
            *notes.failures.entry(failure).or_default() += 1;
        }
        notes
    }
}

impl Tally {
    /// How many requests were not answered.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn of(notes: Vec<Notes>, begin: Instant, end: Instant) -> Self {
        let (mut answers, mut failures) = (Vec::new(), BTreeMap::new());
        for mut note in notes {
            answers.append(&mut note.answers);
            for (failure, count) in note.failures {
                *failures.entry(failure).or_default() += count;
            }
        }
        let window = begin..end;
        let within = answers.iter().filter(|(_, came)| window.contains(came)).count();
        let due = answers.iter().filter(|(due, _)| window.contains(due));
        Self {
            answered: answers.len() as u64,
            per_second: within as f64 / (end - begin).as_secs_f64(),
            times: due.map(|(due, came)| came.duration_since(*due)).collect(),
            failures,
        }
    }
}

/// Enough for every client's thread to be there when the first request is due.
const START_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_when_they_came_and_times_when_they_were_due() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let early = Notes { answers: vec![(at(0), at(2)), (at(1), at(4))], ..Notes::default() };
        let failures = BTreeMap::from([("status_429".to_owned(), 2)]);
        let late = Notes { answers: vec![(at(4), at(9))], failures };

        let tally = Tally::of(vec![early, late], at(1), at(5));

        assert_eq!(tally.answered, 3);
        assert_eq!(tally.per_second, 0.5);
        assert_eq!(
            [tally.times.at(50.0), tally.times.at(99.0)],
            [3, 5].map(|seconds| Some(Duration::from_secs(seconds)))
        );
        assert_eq!(tally.failed(), 2);
    }

    #[test]
    fn an_open_burst_sends_what_is_due_and_nothing_more() {
        let nobody = Burst {
            server: SocketAddr::from(([127, 0, 0, 1], 1)),
            message: Message::get("/"),
            clients: 3,
            ramp: Duration::ZERO,
            window: Duration::from_millis(10),
        };

        let tally = nobody.open(&[0, 1, 2, 3].map(Duration::from_millis));

        assert_eq!((tally.answered, tally.failures["broken"]), (0, 4));
    }
}
