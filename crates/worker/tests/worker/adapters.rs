//! Adapters of a worker's model: each is served as a model of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::{ModelDigest, ModelName};
use futures_util::StreamExt;
use proto::{Event, Worker, WorkerError, WorkerState};

use crate::conformance::Subject;
use crate::workers::local;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/adapters").join(name)
}

/// The first state that lists so many models.
async fn listing(worker: &dyn Worker, models: usize) -> WorkerState {
    let mut states = worker.watch().await.unwrap();
    loop {
        let state = states.next().await.expect("the worker goes on pushing its state");
        if state.models.len() == models {
            return state;
        }
    }
}

async fn said(worker: &Arc<dyn Worker>, model: &ModelDigest) -> Vec<u32> {
    let subject = Subject { worker: Arc::clone(worker), model: model.clone(), capacity: 1 };
    let mut generation = worker.generate(subject.start(12)).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            Event::Tokens { ids, .. } => all.extend(ids),
            Event::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    all
}

#[tokio::test]
async fn an_adapter_is_listed_served_and_given_up_like_a_model() {
    let (subject, local) = local();
    let worker = Arc::clone(&local).over_pipes();
    let adapter = local.load_adapter("demo", "mine", &folder("demo")).unwrap();

    let listed = listing(&*worker, 2).await.models;
    assert_eq!([&listed[0].digest, &listed[1].digest], [&subject.model, &adapter.digest]);
    assert_eq!(listed[1].name, ModelName::new("mine"));
    assert_eq!(listed[1].vocabulary, listed[0].vocabulary);
    let of_base = worker.model_files(&subject.model).await.unwrap();
    assert_eq!(worker.model_files(&adapter.digest).await.unwrap(), of_base);
    let base = said(&worker, &subject.model).await;
    assert_ne!(said(&worker, &adapter.digest).await, base);

    assert_eq!(worker.unload(&ModelName::new("mine"), None).await, Ok(0));

    assert_eq!(listing(&*worker, 1).await.models[0].digest, subject.model);
    let refused = worker.model_files(&adapter.digest).await.unwrap_err();
    assert!(matches!(refused, WorkerError::ModelNotFound(_)), "{refused}");
    assert_eq!(said(&worker, &subject.model).await, base);
}

#[tokio::test]
async fn an_adapter_that_cannot_be_loaded_is_named() {
    let (_, local) = local();
    let refused = local.load_adapter("demo", "mine", Path::new("nowhere")).unwrap_err();
    assert_eq!(refused.to_string(), "load adapter `mine`");
}
