//! The worker contract on top of the engines in this process.
//!
//! To a gateway they are one worker: one life, one price, one way out, one state. A call goes to the engine of its model. An
//! order to embed is answered whole or not at all: one that is still here when the machine is about to go, or its model, is
//! refused as [`WorkerError::Draining`], so that whoever sent it sends it elsewhere; its time is written off.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{FinishReason, LoadOrder, ModelDigest, ModelFiles, ModelInfo, ModelName, Rent};
use engine::{EngineConfig, EngineError, LoadError, ModelSource, Progress, Vectors};
use engine::{Event as EngineEvent, Failure, Refusal, Request, Sequence};
use futures_util::{Stream, StreamExt, stream};
use proto::{
    BlockStream, BlocksWanted, EmbedOrder, Embedded, Event, FetchOrder, Fetched, Generation,
    GrpcWorker, LoadStream, PrefixStream, Start, StateStream, Wishes, Worker, WorkerError,
    WorkerServer,
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::cache::{self, Connect, Neighbours};
use crate::drain::Seat;
use crate::loading::Loads;
use crate::memory::{Needs, available};
use crate::post::Post;
use crate::served::{Served, Weights};
use crate::stock::Stock;

/// Models on engines of this process, as one worker.
pub struct LocalWorker {
    stock: Arc<Stock>,
    /// The first one.
    info: ModelInfo,
    own_context: u32,
    post: Post,
    neighbours: Neighbours,
    loads: Arc<Loads>,
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
    /// Loads a model that makes text or vectors, telling how far it is, and starts an engine for it. Takes as long as
    /// loading does, so call it off the network threads.
    pub fn start(
        name: &str,
        source: &ModelSource,
        config: EngineConfig,
        rent: Rent,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, StartError> {
        let needs = Needs::of(source, &config, available(0));
        Self::start_taking(needs, (name, source), config, rent, progress)
    }

    /// The same, of a model that may take so much memory.
    pub(crate) fn start_taking(
        needs: Needs,
        (name, source): (&str, &ModelSource),
        config: EngineConfig,
        rent: Rent,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, StartError> {
        let (stock, post, neighbours) = (Arc::default(), Post::new(rent), Neighbours::default());
        let (info, own_context) = started(&stock, (name, source), (&config, needs), progress)?;
        let loads = Arc::new(Loads::new(None, config));
        Ok(Self { stock, info, own_context, post, neighbours, loads })
    }

    /// The same worker on a machine in `zone`, which has `drain_timeout` for what it runs when it is told to
    /// leave and not when.
    #[must_use]
    pub fn placed(mut self, zone: String, drain_timeout: Duration) -> Self {
        self.post = self.post.placed(zone, drain_timeout);
        self
    }

    /// The same worker, which may load models from below `folder` while it runs.
    #[must_use]
    pub fn loading_from(mut self, folder: PathBuf) -> Self {
        self.loads = Arc::new(Loads::new(Some(folder), self.loads.config.clone()));
        self
    }

    /// The model it started with.
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Longest prompt plus output that this model reads where its cache is large enough, in tokens.
    pub const fn own_context(&self) -> u32 {
        self.own_context
    }

    /// How many models have an engine here, those included that nobody new may begin on.
    pub fn engines(&self) -> usize {
        self.stock.all().len()
    }

    /// From now on it fetches KV blocks from other workers, which it reaches through `connect`; only the first
    /// call counts. Before, it fetches none.
    pub fn reach(&self, connect: Box<Connect>) {
        self.neighbours.reach(connect);
    }

    /// Loads one model more, wherever it is, before the worker is served. Takes as long as loading does.
    pub fn add(
        &self,
        name: &str,
        source: &ModelSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ModelInfo, StartError> {
        let needs = Needs::of(source, &self.loads.config, available(self.stock.promised()));
        self.add_taking(needs, name, source, progress)
    }

    /// The same, of a model that may take so much memory.
    pub(crate) fn add_taking(
        &self,
        needs: Needs,
        name: &str,
        source: &ModelSource,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<ModelInfo, StartError> {
        let (info, _) =
            started(&self.stock, (name, source), (&self.loads.config, needs), progress)?;
        Ok(info)
    }

    /// Loads an adapter of the model called `of` from a folder in the layout of PEFT, and serves it as a model called
    /// `name` from now on. Takes as long as reading it does, so call it off the network threads.
    pub fn load_adapter(
        &self,
        of: &str,
        name: &str,
        folder: &Path,
    ) -> Result<ModelInfo, StartError> {
        let served = self.stock.called(&ModelName::new(of)).map(|(served, _)| served);
        let unsupported = || LoadError::Unsupported {
            what: format!("adapter `{name}` of `{of}`"),
            remedy: "leave it out, or name a model that makes text".to_owned(),
        };
        let engine = served.as_deref().and_then(Served::engine).ok_or_else(unsupported);
        let load = engine.and_then(|engine| engine.load_adapter(ModelName::new(name), folder));
        load.map_err(|error| StartError::Adapter { name: name.to_owned(), source: error })
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
        self.stock.shut_down();
    }

    /// The same worker behind gRPC over pipes in memory, so that a single process takes the same
    /// path as many. Must be called inside a tokio runtime; the server ends when the returned worker
    /// is dropped.
    pub fn over_pipes(self: Arc<Self>) -> Arc<dyn Worker> {
        let (accept, pipes) = tokio::sync::mpsc::channel(PIPES_WAITING);
        tokio::spawn(WorkerServer::new(self, None).serve_in_memory(pipes));
        Arc::new(GrpcWorker::in_memory(accept))
    }
}

/// Loads a model and starts an engine for it; tells how it is served, and the context it would have without the bounds of
/// its cache.
fn started(
    stock: &Stock,
    (name, source): (&str, &ModelSource),
    (config, needs): (&EngineConfig, Needs),
    progress: &mut dyn FnMut(Progress),
) -> Result<(ModelInfo, u32), StartError> {
    needs.say(name, available(stock.promised()));
    let weights = Weights::load(&ModelName::new(name), source, progress)?;
    stock.check_new(weights.info()).map_err(|error| LoadError::Unsupported {
        what: format!("`{name}`"),
        remedy: error.to_string(),
    })?;
    let own_context = weights.info().context_length;
    let served = weights.start(needs.settle(config), &stock.shifts)?;
    let info = served.info().clone();
    stock.offer(served);
    Ok((info, own_context))
}

async fn start_sequence(served: &Served, start: Start) -> Result<Sequence, WorkerError> {
    let Some(engine) = served.engine() else {
        // It makes no text.
        return Err(WorkerError::ModelNotFound(start.model));
    };
    let request = Request {
        prompt: start.prompt,
        generated: start.generated,
        max_output: start.max_output,
        allowance: start.allowance,
        sampling: start.sampling,
        output: start.output,
        share: start.share,
        salt: start.salt,
        adapter: (start.model != served.info().digest).then_some(start.model),
    };
    engine.start_sequence(request).await.map_err(refused)
}

#[async_trait]
impl Worker for LocalWorker {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let (served, call) = self.stock.find(&start.model)?;
        let allowance = start.allowance;
        let request = start.request;
        let seat = self.post.drain.seat(&start);
        let sequence = start_sequence(&served, start).await?;
        tracing::debug!(request = %request, "sequence accepted");
        Ok(Generation::new(allowance, |wishes| events(sequence, wishes, seat, call)))
    }

    async fn embed(&self, order: EmbedOrder) -> Result<Embedded, WorkerError> {
        let (served, _call) = self.stock.find(&order.model)?;
        let Some(embedder) = served.embedder() else {
            return Err(WorkerError::ModelNotFound(order.model));
        };
        let mut seat = self.post.drain.seat_of_texts(&order);
        let EmbedOrder { request, texts, share, .. } = order;
        let embedding = embedder.submit(texts, share).map_err(refused)?;
        tracing::debug!(request = %request, "texts accepted");
        tokio::select! {
            biased;
            answer = embedding.wait() => {
                let Vectors { vectors, usage } = answer.map_err(|failure| broken(&failure))?;
                Ok(Embedded { vectors, usage })
            }
            () = seat.told_to_go() => Err(WorkerError::Draining),
        }
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        Ok(self.post.states(&self.stock).boxed())
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.post.leave(leaves_in);
        self.stock.drain();
        Ok(())
    }

    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError> {
        self.post.set_price(rent);
        Ok(())
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        Ok(self.stock.find(model)?.0.files().clone())
    }

    async fn prefixes(&self) -> Result<PrefixStream, WorkerError> {
        Ok(cache::prefixes(self.stock.watch()))
    }

    async fn blocks(&self, wanted: BlocksWanted) -> Result<BlockStream, WorkerError> {
        let served = self.stock.find_kept(&wanted.model)?;
        let engine = served.engine().cloned();
        Ok(engine.map_or_else(|| stream::empty().boxed(), |one| cache::blocks(one, wanted.names)))
    }

    async fn fetch(&self, order: FetchOrder) -> Result<Fetched, WorkerError> {
        let (served, _call) = self.stock.find(&order.model)?;
        let Some(engine) = served.engine() else { return Ok(Fetched::default()) };
        self.neighbours.fetch(engine, order).await
    }

    async fn load(&self, order: LoadOrder) -> Result<LoadStream, WorkerError> {
        self.loads.begin(&self.stock, &self.post.drain, order)
    }

    async fn unload(&self, name: &ModelName, within: Option<Duration>) -> Result<u32, WorkerError> {
        self.stock.withdraw(name, within, &self.post.drain)
    }
}

/// What a sequence tells, while wishes are passed to it. Dropping the stream cancels the sequence, and then the call on its
/// engine is over.
fn events(
    sequence: Sequence,
    wishes: Wishes,
    seat: Seat,
    call: TaskTrackerToken,
) -> impl Stream<Item = Event> + Send {
    let state = (sequence, Some(wishes), seat, call);
    stream::unfold(state, |(mut sequence, mut wishes, mut seat, call)| async move {
        let event = loop {
            tokio::select! {
                biased;
                wish = next_wish(&mut wishes), if wishes.is_some() => match wish {
                    Some((_, Some(reason))) => {
                        seat.stop(reason);
                        match wishes.as_ref().and_then(Wishes::kept) {
                            Some(kept) => sequence.stop_after(reason, kept),
                            None => sequence.stop(reason),
                        }
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
        Some((seat.saw(told(event?)), (sequence, wishes, seat, call)))
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

fn broken(failure: &Failure) -> WorkerError {
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

fn refused(refusal: Refusal) -> WorkerError {
    match refusal {
        Refusal::Full { retry_in } => WorkerError::Full { retry_in },
        refusal @ Refusal::Invalid(_) => WorkerError::Invalid(refusal.to_string()),
        refusal @ Refusal::TooLong { .. } => WorkerError::TooLong(refusal.to_string()),
        Refusal::NoAdapter(digest) => WorkerError::ModelNotFound(digest),
        refusal @ Refusal::Format(_) => WorkerError::Format(refusal.to_string()),
        Refusal::Draining => WorkerError::Draining,
    }
}

const PIPES_WAITING: usize = 4;
