//! A worker answers while it computes, however long that takes.

use std::sync::Arc;

use domain::{Capacity, NanoUsd, Rent};
use engine::EngineConfig;
use futures_util::StreamExt as _;
use proto::{Event, Start};
use worker::{LocalWorker, ModelSource};

use crate::conformance::Subject;
use crate::workers::over_a_socket;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_asks_is_answered_while_a_long_prompt_is_computed() {
    // A token in a step: as many steps as a large model takes for a long prompt.
    let config = EngineConfig { prefill_chunk: 1, compute_threads: 1, ..EngineConfig::default() };
    let rent = Rent::new(NanoUsd::from_dollars(1), Capacity::OnDemand).unwrap();
    let load = || LocalWorker::start("demo", &ModelSource::Demo, config, rent, &mut |_| {});
    let worker = Arc::new(load().unwrap());
    let model = worker.info().digest.clone();
    let subject = over_a_socket(Subject { worker, model, capacity: 1 }).await;
    let prompt: Vec<u32> = (0..LONG).map(|at| 300 + at % 3_000).collect();
    let mut states = subject.worker.watch().await.unwrap();

    let start = Start { prompt: prompt.into(), ..subject.start(2) };
    let mut long = subject.worker.generate(start).await.unwrap();
    let mut left = Vec::new();
    while left.len() < 3 {
        let state = states.next().await.unwrap();
        if state.waiting_tokens > 0 {
            left.push(state.waiting_tokens);
            subject.worker.model_files(&subject.model).await.unwrap();
        }
    }

    assert!(left.is_sorted_by(|one, next| one > next), "it is computed meanwhile: {left:?}");
    assert!(left[2] > 1, "it was answered three times before the prompt was computed: {left:?}");
    let Some(Event::Tokens { first: 0, .. }) = long.next().await else {
        panic!("the long one comes to its tokens")
    };
}

const LONG: u32 = 2_000;
