//! A worker with a real engine that leaves: what cannot end in time goes on elsewhere, token for token, and
//! every nanosecond is accounted for once.

use std::sync::Arc;
use std::time::Duration;

use domain::{FinishReason, GpuTime, Stage, Usage};
use futures_util::StreamExt;
use proto::{Event, Generation, GrpcWorker, Start, Worker, WorkerState};
use tokio::net::TcpListener;
use worker::{LocalWorker, NoticeSettings, Serving};

use crate::conformance::Subject;
use crate::workers::local;

/// Everything a sequence says up to its last event.
async fn read(generation: &mut Generation) -> (Vec<u32>, Event) {
    let mut tokens = Vec::new();
    loop {
        match generation.next().await {
            Some(Event::Tokens { ids, .. }) => tokens.extend(ids),
            Some(last) => return (tokens, last),
            None => panic!("every sequence has a last event"),
        }
    }
}

async fn begun(subject: &Subject, start: Start) -> (Generation, Vec<u32>) {
    let mut generation = subject.worker.generate(start).await.unwrap();
    let Some(Event::Tokens { ids, .. }) = generation.next().await else {
        panic!("it begins with a token");
    };
    (generation, ids)
}

/// Waits until a worker is empty and its books are what `usages` say.
async fn balanced(worker: &dyn Worker, usages: &[Usage]) -> WorkerState {
    let billed: GpuTime = usages.iter().map(|usage| usage.gpu).sum();
    let mut states = worker.watch().await.unwrap();
    let wait = async {
        loop {
            let state = states.next().await.expect("it goes on telling its state");
            if state.running + state.waiting == 0 && state.accounts.requests == billed {
                return state;
            }
        }
    };
    let state = tokio::time::timeout(LIMIT, wait).await.expect("rows and accounts agree");
    assert_eq!(state.accounts.owned(), state.accounts.wall);
    assert_eq!(state.accounts.abandoned, GpuTime::ZERO, "every end was read");
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sequence_that_is_handed_over_goes_on_elsewhere_token_for_token() {
    let (first, second) = (local().0, local().0);
    let (whole, end) = read(&mut second.worker.generate(second.start(1_200)).await.unwrap()).await;
    let Event::Finished { usage: undisturbed, .. } = end else { panic!("{end:?}") };
    let (mut generation, mut tokens) = begun(&first, first.start(1_200)).await;

    first.worker.drain(Some(Duration::from_millis(100))).await.unwrap();
    let (more, end) = read(&mut generation).await;
    tokens.extend(more);

    let Event::HandedOver { usage } = end else { panic!("{end:?}") };
    assert_eq!(usage.completion_tokens as usize, tokens.len());
    assert!(tokens.len() < whole.len(), "100 ms are not enough for all of it");
    let start = Start { generated: tokens.clone(), ..second.start(1_200) };
    let (rest, end) = read(&mut second.worker.generate(start).await.unwrap()).await;
    tokens.extend(rest);
    assert_eq!(tokens, whole);
    let Event::Finished { reason: FinishReason::Length, usage: rest } = end else {
        panic!("{end:?}")
    };
    let state = balanced(first.worker.as_ref(), &[usage]).await;
    assert_eq!(state.stage, Stage::Evacuating);
    assert!(state.leaves_in.is_some());
    balanced(second.worker.as_ref(), &[undisturbed, rest]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_waits_and_what_is_unpaid_goes_on_elsewhere_too() {
    let subject = local().0;
    let mut sequences = Vec::new();
    for _ in 0..4 {
        let unpaid = Start { allowance: 1, ..subject.start(1_200) };
        sequences.push(begun(&subject, unpaid).await.0);
    }
    for _ in 0..2 {
        sequences.push(subject.worker.generate(subject.start(1_200)).await.unwrap());
    }

    subject.worker.drain(Some(Duration::ZERO)).await.unwrap();

    let mut usages = Vec::new();
    for sequence in &mut sequences {
        match read(sequence).await {
            (_, Event::HandedOver { usage }) => usages.push(usage),
            (_, other) => panic!("expected a hand-over, not {other:?}"),
        }
    }
    balanced(subject.worker.as_ref(), &usages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_stops_a_sequence_on_its_way_out_is_told_its_own_reason() {
    let subject = local().0;
    let (mut generation, _) = begun(&subject, subject.start(1_200)).await;

    generation.control().stop(FinishReason::Stop);
    subject.worker.drain(Some(Duration::ZERO)).await.unwrap();

    let (_, end) = read(&mut generation).await;
    assert!(matches!(end, Event::Finished { reason: FinishReason::Stop, .. }), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_at_risk_takes_work_and_says_so() {
    let (subject, worker) = local();

    worker.warn();

    let state = subject.worker.watch().await.unwrap().next().await.unwrap();
    assert!(state.at_risk && state.takes_work());
    assert!(subject.worker.generate(subject.start(1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_notice_empties_a_worker_and_the_order_to_end_ends_it() {
    let (subject, worker) = local();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leave");
    let (order, ordered) = tokio::sync::oneshot::channel();
    let notices = vec![NoticeSettings::File { path: path.clone(), every: EVERY }];
    let (remote, mut serving) = serve(worker, Serving { notices, ..serving() }, ordered).await;
    let mut generation = remote.generate(subject.start(1_200)).await.unwrap();
    generation.next().await.unwrap();

    std::fs::write(&path, "0").unwrap();

    let (_, end) = read(&mut generation).await;
    assert!(matches!(end, Event::HandedOver { .. }), "{end:?}");
    assert!(remote.generate(subject.start(1)).await.is_err(), "it takes nothing new");
    assert!(tokio::time::timeout(EVERY * 10, &mut serving).await.is_err(), "nobody ordered that");
    drop(order);
    tokio::time::timeout(LIMIT, serving).await.expect("it ends").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_notice_of_aws_over_the_network_empties_a_worker() {
    let (subject, worker) = local();
    let (going, goes) = tokio::sync::watch::channel(false);
    let metadata =
        axum::Router::new().route("/latest/api/token", axum::routing::put(async || "token")).route(
            "/latest/meta-data/spot/instance-action",
            axum::routing::get(async move || {
                let action = r#"{"action":"terminate","time":"2017-09-18T08:22:00Z"}"#;
                goes.borrow().then_some(action).ok_or(axum::http::StatusCode::NOT_FOUND)
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, metadata).await.unwrap() });
    let (_order, ordered) = tokio::sync::oneshot::channel();
    let notices = vec![NoticeSettings::Aws { address, every: EVERY }];
    let (remote, _serving) = serve(worker, Serving { notices, ..serving() }, ordered).await;
    let mut generation = remote.generate(subject.start(1_200)).await.unwrap();
    generation.next().await.unwrap();

    going.send_replace(true);

    let (_, end) = read(&mut generation).await;
    assert!(matches!(end, Event::HandedOver { .. }), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_order_to_end_hands_over_what_does_not_fit_into_the_drain_timeout() {
    let (subject, worker) = local();
    let (order, ordered) = tokio::sync::oneshot::channel();
    let settings = Serving { drain_timeout: Duration::from_millis(200), ..serving() };
    let (remote, serving) = serve(worker, settings, ordered).await;
    let mut generation = remote.generate(subject.start(1_500)).await.unwrap();
    generation.next().await.unwrap();

    drop(order);

    let (_, end) = read(&mut generation).await;
    assert!(matches!(end, Event::HandedOver { .. }), "{end:?}");
    tokio::time::timeout(LIMIT, serving).await.expect("it ends").unwrap();
}

fn serving() -> Serving {
    Serving { drain_timeout: LIMIT, ..Serving::default() }
}

/// A worker served on a socket until the order comes, and how to reach it.
async fn serve(
    worker: Arc<LocalWorker>,
    serving: Serving,
    ordered: tokio::sync::oneshot::Receiver<()>,
) -> (GrpcWorker, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let stop = async {
        let _ = ordered.await;
    };
    let task =
        tokio::spawn(async { worker::serve(worker, listener, serving, stop).await.unwrap() });
    (GrpcWorker::new(&address, None).unwrap(), task)
}

const EVERY: Duration = Duration::from_millis(10);
/// Much longer than any test; a test that would hang fails instead.
const LIMIT: Duration = Duration::from_mins(1);
