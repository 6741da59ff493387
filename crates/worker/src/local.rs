//! The worker contract on top of an engine in this process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{FinishReason, ModelDigest, ModelFiles, ModelInfo, ModelName, Rent};
use engine::{Engine, EngineConfig, EngineError, LoadError, Model, ModelSource, Progress};
use engine::{Event as EngineEvent, Failure, Refusal, Request, Sequence};
use futures_util::{Stream, StreamExt, stream};
use proto::{
    BlockStream, BlocksWanted, Event, FetchOrder, Fetched, Generation, PrefixStream, Start,
    StateStream, Wishes, Worker, WorkerError,
};

use crate::cache::{self, Connect, Neighbours};
use crate::drain::Seat;
use crate::post::Post;

/// One model and its adapters on one engine.
pub struct LocalWorker {
    engine: Engine,
    info: ModelInfo,
    files: ModelFiles,
    post: Post,
    neighbours: Neighbours,
}

/// A worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The model cannot be loaded.
    #[error("load model")]
    Load(#[from] LoadError),
    /// An adapter of it cannot be loaded.
    #[error("load adapter `{name}`")]
    Adapter {
        /// What it was to be called.
        name: String,
        /// Why.
        #[source]
        source: LoadError,
    },
    /// The engine cannot start.
    #[error("start engine")]
    Engine(#[from] EngineError),
}

impl LocalWorker {
    /// Loads a model, telling how far it is, and starts an engine for it. Takes as long as loading
    /// does, so call it off the network threads.
    pub fn start(
        name: &str,
        source: &ModelSource,
        config: EngineConfig,
        rent: Rent,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, StartError> {
        let model = Model::load(ModelName::new(name), source, progress)?;
        let (info, files) = (model.info().clone(), model.files().clone());
        let engine = Engine::start(model, config)?;
        let (post, neighbours) = (Post::new(rent), Neighbours::default());
        Ok(Self { engine, info, files, post, neighbours })
    }

    /// The same worker on a machine in `zone`, which has `drain_timeout` for what it runs when it is told to
    /// leave and not when.
    #[must_use]
    pub fn placed(mut self, zone: String, drain_timeout: Duration) -> Self {
        self.post = self.post.placed(zone, drain_timeout);
        self
    }

    /// The model it serves.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// From now on it fetches KV blocks from other workers, which it reaches through `connect`; only the first
    /// call counts. Before, it fetches none.
    pub fn reach(&self, connect: Box<Connect>) {
        self.neighbours.reach(connect);
    }

    /// Loads an adapter of the model from a folder in the layout of PEFT, and serves it as a model called `name`
    /// from now on. Takes as long as reading it does, so call it off the network threads.
    pub fn load_adapter(&self, name: &str, folder: &Path) -> Result<ModelInfo, StartError> {
        let load = self.engine.load_adapter(ModelName::new(name), folder);
        load.map_err(|error| StartError::Adapter { name: name.to_owned(), source: error })
    }

    /// Serves the adapter of this name to nobody new from now on; whether there was one.
    pub fn unload_adapter(&self, name: &str) -> bool {
        self.engine.unload_adapter(&ModelName::new(name))
    }

    fn check_model(&self, model: &ModelDigest) -> Result<(), WorkerError> {
        if self.engine.models().borrow().iter().any(|info| info.digest == *model) {
            return Ok(());
        }
        Err(WorkerError::ModelNotFound(model.clone()))
    }

    /// Resolves when no sequence is on it, and nobody is likely to fetch blocks of those it handed over.
    pub async fn out(&self) {
        self.post.drain.out().await;
    }

    /// Resolves when it takes nothing new.
    pub(crate) async fn draining(&self) {
        self.post.draining().await;
    }

    /// Tells watchers that its machine may go some day: it takes work, and others are the better choice.
    pub fn warn(&self) {
        self.post.drain.warn();
    }

    /// Ends at once: every sequence fails, with its last word on what it used.
    pub fn shut_down(&self) {
        self.engine.shutdown();
    }

    /// The same worker behind gRPC over pipes in memory, so that a single process takes the same
    /// path as many. Must be called inside a tokio runtime; the server ends when the returned worker
    /// is dropped.
    pub fn over_pipes(self: Arc<Self>) -> Arc<dyn Worker> {
        crate::hosted::over_pipes(self)
    }

    async fn start_sequence(&self, start: Start) -> Result<Sequence, WorkerError> {
        self.check_model(&start.model)?;
        let request = Request {
            prompt: start.prompt,
            generated: start.generated,
            max_output: start.max_output,
            allowance: start.allowance,
            sampling: start.sampling,
            output: start.output,
            share: start.share,
            salt: start.salt,
            adapter: (start.model != self.info.digest).then_some(start.model),
        };
        self.engine.start_sequence(request).await.map_err(refused)
    }
}

#[async_trait]
impl Worker for LocalWorker {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let allowance = start.allowance;
        let request = start.request;
        let seat = self.post.drain.seat(&start);
        let sequence = self.start_sequence(start).await?;
        tracing::debug!(request = %request, "sequence accepted");
        Ok(Generation::new(allowance, |wishes| events(sequence, wishes, seat)))
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        Ok(self.post.states(self.engine.watch(), self.engine.models()).boxed())
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.engine.drain();
        self.post.leave(leaves_in);
        Ok(())
    }

    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError> {
        self.post.set_price(rent);
        Ok(())
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        self.check_model(model)?;
        Ok(self.files.clone())
    }

    async fn prefixes(&self) -> Result<PrefixStream, WorkerError> {
        Ok(cache::prefixes(self.engine.cached_blocks()))
    }

    async fn blocks(&self, wanted: BlocksWanted) -> Result<BlockStream, WorkerError> {
        self.check_model(&wanted.model)?;
        Ok(cache::blocks(self.engine.clone(), wanted.names))
    }

    async fn fetch(&self, order: FetchOrder) -> Result<Fetched, WorkerError> {
        self.check_model(&order.model)?;
        self.neighbours.fetch(&self.engine, order).await
    }
}

/// What a sequence tells, while wishes are passed to it. Dropping the stream cancels the sequence.
fn events(sequence: Sequence, wishes: Wishes, seat: Seat) -> impl Stream<Item = Event> + Send {
    let state = (sequence, Some(wishes), seat);
    stream::unfold(state, |(mut sequence, mut wishes, mut seat)| async move {
        let event = loop {
            tokio::select! {
                biased;
                wish = next_wish(&mut wishes), if wishes.is_some() => match wish {
                    Some((_, Some(reason))) => {
                        seat.stop(reason);
                        sequence.stop(reason);
                        if wishes.as_ref().is_some_and(Wishes::are_to_waive) {
                            sequence.waive();
                        }
                    }
                    Some((allowance, None)) => {
                        seat.extend(allowance);
                        sequence.extend(allowance);
                    }
                    None => wishes = None,
                },
                () = seat.told_to_go() => sequence.stop(FinishReason::Cancelled),
                event = sequence.next() => break event,
            }
        };
        Some((seat.saw(told(event?)), (sequence, wishes, seat)))
    })
}

async fn next_wish(wishes: &mut Option<Wishes>) -> Option<(u32, Option<FinishReason>)> {
    wishes.as_mut()?.next().await
}

fn told(event: EngineEvent) -> Event {
    match event {
        EngineEvent::Tokens { first, ids, gpu, logprobs, cached } => {
            Event::Tokens { first, ids, gpu, logprobs, cached }
        }
        EngineEvent::Finished { reason, usage } => Event::Finished { reason, usage },
        EngineEvent::Failed { failure, usage } => {
            Event::Failed { error: broken(&failure), usage: Some(usage) }
        }
    }
}

pub(crate) fn broken(failure: &Failure) -> WorkerError {
    let reason = failure.to_string();
    match failure {
        // An engine that stops is like a machine that goes away: another one can go on.
        Failure::Stopped => WorkerError::Unreachable(reason),
        Failure::Format(_) => WorkerError::Format(reason),
        Failure::NotANumber { .. } | Failure::Forward(_) | Failure::Elsewhere => {
            WorkerError::Failed(reason)
        }
    }
}

pub(crate) fn refused(refusal: Refusal) -> WorkerError {
    match refusal {
        Refusal::Full { retry_in } => WorkerError::Full { retry_in },
        refusal @ (Refusal::TooLong { .. } | Refusal::Invalid(_)) => {
            WorkerError::Invalid(refusal.to_string())
        }
        Refusal::NoAdapter(digest) => WorkerError::ModelNotFound(digest),
        refusal @ Refusal::Format(_) => WorkerError::Format(refusal.to_string()),
        Refusal::Draining => WorkerError::Draining,
    }
}
