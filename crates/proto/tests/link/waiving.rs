//! What a reader gave up, told over the link: even where there was nothing left to cancel.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    CacheSalt, GpuTime, ModelDigest, ModelFiles, OutputRules, ProjectId, Rent, RequestId, Sampling,
    Share, Usage,
};
use futures_util::{StreamExt as _, stream};
use proto::{
    Event, Generation, GrpcWorker, ScriptedWorker, Start, StateStream, Worker, WorkerError,
    WorkerServer, WorkerState,
};
use tokio::sync::{mpsc, oneshot};

fn start() -> Start {
    Start {
        request: RequestId::generate(),
        model: ModelDigest::new("abc"),
        prompt: vec![1, 2, 3].into(),
        generated: Vec::new(),
        max_output: 3,
        allowance: 3,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        share: Share::of(ProjectId::from_u128(1)),
        salt: CacheSalt::of(ProjectId::from_u128(1)),
    }
}

fn over_pipes(worker: Arc<dyn Worker>) -> GrpcWorker {
    let (connect, accept) = mpsc::channel(1);
    tokio::spawn(WorkerServer::new(worker, None).serve_in_memory(accept));
    GrpcWorker::in_memory(connect)
}

async fn until(states: &mut StateStream, wanted: impl Fn(&WorkerState) -> bool) -> WorkerState {
    loop {
        let state = states.next().await.unwrap();
        if wanted(&state) {
            return state;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sequence_that_ended_by_itself_is_waived_all_the_same() {
    let worker = Arc::new(ScriptedWorker::of_some_model(6));
    let mut states = worker.watch().await.unwrap();
    let generation = over_pipes(Arc::clone(&worker) as _).generate(start()).await.unwrap();
    let ended = |state: &WorkerState| state.running == 0 && state.accounts.wall > GpuTime::ZERO;
    let took = until(&mut states, ended).await.accounts.requests;

    generation.waive();

    let waived = |state: &WorkerState| state.accounts.requests == GpuTime::ZERO;
    let accounts = until(&mut states, waived).await.accounts;
    assert_eq!((accounts.hedge, accounts.owned()), (took, accounts.wall));
}

#[tokio::test(start_paused = true)]
async fn a_sequence_whose_failure_was_read_is_still_waived() {
    let (hears, heard) = oneshot::channel();
    let mut generation =
        over_pipes(Arc::new(Failing(Mutex::new(Some(hears))))).generate(start()).await.unwrap();
    let failed = generation.next().await;
    assert!(matches!(failed, Some(Event::Failed { usage: Some(_), .. })), "{failed:?}");

    generation.waive();

    assert_eq!(heard.await, Ok(true));
}

#[tokio::test(start_paused = true)]
async fn a_sequence_whose_failure_was_read_and_that_was_dropped_is_not_waived() {
    let (hears, heard) = oneshot::channel();
    let mut generation =
        over_pipes(Arc::new(Failing(Mutex::new(Some(hears))))).generate(start()).await.unwrap();
    generation.next().await;

    drop(generation);

    assert_eq!(heard.await, Ok(false));
}

/// A worker that fails its sequence, and tells whether it was waived then.
struct Failing(Mutex<Option<oneshot::Sender<bool>>>);

#[async_trait]
impl Worker for Failing {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let hears = self.0.lock().unwrap().take();
        Ok(Generation::new(start.allowance, |wishes| {
            stream::unfold((wishes, hears, false), |(wishes, mut hears, told)| async move {
                if told {
                    let _ = hears.take().map(|hears| hears.send(wishes.are_to_waive()));
                    return None;
                }
                let error = WorkerError::Failed("as it was told to".to_owned());
                let failed = Event::Failed { error, usage: Some(Usage::default()) };
                Some((failed, (wishes, hears, true)))
            })
        }))
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        Ok(stream::pending().boxed())
    }

    async fn drain(&self, _: Option<Duration>) -> Result<(), WorkerError> {
        Ok(())
    }

    async fn set_price(&self, _: Rent) -> Result<(), WorkerError> {
        Ok(())
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        Err(WorkerError::ModelNotFound(model.clone()))
    }
}
