//! Hedges under a stopped clock: who is told what, and when.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::{FinishReason, GpuTime, ModelDigest, ModelFiles, Rent, Usage};
use futures_util::{Stream, StreamExt as _, stream};
use proto::{Event, Generation, Start, StateStream, Wishes, Worker, WorkerError, WorkerState};
use routing::{Answer, Piece, Router, RouterSettings};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{files, info, job, read};

/// A worker whose sequences say one token after a while.
struct Racer {
    first_token_in: Duration,
    /// What it tells of that, and the router believes.
    predicted: Duration,
    fails: bool,
    ends: Arc<Mutex<Vec<(End, Duration)>>>,
}

/// What became of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Read,
    Waived,
    Dropped,
}

/// Notes when and how a sequence ends.
struct Notes {
    began: Instant,
    end: End,
    ends: Arc<Mutex<Vec<(End, Duration)>>>,
}

impl Notes {
    const fn end_as(&mut self, end: End) {
        self.end = end;
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.ends.lock().unwrap().push((self.end, self.began.elapsed()));
    }
}

impl Racer {
    fn new(predicted_millis: u64, first_token_in: Duration) -> Arc<Self> {
        Arc::new(Self::predicting(predicted_millis, first_token_in))
    }

    fn predicting(predicted_millis: u64, first_token_in: Duration) -> Self {
        let predicted = Duration::from_millis(predicted_millis);
        Self { first_token_in, predicted, fails: false, ends: Arc::default() }
    }

    fn run(&self, wishes: Wishes) -> Pin<Box<dyn Stream<Item = Event> + Send>> {
        let notes =
            Notes { began: Instant::now(), end: End::Dropped, ends: Arc::clone(&self.ends) };
        let (due, fails) = (notes.began + self.first_token_in, self.fails);
        let events = stream::unfold(
            (notes, wishes, 0),
            move |(mut notes, mut wishes, told)| async move {
                let event = match told {
                    0 => tokio::select! {
                        biased;
                        () = stopped(&mut wishes) => finished(FinishReason::Cancelled),
                        () = tokio::time::sleep_until(due) => if fails { failed() } else { token() },
                    },
                    _ => finished(FinishReason::Length),
                };
                if wishes.are_to_waive() {
                    notes.end_as(End::Waived);
                    return None;
                }
                if matches!(event, Event::Finished { .. }) {
                    notes.end_as(End::Read);
                }
                Some((event, (notes, wishes, told + 1)))
            },
        );
        events.boxed()
    }

    fn ends(&self) -> Vec<(End, Duration)> {
        self.ends.lock().unwrap().clone()
    }
}

