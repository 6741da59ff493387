//! What is no worker's fault, and what a crowded worker may take its time for.

use std::sync::Arc;
use std::time::Duration;

use domain::{Format, GpuTime, Stage};
use futures_util::{StreamExt, stream};
use proto::{Event, Start, Worker, WorkerError};
use routing::{BreakerState, Cause, RouteError, Router, RouterSettings};
use tokio_util::task::AbortOnDropHandle;

use crate::actor::{Actor, Play, then_silence};
use crate::{info, job, job_in, read};

/// A router over one worker, and what follows it.
async fn alone(actor: Arc<Actor>) -> (Arc<Router>, Vec<AbortOnDropHandle<()>>) {
    let router =
        Router::new([("one".to_owned(), actor as Arc<dyn Worker>)], RouterSettings::default());
    let following = router.follow();
    while !router.is_ready() {
        router.changed().await;
    }
    (router, following)
}

fn breaker(router: &Router) -> BreakerState {
    router.figures().workers[0].breaker
}

#[tokio::test(start_paused = true)]
async fn a_format_that_cannot_be_kept_says_nothing_against_its_worker() {
    for begins in [false, true] {
        let actor = Actor::new(move |_| {
            let error = WorkerError::Format("no text fits it".to_owned());
            let failed = Event::Failed { error: error.clone(), usage: None };
            if begins { then_silence(vec![failed]) } else { Err(error) }
        });
        let (router, _following) = alone(actor).await;
        for _ in 0..10 {
            let job = job_in(&info(), 10, Format::Regex("a|b".into()));
            let error = match router.dispatch(&job, 10).await {
                Ok(mut answer) => read(&mut answer).await.unwrap_err(),
                Err(error) => error,
            };
            let expected = WorkerError::Format("no text fits it".to_owned());
            assert!(matches!(error, RouteError::Worker(told) if told == expected));
        }
        assert_eq!(breaker(&router), BreakerState::Closed);
        assert!(
            router.figures().counts.iter().all(|(what, count)| *what != "retried" || *count == 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_blames_a_format_that_nobody_asked_for_is_to_blame() {
    let actor = Actor::new(|_| {
        let error = WorkerError::Format("no text fits it".to_owned());
        then_silence(vec![Event::Failed { error, usage: None }])
    });
    let (router, _following) = alone(actor).await;

    let mut answer = router.dispatch(&job(10), 10).await.unwrap();

    assert!(read(&mut answer).await.is_err());
    assert_eq!(breaker(&router), BreakerState::Open);
}

/// A worker with a queue, that says the first token of a sequence after so long and computes others all the time, or does not.
fn crowded(first: Duration, works: bool) -> Arc<Actor> {
    let actor = Actor::new(move |start| Ok(late(start, first)));
    let state = actor.state.clone();
    state.send_modify(|state| state.waiting = 40);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            state.send_modify(|state| {
                let more = GpuTime::from_nanos(u64::from(works) * 500_000_000);
                state.accounts.requests += more;
            });
        }
    });
    actor
}

fn late(start: &Start, first: Duration) -> Play {
    let at = start.generated.len() as u32;
    let ids = vec![1; start.max_output as usize - at as usize];
    let gpu = GpuTime::from_nanos(1);
    let tokens = Event::Tokens { first: at, ids, gpu, logprobs: Vec::new(), cached: 0 };
    let tokens = stream::once(async move {
        tokio::time::sleep(first).await;
        tokens
    });
    tokens.chain(stream::pending()).boxed()
}

#[tokio::test(start_paused = true)]
async fn waiting_in_a_queue_that_moves_is_no_silence() {
    let (router, _following) = alone(crowded(Duration::from_secs(50), true)).await;

    let mut answer = router.dispatch(&job(10), 10).await.unwrap();
    let piece = answer.next().await.unwrap();

    assert!(matches!(piece, routing::Piece::Tokens { ids, .. } if ids.len() == 10));
    assert!(router.figures().went_on.iter().all(|(_, count)| *count == 0));
    assert_eq!(breaker(&router), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn who_is_passed_over_for_a_minute_goes_elsewhere_and_the_worker_is_not_sick() {
    let began = tokio::time::Instant::now();
    let crowded = crowded(Duration::from_hours(1), true);
    let free = Actor::new(|start| Ok(late(start, Duration::ZERO)));
    free.state.send_modify(|state| state.stage = Stage::Draining);
    let free_later = free.state.clone();
    let workers: [(String, Arc<dyn Worker>); 2] =
        [("one".to_owned(), crowded as _), ("two".to_owned(), free as _)];
    let router = Router::new(workers, RouterSettings::default());
    let _following = router.follow();
    while router.workers().iter().any(|(_, state)| state.is_none()) {
        router.changed().await;
    }

    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(router.dispatch(&job(10), 10).await.unwrap());
    }
    free_later.send_modify(|state| state.stage = Stage::Serving);
    for answer in &mut answers {
        answer.next().await.unwrap();
    }

    assert!(began.elapsed() >= RouterSettings::default().stall.most);
    let figures = router.figures();
    let moved = figures.went_on.iter().filter(|(_, count)| *count > 0);
    assert_eq!(moved.collect::<Vec<_>>(), [&(Cause::PassedOver, 5)]);
    assert!(figures.workers.iter().all(|worker| worker.breaker == BreakerState::Closed));
}

#[tokio::test(start_paused = true)]
async fn who_says_that_others_wait_and_computes_nothing_is_silent() {
    let began = tokio::time::Instant::now();
    let (router, _following) = alone(crowded(Duration::from_hours(1), false)).await;

    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(router.dispatch(&job(10), 10).await.unwrap());
    }
    let answers = answers.iter_mut().map(routing::Answer::next);
    futures_util::future::join_all(answers).await;

    assert!(began.elapsed() < RouterSettings::default().stall.most);
    assert_eq!(breaker(&router), BreakerState::Open);
}
