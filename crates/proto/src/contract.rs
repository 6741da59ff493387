//! The contract itself, in the words of the domain.
//!
//! A [`Generation`] is one sequence on one worker. Reading it yields tokens and, last, how it
//! ended; dropping it cancels the sequence. Its lease is steered through [`Control`], which never
//! blocks: only the latest wish counts.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Accounts, Capacity, ErrorKind, FinishReason, GpuTime, IncarnationId, ModelDigest, ModelFiles,
    ModelInfo, NanoUsd, Rent, RequestId, Sampling, Usage,
};
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;

/// A process with an engine.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Starts a sequence, or says why not. A refusal has cost nothing.
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError>;

    /// The state now, and again whenever it changes.
    async fn watch(&self) -> Result<StateStream, WorkerError>;

    /// From now on new sequences are refused with [`WorkerError::Draining`]; accepted ones go on.
    async fn drain(&self) -> Result<(), WorkerError>;

    /// From now on it costs this much, and tells its watchers at once.
    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError>;

    /// The tokenizer and template of a model it serves.
    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError>;
}

/// Pushed states of a worker; it ends when the worker can no longer be reached.
pub type StateStream = Pin<Box<dyn Stream<Item = WorkerState> + Send>>;

/// A sequence to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The request it belongs to, for the worker's logs.
    pub request: RequestId,
    /// The exact model version.
    pub model: ModelDigest,
    /// The prompt, in tokens.
    pub prompt: Arc<[u32]>,
    /// Tokens already produced, here or elsewhere; they count towards `max_output` and `allowance`.
    pub generated: Vec<u32>,
    /// Most tokens to produce.
    pub max_output: u32,
    /// Tokens paid for so far; when they are used up the sequence waits.
    pub allowance: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// What a running sequence tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// New tokens. A slow reader gets several at once.
    Tokens {
        /// Index in the output of the first of `ids`.
        first: u32,
        /// The new tokens.
        ids: Vec<u32>,
        /// Billable time attributed to the sequence since the last event.
        gpu: GpuTime,
    },
    /// The end, as wished for. Nothing follows.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// All it used on this worker.
        usage: Usage,
    },
    /// The end, by a failure of this sequence or of the worker. Nothing follows.
    Failed {
        /// What went wrong.
        error: WorkerError,
        /// All it used on this worker; `None` if the worker can no longer say.
        usage: Option<Usage>,
    },
}

impl Event {
    /// The end of a sequence whose worker can no longer say what it used.
    pub fn lost(error: WorkerError) -> Self {
        Self::Failed { error, usage: None }
    }
}

/// What the gateway wishes of a running sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Tokens paid for, in total.
    pub(crate) allowance: u32,
    /// End now, for this reason.
    pub(crate) stop: Option<FinishReason>,
}

/// Steers one sequence. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Control {
    wish: Arc<watch::Sender<Wish>>,
}

impl Control {
    /// A control, and where its wishes arrive.
    pub(crate) fn new(allowance: u32) -> (Self, watch::Receiver<Wish>) {
        let (sender, receiver) = watch::channel(Wish { allowance, stop: None });
        (Self { wish: Arc::new(sender) }, receiver)
    }

    /// Raises the number of tokens paid for, in total; a lower number changes nothing.
    pub fn extend(&self, allowance: u32) {
        self.wish.send_if_modified(|wish| {
            let raised = allowance > wish.allowance;
            wish.allowance = wish.allowance.max(allowance);
            raised
        });
    }

    /// Ends the sequence at its next step; the first reason given counts.
    pub fn stop(&self, reason: FinishReason) {
        self.wish.send_if_modified(|wish| {
            let first = wish.stop.is_none();
            wish.stop = wish.stop.or(Some(reason));
            first
        });
    }
}

/// Where a worker reads the wishes for one sequence.
pub struct Wishes(watch::Receiver<Wish>);

impl Wishes {
    /// Waits for a change and tells it: the allowance in total, and whether to stop.
    ///
    /// `None` when nobody can wish any more.
    pub async fn next(&mut self) -> Option<(u32, Option<FinishReason>)> {
        self.0.changed().await.ok()?;
        let wish = *self.0.borrow_and_update();
        Some((wish.allowance, wish.stop))
    }
}

/// One sequence on one worker. Dropping it cancels the sequence.
pub struct Generation {
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    control: Control,
}

impl Generation {
    /// A sequence whose events come from `events`, which is told where wishes arrive.
    ///
    /// `allowance` is what the sequence was started with.
    pub fn new<S>(allowance: u32, events: impl FnOnce(Wishes) -> S) -> Self
    where
        S: Stream<Item = Event> + Send + 'static,
    {
        let (control, wishes) = Control::new(allowance);
        Self { events: Box::pin(events(Wishes(wishes))), control }
    }

    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// The handle that extends or stops this sequence.
    pub fn control(&self) -> Control {
        self.control.clone()
    }
}

/// What a worker pushes about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerState {
    /// This life of its process; `accounts` began at zero with it.
    pub incarnation: IncarnationId,
    /// Models it serves.
    pub models: Vec<ModelInfo>,
    /// KV blocks free for new sequences.
    pub free_blocks: u32,
    /// KV blocks in all.
    pub total_blocks: u32,
    /// Sequences being computed.
    pub running: u32,
    /// Sequences accepted, not yet started.
    pub waiting: u32,
    /// It takes nothing new.
    pub draining: bool,
    /// What an hour of it costs.
    pub price_per_hour: NanoUsd,
    /// On what terms its machine is rented.
    pub capacity: Capacity,
    /// Where its time went.
    pub accounts: Accounts,
    /// How far its work model's prediction of a step's time is off on average, in millionths of that time.
    pub attribution_error_ppm: u32,
}

impl Default for WorkerState {
    /// An idle worker without models that costs nothing; its incarnation is nobody's.
    fn default() -> Self {
        Self {
            incarnation: IncarnationId::from_u128(0),
            models: Vec::new(),
            free_blocks: 0,
            total_blocks: 0,
            running: 0,
            waiting: 0,
            draining: false,
            price_per_hour: NanoUsd::ZERO,
            capacity: Capacity::default(),
            accounts: Accounts::default(),
            attribution_error_ppm: 0,
        }
    }
}

/// Why a worker did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// It has no room now.
    #[error("the worker is full; retry in {retry_in:?}")]
    Full {
        /// When there may be room.
        retry_in: Duration,
    },
    /// It is going away.
    #[error("the worker is draining")]
    Draining,
    /// It does not serve this model.
    #[error("the worker does not serve model {0}")]
    ModelNotFound(ModelDigest),
    /// It can never run this sequence.
    #[error("the worker refused the sequence: {0}")]
    Invalid(String),
    /// It cannot be reached, or stopped answering.
    #[error("the worker cannot be reached: {0}")]
    Unreachable(String),
    /// It tried and failed.
    #[error("the worker failed: {0}")]
    Failed(String),
}

impl WorkerError {
    /// Decides status, metric label and retry.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } | Self::Draining => ErrorKind::Overloaded,
            Self::ModelNotFound(_) | Self::Unreachable(_) => ErrorKind::Unavailable,
            Self::Invalid(_) | Self::Failed(_) => ErrorKind::Internal,
        }
    }

    /// Whether another worker, or this one later, may well do it.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Draining | Self::ModelNotFound(_) | Self::Unreachable(_) => {
                true
            }
            Self::Invalid(_) | Self::Failed(_) => false,
        }
    }
}