/// Resolves when it is wished that the sequence ends.
async fn stopped(wishes: &mut Wishes) {
    while let Some((_, stop)) = wishes.next().await {
        if stop.is_some() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

fn finished(reason: FinishReason) -> Event {
    Event::Finished { reason, usage: usage() }
}

fn failed() -> Event {
    let error = WorkerError::Failed("as it was told to".to_owned());
    Event::Failed { error, usage: Some(usage()) }
}

fn usage() -> Usage {
    Usage { prompt_tokens: 3, completion_tokens: 1, ..Usage::default() }
}

fn token() -> Event {
    Event::Tokens { first: 0, ids: vec![7], gpu: GpuTime::ZERO, logprobs: Vec::new(), cached: 0 }
}

#[async_trait]
impl Worker for Racer {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        Ok(Generation::new(start.allowance, |wishes| self.run(wishes)))
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        let state = WorkerState {
            models: vec![info()],
            free_blocks: 100,
            total_blocks: 100,
            first_token_in: self.predicted,
            ..WorkerState::default()
        };
        Ok(stream::iter([state]).chain(stream::pending()).boxed())
    }

    async fn drain(&self, _: Option<Duration>) -> Result<(), WorkerError> {
        Ok(())
    }

    async fn set_price(&self, _: Rent) -> Result<(), WorkerError> {
        Ok(())
    }

    async fn model_files(&self, _: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        Ok(files())
    }
}

/// An answer of one token that `first` begins, hedged after two seconds.
async fn hedged(first: &Arc<Racer>, second: &Arc<Racer>) -> (Answer, Vec<AbortOnDropHandle<()>>) {
    let named = |name: &str, racer: &Arc<Racer>| (name.to_owned(), Arc::clone(racer) as _);
    let settings = RouterSettings { hedge_after: Some(AFTER), ..RouterSettings::default() };
    let router = Router::new([named("first", first), named("second", second)], settings);
    let following = router.follow();
    while router.workers().iter().any(|(_, state)| state.is_none()) {
        router.changed().await;
    }
    let answer = router.dispatch(&job(1), 1).await.unwrap();
    assert_eq!(answer.worker(), "first", "it predicts the earlier token");
    (answer, following)
}

#[tokio::test(start_paused = true)]
async fn the_first_worker_is_waived_at_once_when_the_second_is_faster() {
    let (first, second) = (Racer::new(0, LONG), Racer::new(100, SECOND));
    let (mut answer, _following) = hedged(&first, &second).await;

    let began = Instant::now();
    assert!(matches!(answer.next().await, Ok(Piece::Tokens { .. })));
    assert_eq!((answer.worker(), began.elapsed()), ("second", AFTER + SECOND));
    let (_, reason) = read(&mut answer).await.unwrap();
    assert_eq!((reason, answer.work().len()), (FinishReason::Length, 1), "one worker's work");
    drop(answer);

    settle().await;
    assert_eq!(first.ends(), [(End::Waived, AFTER + SECOND)]);
    assert_eq!(second.ends(), [(End::Read, SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn the_second_worker_is_waived_at_once_when_the_first_is_faster() {
    let (first, second) = (Racer::new(0, AFTER + SECOND), Racer::new(100, LONG));
    let (mut answer, _following) = hedged(&first, &second).await;

    let (tokens, _) = read(&mut answer).await.unwrap();

    settle().await;
    assert_eq!((tokens, answer.worker()), (vec![7], "first"));
    assert_eq!(second.ends(), [(End::Waived, SECOND)]);
    drop(answer);
    assert_eq!(first.ends(), [(End::Read, AFTER + SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_hedged_who_begins_in_time() {
    let (first, second) = (Racer::new(0, SECOND), Racer::new(100, SECOND));
    let (mut answer, _following) = hedged(&first, &second).await;

    read(&mut answer).await.unwrap();
    sleep(LONG).await;

    assert_eq!(second.ends(), []);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_abandons_the_first_worker_and_waives_the_second() {
    let (first, second) = (Racer::new(0, LONG), Racer::new(100, LONG));
    let (mut answer, _following) = hedged(&first, &second).await;

    assert!(tokio::time::timeout(AFTER + SECOND, answer.next()).await.is_err());
    drop(answer);

    settle().await;
    assert_eq!(first.ends(), [(End::Dropped, AFTER + SECOND)]);
    assert_eq!(second.ends(), [(End::Waived, SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_that_won_and_was_not_heard_is_waived_too() {
    let (first, second) = (Racer::new(0, LONG), Racer::new(100, SECOND));
    let (answer, _following) = hedged(&first, &second).await;

    sleep(AFTER + 2 * SECOND).await;
    drop(answer);

    settle().await;
    assert_eq!(second.ends(), [(End::Waived, 2 * SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_that_fails_is_waived_and_the_first_goes_on() {
    let first = Racer::new(0, AFTER + 2 * SECOND);
    let second = Arc::new(Racer { fails: true, ..Racer::predicting(100, SECOND) });
    let (mut answer, _following) = hedged(&first, &second).await;

    let (tokens, _) = read(&mut answer).await.unwrap();

    settle().await;
    assert_eq!((tokens, answer.worker()), (vec![7], "first"));
    assert_eq!(second.ends(), [(End::Waived, SECOND)]);
}

/// Lets what is on its way arrive; no time passes.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

const AFTER: Duration = Duration::from_secs(2);
const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(8);
