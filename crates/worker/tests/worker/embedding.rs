//! A worker whose model embeds: what it makes of orders, what it refuses, and how it leaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::{
    Capacity, GpuTime, ModelDigest, ModelKind, NanoUsd, ProjectId, Rent, RequestId, Share,
};
use engine::EngineConfig;
use futures_util::{FutureExt, StreamExt};
use proto::{EmbedOrder, Worker, WorkerError, WorkerState};
use serde_json::Value;
use worker::{LocalWorker, ModelSource};

use crate::conformance::Subject;
use crate::workers::over_a_socket;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/encoders/bert")
}

fn rent() -> Rent {
    Rent::new(NanoUsd::from_dollars(1), Capacity::OnDemand).unwrap()
}

fn embedder(max_waiting: u32) -> Arc<LocalWorker> {
    let config = EngineConfig { max_waiting, ..EngineConfig::default() };
    let source = ModelSource::Folder(folder());
    let worker = LocalWorker::start("bert", &source, config, rent(), &mut |_| {});
    Arc::new(worker.unwrap())
}

fn subject(max_waiting: u32) -> Subject {
    let worker = embedder(max_waiting);
    let model = worker.info().digest.clone();
    Subject { worker, model, capacity: max_waiting as usize }
}

/// The same worker in process, over pipes and over a socket.
async fn everywhere() -> [Subject; 3] {
    let local = embedder(8);
    let model = local.info().digest.clone();
    let over_pipes = Subject { worker: local.over_pipes(), model, capacity: 8 };
    [subject(8), over_pipes, over_a_socket(subject(8)).await]
}

fn order(model: &ModelDigest, texts: &[&[u32]]) -> EmbedOrder {
    EmbedOrder {
        request: RequestId::generate(),
        model: model.clone(),
        texts: texts.iter().map(|text| (*text).into()).collect(),
        share: Share::of(ProjectId::from_u128(1)),
    }
}

async fn until(worker: &Arc<dyn Worker>, wanted: impl Fn(&WorkerState) -> bool) -> WorkerState {
    let mut states = worker.watch().await.unwrap();
    let wait =
        async { states.by_ref().filter(|state| std::future::ready(wanted(state))).next().await };
    let state = tokio::time::timeout(DEADLINE, wait).await.expect("the worker pushes such a state");
    state.expect("the worker goes on pushing its state")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_order_is_answered_with_the_vectors_of_its_texts_and_what_they_took() {
    let golden = std::fs::read(folder().join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let texts: Vec<Vec<u32>> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let expected: Vec<Vec<f32>> = serde_json::from_value(golden["vectors"].clone()).unwrap();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    for subject in everywhere().await {
        let embedded = subject.worker.embed(order(&subject.model, &texts)).await.unwrap();

        assert_eq!(embedded.vectors.len(), expected.len());
        for (vector, expected) in embedded.vectors.iter().zip(&expected) {
            let off = vector.iter().zip(expected).map(|(one, other)| (one - other).abs());
            assert!(off.fold(0.0, f32::max) < 2e-3, "{vector:?} instead of {expected:?}");
        }
        let usage = embedded.usage;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (195, 0));
        assert!(usage.gpu > GpuTime::ZERO);
        let quiet = until(&subject.worker, |state| {
            state.running == 0 && state.accounts.requests == usage.gpu
        });
        let state = quiet.await;
        assert_eq!(state.accounts.owned(), state.accounts.wall);
        assert_eq!(state.models[0].kind, ModelKind::Embedding { dimensions: 64 });
        assert_eq!((state.free_blocks, state.total_blocks), (9, 9), "places, all of them free");
        assert!(state.prompt_token_time > Duration::ZERO, "it tells how fast it is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_can_never_run_is_refused() {
    for subject in everywhere().await {
        let refusal = async |order| subject.worker.embed(order).await.unwrap_err();
        let other = ModelDigest::new("another");
        assert_eq!(
            refusal(order(&other, &[&[2]])).await,
            WorkerError::ModelNotFound(other.clone())
        );
        for texts in [&[&[][..]], &[&[96][..]]] {
            let refused = refusal(order(&subject.model, texts)).await;
            assert!(matches!(refused, WorkerError::Invalid(_)), "{refused:?}");
        }
        let refused = refusal(order(&subject.model, &[&[2; 131][..]])).await;
        assert!(matches!(refused, WorkerError::TooLong(_)), "{refused:?}");
        let refused = subject.worker.generate(subject.start(1)).await.err();
        assert_eq!(refused, Some(WorkerError::ModelNotFound(subject.model.clone())));
        let refused = subject.worker.model_files(&other).await.unwrap_err();
        assert_eq!(refused, WorkerError::ModelNotFound(other));
        let files = subject.worker.model_files(&subject.model).await.unwrap();
        assert!(files.chat_template.is_none() && !files.tokenizer.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_worker_refuses_and_says_when_to_come_again() {
    let subject = subject(1);
    let long = || order(&subject.model, &[&[3; 128][..]; 200]);
    let mut running = Vec::new();
    let full = loop {
        let mut answer = Box::pin(subject.worker.embed(long()));
        match answer.as_mut().now_or_never() {
            Some(Err(refused)) => break refused,
            Some(Ok(_)) => {}
            None => running.push(answer),
        }
    };

    assert!(matches!(full, WorkerError::Full { .. }), "{full:?}");
    drop(running);
    until(&subject.worker, |state| state.running == 0 && state.waiting == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_draining_worker_finishes_what_it_has_and_takes_nothing() {
    let subject = subject(8);
    let mut accepted = subject.worker.embed(order(&subject.model, &[&[3; 128][..]; 50]));
    assert!((&mut accepted).now_or_never().is_none(), "it takes a while");

    subject.worker.drain(None).await.unwrap();

    let refused = subject.worker.embed(order(&subject.model, &[&[2]])).await.unwrap_err();
    assert_eq!(refused, WorkerError::Draining);
    until(&subject.worker, |state| !state.takes_work()).await;
    assert_eq!(accepted.await.unwrap().vectors.len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_still_there_when_the_machine_goes_is_sent_back_and_written_off() {
    let worker = embedder(8);
    let model = worker.info().digest.clone();
    let mut accepted = worker.embed(order(&model, &vec![&[3; 128][..]; 5_000]));
    assert!((&mut accepted).now_or_never().is_none(), "it takes a while");

    worker.drain(Some(Duration::ZERO)).await.unwrap();

    assert_eq!(accepted.await.unwrap_err(), WorkerError::Draining);
    tokio::time::timeout(DEADLINE, worker.out()).await.expect("nothing is on it");
    let worker: Arc<dyn Worker> = worker;
    let rest = until(&worker, |state| state.running == 0).await.accounts;
    assert_eq!((rest.requests, rest.owned()), (GpuTime::ZERO, rest.wall));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_change_of_price_is_pushed_at_once() {
    let subject = subject(8);
    let price = NanoUsd::from_nanos(123_456_789);

    subject.worker.set_price(Rent::new(price, Capacity::Spot).unwrap()).await.unwrap();

    let state = until(&subject.worker, |state| state.price_per_hour == price).await;
    assert_eq!(state.capacity, Capacity::Spot);
}

/// Much longer than any test; a test that would hang fails instead.
const DEADLINE: Duration = Duration::from_mins(1);
