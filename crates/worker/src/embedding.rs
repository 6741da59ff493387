//! The worker contract on top of an encoder in this process: texts in, vectors out.
//!
//! An order is answered whole or not at all. One that is still here when the machine is about to go is refused as
//! [`WorkerError::Draining`], so that whoever sent it sends it elsewhere; its time is written off.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{ModelDigest, ModelFiles, ModelInfo, ModelName, Rent};
use engine::{
    Embedder, EmbedderConfig, Encoder, EngineConfig, LoadError, ModelSource, Progress, Vectors,
};
use futures_util::StreamExt;
use proto::{
    EmbedOrder, Embedded, Generation, Start, StateStream, Worker, WorkerError, WorkerState,
};
use tokio::sync::watch;

use crate::hosted::Hosted;
use crate::local::{StartError, broken, refused};
use crate::post::Post;

/// One model that embeds.
pub struct EmbeddingWorker {
    embedder: Embedder,
    /// Orders that may be on it, waiting ones included.
    places: u32,
    models: watch::Sender<Arc<[ModelInfo]>>,
    post: Post,
}

impl EmbeddingWorker {
    /// The folder of `source`, if the model in it is one that embeds. Its weights are served as they are: one that is to
    /// be quantized is refused.
    pub fn folder(source: &ModelSource) -> Result<Option<&Path>, LoadError> {
        match source {
            ModelSource::Folder(folder) if Encoder::is_in(folder) => Ok(Some(folder)),
            ModelSource::Quantized { folder: Some(folder), .. } if Encoder::is_in(folder) => {
                Err(LoadError::Unsupported {
                    what: "quantizing a model that embeds".to_owned(),
                    remedy: "leave `model.quantize` out".to_owned(),
                })
            }
            _ => Ok(None),
        }
    }

    /// Loads the model in `folder`, telling how far it is, and starts a thread for it. Takes as long as loading does, so
    /// call it off the network threads.
    pub fn start(
        name: &str,
        folder: &Path,
        config: &EngineConfig,
        rent: Rent,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, StartError> {
        let encoder = Encoder::load(ModelName::new(name), folder, progress)?;
        let EngineConfig { max_waiting, compute_threads, .. } = *config;
        let embedder = Embedder::start(encoder, EmbedderConfig { max_waiting, compute_threads })?;
        let models = watch::Sender::new(Arc::from([embedder.info().clone()]));
        let places = max_waiting.saturating_add(1);
        Ok(Self { embedder, places, models, post: Post::new(rent) })
    }

    /// The same worker on a machine in `zone`, which has `drain_timeout` for what it has when it is told to leave and
    /// not when.
    #[must_use]
    pub fn placed(mut self, zone: String, drain_timeout: Duration) -> Self {
        self.post = self.post.placed(zone, drain_timeout);
        self
    }

    fn check(&self, model: &ModelDigest) -> Result<(), WorkerError> {
        if *model == self.embedder.info().digest {
            return Ok(());
        }
        Err(WorkerError::ModelNotFound(model.clone()))
    }
}

#[async_trait]
impl Worker for EmbeddingWorker {
    /// It makes no text.
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        Err(WorkerError::ModelNotFound(start.model))
    }

    async fn embed(&self, order: EmbedOrder) -> Result<Embedded, WorkerError> {
        self.check(&order.model)?;
        let EmbedOrder { request, texts, share, .. } = order;
        let mut seat = self.post.drain.seat_of_texts(&texts);
        let embedding = self.embedder.submit(texts, share).map_err(refused)?;
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
        let states = self.post.states(self.embedder.watch(), self.models.subscribe());
        let total_blocks = self.places;
        let with_places = move |state: WorkerState| {
            // It keeps no blocks; what bounds it is how many orders may be on it.
            let taken = state.running.saturating_add(state.waiting);
            WorkerState { total_blocks, free_blocks: total_blocks.saturating_sub(taken), ..state }
        };
        Ok(states.map(with_places).boxed())
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.embedder.drain();
        self.post.leave(leaves_in);
        Ok(())
    }

    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError> {
        self.post.set_price(rent);
        Ok(())
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        self.check(model)?;
        Ok(self.embedder.files().clone())
    }
}

#[async_trait]
impl Hosted for EmbeddingWorker {
    fn info(&self) -> &ModelInfo {
        self.embedder.info()
    }

    fn warn(&self) {
        self.post.drain.warn();
    }

    async fn draining(&self) {
        self.post.draining().await;
    }

    async fn out(&self) {
        self.post.drain.out().await;
    }
}
