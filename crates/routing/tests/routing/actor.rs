//! A worker that plays what a test tells it to.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use domain::{ModelDigest, ModelFiles, Rent, Stage};
use futures_util::{Stream, StreamExt, stream};
use proto::{
    BlockStream, BlocksWanted, Event, FetchOrder, Fetched, Generation, PrefixChange, PrefixStream,
    Start, StateStream, Worker, WorkerError, WorkerState,
};
use tokio::sync::watch;

use crate::info;

pub(crate) type Play = Pin<Box<dyn Stream<Item = Event> + Send>>;

pub(crate) struct Actor {
    pub(crate) state: watch::Sender<WorkerState>,
    pub(crate) fetched: Mutex<Vec<FetchOrder>>,
    pub(crate) holds: Vec<u64>,
    play: Box<Part>,
}

/// What it does with a start.
type Part = dyn Fn(&Start) -> Result<Play, WorkerError> + Send + Sync;

impl Actor {
    pub(crate) fn new(
        play: impl Fn(&Start) -> Result<Play, WorkerError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let state = WorkerState {
            models: vec![info()],
            free_blocks: 100,
            total_blocks: 100,
            block_tokens: 1,
            ..WorkerState::default()
        };
        let (state, fetched) = (watch::Sender::new(state), Mutex::default());
        Arc::new(Self { state, fetched, holds: Vec::new(), play: Box::new(play) })
    }

    pub(crate) fn leave_in(&self, leaves_in: Duration) {
        self.state.send_modify(|state| {
            state.stage = Stage::Draining;
            state.leaves_in = Some(leaves_in);
        });
    }
}

/// These events, and then silence.
#[expect(clippy::unnecessary_wraps, reason = "it stands where a worker may refuse")]
pub(crate) fn then_silence(events: Vec<Event>) -> Result<Play, WorkerError> {
    Ok(stream::iter(events).chain(stream::pending()).boxed())
}

#[async_trait]
impl Worker for Actor {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let play = (self.play)(&start)?;
        Ok(Generation::new(start.allowance, |_wishes| play))
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        let mut states = self.state.subscribe();
        states.mark_changed();
        let states = stream::unfold(states, |mut states| async move {
            states.changed().await.ok()?;
            let state = states.borrow_and_update().clone();
            Some((state, states))
        });
        Ok(states.boxed())
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.leave_in(leaves_in.unwrap_or_default());
        Ok(())
    }

    async fn set_price(&self, _: Rent) -> Result<(), WorkerError> {
        Ok(())
    }

    async fn model_files(&self, _: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        Ok(crate::files())
    }

    async fn prefixes(&self) -> Result<PrefixStream, WorkerError> {
        let all = PrefixChange { reset: true, added: self.holds.clone(), removed: Vec::new() };
        Ok(stream::iter([all]).chain(stream::pending()).boxed())
    }

    async fn blocks(&self, _: BlocksWanted) -> Result<BlockStream, WorkerError> {
        Ok(stream::empty().boxed())
    }

    async fn fetch(&self, order: FetchOrder) -> Result<Fetched, WorkerError> {
        self.fetched.lock().unwrap().push(order);
        Ok(Fetched { blocks: 1, bytes: 1 })
    }
}
