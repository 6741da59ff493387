//! Workers that say what cannot be, or nothing: nobody's answer suffers.

use std::sync::Arc;
use std::time::Duration;

use domain::{FinishReason, GpuTime, Usage};
use futures_util::{StreamExt, stream};
use proto::{Event, ScriptedWorker, Start, Worker, WorkerError};
use routing::{BreakerState, Router, RouterSettings};

use crate::actor::{Actor, Play, then_silence};
use crate::{files, info, job, read};

fn tokens(start: &Start, ids: Vec<u32>) -> Event {
    let first = start.generated.len() as u32;
    Event::Tokens { first, ids, gpu: GpuTime::from_nanos(1), logprobs: Vec::new(), cached: 0 }
}

type Lie = fn(&Start) -> Result<Play, WorkerError>;

const LIES: &[(&str, Lie)] = &[
    ("unknown tokens", |start| then_silence(vec![tokens(start, vec![1_000_000])])),
    ("a gap", |_| {
        let gpu = GpuTime::ZERO;
        then_silence(vec![Event::Tokens {
            first: 99,
            ids: vec![1],
            gpu,
            logprobs: Vec::new(),
            cached: 0,
        }])
    }),
    ("too much", |start| then_silence(vec![tokens(start, vec![1; 5000])])),
    ("an end without a reason", |_| {
        let (reason, usage) = (FinishReason::Length, Usage::default());
        then_silence(vec![Event::Finished { reason, usage }])
    }),
    ("nothing", |_| then_silence(Vec::new())),
    ("nothing new for ever", |start| {
        let nothing = tokens(start, Vec::new());
        let events = stream::unfold(nothing, |nothing| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((nothing.clone(), nothing))
        });
        Ok(events.boxed())
    }),
    ("hand-overs without leaving", |_| {
        then_silence(vec![Event::HandedOver { usage: Usage::default() }])
    }),
    ("that it has no room", |_| Err(WorkerError::Full { retry_in: Duration::from_hours(9) })),
    ("that it fails", |_| Err(WorkerError::Failed("out of luck".to_owned()))),
];

#[tokio::test(start_paused = true)]
async fn whatever_a_worker_says_answers_are_those_of_honest_ones() {
    for (lie, play) in LIES {
        let honest = Arc::new(ScriptedWorker::new(info(), files(), 100));
        let workers: [(String, Arc<dyn Worker>); 2] = [
            ("liar".to_owned(), Actor::new(play) as Arc<dyn Worker>),
            ("honest".to_owned(), Arc::clone(&honest) as _),
        ];
        let router = Router::new(workers, RouterSettings::default());
        let _following = router.follow();
        while router.workers().iter().any(|(_, state)| state.is_none()) {
            router.changed().await;
        }
        let expected: Vec<u32> = (0..10).map(|at| honest.token(&[1, 2, 3], at)).collect();

        for _ in 0..30 {
            let mut answer = router.dispatch(&job(10), 10).await.unwrap();
            let (said, _) = read(&mut answer).await.unwrap();
            assert_eq!(said, expected, "{lie}");
        }

        let figures = router.figures();
        let liar = figures.workers.iter().find(|worker| worker.name == "liar").unwrap();
        let full = *lie == "that it has no room";
        assert!(full || liar.breaker != BreakerState::Closed, "{lie}: {:?}", figures.went_on);
    }
}

#[tokio::test(start_paused = true)]
async fn time_that_did_not_pass_is_not_billed() {
    let play: Lie = |start| {
        let usage = Usage { gpu: GpuTime::from_nanos(u64::MAX), ..Usage::default() };
        let reason = FinishReason::Stop;
        let gpu = GpuTime::from_nanos(u64::MAX);
        let token = Event::Tokens { first: 0, ids: vec![1], gpu, logprobs: Vec::new(), cached: 0 };
        assert!(start.generated.is_empty());
        then_silence(vec![token, Event::Finished { reason, usage }])
    };
    let router = Router::new(
        [("liar".to_owned(), Actor::new(play) as Arc<dyn Worker>)],
        RouterSettings::default(),
    );
    let _following = router.follow();
    while !router.is_ready() {
        router.changed().await;
    }

    let mut answer = router.dispatch(&job(10), 10).await.unwrap();
    read(&mut answer).await.unwrap();

    assert!(answer.used().usage.gpu.nanos() <= 1_000_000_000, "{:?}", answer.used());
    assert_eq!(answer.work()[0].gpu, answer.used().usage.gpu, "the books agree");
}
