//! What a worker is asked to serve more or less, and how it stands with each of its models.

use std::pin::Pin;
use std::time::Duration;

use domain::{LoadOrder, ModelDigest, ModelInfo};
use futures_util::{Stream, StreamExt};

use crate::contract::{Worker, WorkerError, WorkerState};

/// How far a load is. The last item says that the model is served, or why not.
pub type LoadStream = Pin<Box<dyn Stream<Item = Result<Loading, WorkerError>> + Send>>;

/// How far a load is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loading {
    /// It goes on.
    Progress {
        /// Parts loaded.
        loaded: u32,
        /// All parts.
        total: u32,
    },
    /// It is served. Nothing follows.
    Done(ModelInfo),
}

/// Has `worker` load a model, and waits until it is served; `progress` hears how many parts of how many are loaded.
pub async fn load_whole(
    worker: &dyn Worker,
    order: LoadOrder,
    mut progress: impl FnMut(u32, u32) + Send,
) -> Result<ModelInfo, WorkerError> {
    let mut loading = worker.load(order).await?;
    while let Some(told) = loading.next().await {
        match told? {
            Loading::Progress { loaded, total } => progress(loaded, total),
            Loading::Done(info) => return Ok(info),
        }
    }
    Err(WorkerError::Unreachable("it did not say what came of it".to_owned()))
}

/// Why nothing was loaded or unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLoaded {
    /// Something else goes by this name, or this version by another.
    NameTaken,
    /// Nothing of this name is served.
    NoSuchModel,
    /// A file cannot be read, or is none that can be served.
    Unreadable,
    /// It is not where this worker may load from.
    Outside,
    /// It would not fit beside what is served.
    NoMemory,
}

impl NotLoaded {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::NameTaken, Self::NoSuchModel, Self::Unreadable, Self::Outside, Self::NoMemory];

    /// Its name on the wire and in the admin API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NameTaken => "name-taken",
            Self::NoSuchModel => "no-such-model",
            Self::Unreadable => "unreadable",
            Self::Outside => "outside",
            Self::NoMemory => "no-memory",
        }
    }

    /// The error of this kind that says so, and what to do.
    pub fn because(self, message: impl Into<String>) -> WorkerError {
        WorkerError::NotLoaded { why: self, message: message.into() }
    }
}

/// How it stands with a model: what a router weighs of a worker. A model and its adapters have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelLoad {
    /// KV blocks free for new sequences.
    pub free_blocks: u32,
    /// KV blocks in all.
    pub total_blocks: u32,
    /// Sequences being computed.
    pub running: u32,
    /// Sequences accepted, not yet started.
    pub waiting: u32,
    /// Tokens of one KV block; 0 if it keeps none.
    pub block_tokens: u32,
    /// What the keys and values of one KV block take, in bytes.
    pub block_bytes: u64,
    /// Tokens whose keys and values running sequences hold.
    pub running_tokens: u64,
    /// Prompt tokens that are still to be computed.
    pub waiting_tokens: u64,
    /// After how long a sequence that came now would have its first token, its own prompt not counted.
    pub first_token_in: Duration,
    /// What a token of its prompt would add to that.
    pub prompt_token_time: Duration,
    /// From one token of a running sequence to the next, lately.
    pub step_time: Duration,
}

impl WorkerState {
    /// How it stands with this model; with all of them together, if the worker does not say it of each.
    pub fn load_of(&self, model: &ModelDigest) -> ModelLoad {
        let of_model = self.loads.iter().find(|(models, _)| models.contains(model));
        of_model.map_or_else(|| self.load(), |(_, load)| *load)
    }

    /// How it stands with all of its models together.
    pub const fn load(&self) -> ModelLoad {
        ModelLoad {
            free_blocks: self.free_blocks,
            total_blocks: self.total_blocks,
            running: self.running,
            waiting: self.waiting,
            block_tokens: self.block_tokens,
            block_bytes: self.block_bytes,
            running_tokens: self.running_tokens,
            waiting_tokens: self.waiting_tokens,
            first_token_in: self.first_token_in,
            prompt_token_time: self.prompt_token_time,
            step_time: self.step_time,
        }
    }

    /// The same state with the figures of `load` for all of its models together.
    #[must_use]
    pub fn loaded(self, load: ModelLoad) -> Self {
        let ModelLoad { free_blocks, total_blocks, running, waiting, .. } = load;
        let ModelLoad { block_tokens, block_bytes, running_tokens, waiting_tokens, .. } = load;
        let ModelLoad { first_token_in, prompt_token_time, step_time, .. } = load;
        Self {
            free_blocks,
            total_blocks,
            running,
            waiting,
            block_tokens,
            block_bytes,
            running_tokens,
            waiting_tokens,
            first_token_in,
            prompt_token_time,
            step_time,
            ..self
        }
    }
}
