//! The contract itself, in the words of the domain.
//!
//! A [`Generation`] is one sequence on one worker. Reading it yields tokens and, last, how it
//! ended; dropping it cancels the sequence, and waiving it says also that nobody wants what it did. Its lease is steered through [`Control`], which never
//! blocks: only the latest wish counts.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Accounts, BlockHash, CacheSalt, Capacity, ErrorKind, FinishReason, GpuTime, IncarnationId,
    LoadOrder, Logprobs, ModelDigest, ModelFiles, ModelInfo, ModelName, NanoUsd, OutputRules, Rent,
    RequestId, Sampling, Share, Stage, Usage,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;

use crate::loading::{LoadStream, ModelLoad, NotLoaded};

/// A process with an engine.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Starts a sequence, or says why not. A refusal has cost nothing.
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError>;

    /// The vector of each text. A worker that makes text only does not know the model.
    async fn embed(&self, order: EmbedOrder) -> Result<Embedded, WorkerError> {
        Err(WorkerError::ModelNotFound(order.model))
    }

    /// The state now, and again whenever it changes.
    async fn watch(&self) -> Result<StateStream, WorkerError>;

    /// From now on new sequences are refused with [`WorkerError::Draining`]; accepted ones go on. What cannot
    /// end within `leaves_in`, if that is known, is handed over ([`Event::HandedOver`]).
    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError>;

    /// From now on it costs this much, and tells its watchers at once.
    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError>;

    /// The tokenizer and template of a model it serves.
    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError>;

    /// Which prefixes its KV cache holds: all of them first, then what changes. One that keeps none says that,
    /// and it never changes.
    async fn prefixes(&self) -> Result<PrefixStream, WorkerError> {
        let nothing = PrefixChange { reset: true, ..PrefixChange::default() };
        Ok(stream::iter([nothing]).chain(stream::pending()).boxed())
    }

    /// The content of those of these KV blocks that it holds; nothing, if it keeps none.
    async fn blocks(&self, _wanted: BlocksWanted) -> Result<BlockStream, WorkerError> {
        Ok(stream::empty().boxed())
    }

    /// Gets the blocks of a prefix that it lacks from another worker, where that is faster than computing
    /// them. Returns when they are there. One that keeps none gets none.
    async fn fetch(&self, _order: FetchOrder) -> Result<Fetched, WorkerError> {
        Ok(Fetched::default())
    }

    /// Serves one model more. A load that fails has changed nothing; one that began goes on to its end whether it is
    /// read or not. A worker that serves what it serves refuses.
    async fn load(&self, _order: LoadOrder) -> Result<LoadStream, WorkerError> {
        Err(NotLoaded::Outside.because("this worker serves the models that it has"))
    }

    /// Serves the model of this name to nobody new from now on, its adapters included; how many sequences and orders go
    /// on. What has not ended within `within` is handed over, and its memory is free after the last.
    async fn unload(
        &self,
        name: &ModelName,
        _within: Option<Duration>,
    ) -> Result<u32, WorkerError> {
        Err(NotLoaded::NoSuchModel
            .because(format!("no model that may be unloaded is called `{name}`")))
    }
}

/// Texts to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedOrder {
    /// The request it belongs to, for the worker's logs.
    pub request: RequestId,
    /// The exact model version.
    pub model: ModelDigest,
    /// The tokens of each text: at least one, at most as many as the model reads.
    pub texts: Vec<Arc<[u32]>>,
    /// For whom.
    pub share: Share,
}

/// What became of an [`EmbedOrder`].
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// The vector of each text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// What it used.
    pub usage: Usage,
}

/// What changes in a KV cache; it ends when the worker can no longer be reached.
pub type PrefixStream = Pin<Box<dyn Stream<Item = PrefixChange> + Send>>;

/// Blocks as they come. An error is the last item.
pub type BlockStream = Pin<Box<dyn Stream<Item = Result<BlockContent, WorkerError>> + Send>>;

/// What changed in a KV cache. Blocks go by [`BlockHash::short`]: enough to guess where a prefix may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixChange {
    /// Forget everything that was said before.
    pub reset: bool,
    /// Blocks it holds now.
    pub added: Vec<u64>,
    /// Blocks it no longer holds.
    pub removed: Vec<u64>,
}

/// KV blocks that one worker wants of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlocksWanted {
    /// The exact model version.
    pub model: ModelDigest,
    /// Their names.
    pub names: Vec<BlockHash>,
}

/// One KV block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockContent {
    /// Its name.
    pub name: BlockHash,
    /// Keys and values of all layers, as workers of the model keep them.
    pub content: Vec<u8>,
}

/// A prefix to get from another worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchOrder {
    /// The exact model version.
    pub model: ModelDigest,
    /// Whose prefix it is.
    pub salt: CacheSalt,
    /// Its tokens.
    pub tokens: Arc<[u32]>,
    /// The address of the worker that has it.
    pub from: String,
}

/// What came of a [`FetchOrder`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blocks that came.
    pub blocks: u32,
    /// Their bytes.
    pub bytes: u64,
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
    /// What is asked of the output beside that.
    pub output: OutputRules,
    /// For whom it runs.
    pub share: Share,
    /// Keeps the tenant's KV blocks apart from everybody else's.
    pub salt: CacheSalt,
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
        /// For each of `ids`, if that was asked for; else empty.
        logprobs: Vec<Logprobs>,
        /// Tokens before the output that a cache on this worker held, so far. The last word says the same; a worker
        /// that vanishes has none.
        cached: u32,
    },
    /// The worker leaves before the sequence could end; another one is to go on. Nothing follows.
    HandedOver {
        /// All it used on this worker.
        usage: Usage,
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
    /// Tokens of the output that count, if it is to stop and not all of them do.
    pub(crate) kept: Option<u32>,
    /// What it takes is nobody's but `platform.hedge`'s.
    pub(crate) waived: bool,
}

/// Steers one sequence. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Control {
    wish: Arc<watch::Sender<Wish>>,
}

impl Control {
    /// A control, and where its wishes arrive.
    pub(crate) fn new(allowance: u32) -> (Self, watch::Receiver<Wish>) {
        let (sender, receiver) = watch::channel(Wish { allowance, ..Wish::default() });
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

    /// The same for an output that is complete with its first `kept` tokens: time after the last of them is nobody's
    /// but [`Accounts::overhead`].
    pub fn stop_after(&self, reason: FinishReason, kept: u32) {
        self.wish.send_if_modified(|wish| {
            let first = wish.stop.is_none();
            if first {
                (wish.stop, wish.kept) = (Some(reason), Some(kept));
            }
            first
        });
    }

    /// Ends the sequence at its next step, and says that another worker was faster.
    pub(crate) fn waive(&self) {
        self.wish.send_if_modified(|wish| {
            wish.stop = wish.stop.or(Some(FinishReason::Cancelled));
            !std::mem::replace(&mut wish.waived, true)
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

    /// How many tokens of the output count, where it is to stop and those after them are to be nobody's.
    pub fn kept(&self) -> Option<u32> {
        self.0.borrow().kept
    }

    /// Whether what the sequence takes, or took, is to be booked on [`Accounts::hedge`]. It is to stop as well.
    pub fn are_to_waive(&self) -> bool {
        self.0.borrow().waived
    }
}

/// One sequence on one worker. Dropping it cancels the sequence, and what it took is [`Accounts::abandoned`].
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
        Self { events: Box::pin(events(Wishes(wishes)).fuse()), control }
    }

    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// The handle that extends or stops this sequence.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Gives the sequence up because another worker was faster: it ends at its next step, and what it took is
    /// [`Accounts::hedge`], not the requests'. Returns at once.
    ///
    /// A worker that is lost before it hears of it, or that nobody can tell any more because this process ends,
    /// books it as if it was dropped: [`Accounts::abandoned`].
    pub fn waive(mut self) {
        self.control.waive();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // A wish is passed on by whoever reads. Nobody waits for it: it is bounded, and after it there is nothing
        // left but the books.
        runtime.spawn(tokio::time::timeout(WAIVE_LIMIT, async move {
            while self.next().await.is_some() {}
        }));
    }
}

/// How long the end of a sequence that was waived is waited for: a worker that has heard of it by then cancels it.
const WAIVE_LIMIT: Duration = Duration::from_secs(1);

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
    /// How far it is on its way out.
    pub stage: Stage,
    /// How long it stays, if it is leaving and knows.
    pub leaves_in: Option<Duration>,
    /// Its machine was said to be likely to go some day: others are the better choice.
    pub at_risk: bool,
    /// Where its machine is, in the words of whoever rents it out; empty if it does not say.
    pub zone: String,
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
    /// What an hour of it costs.
    pub price_per_hour: NanoUsd,
    /// On what terms its machine is rented.
    pub capacity: Capacity,
    /// How it stands with each of its engines, if it has more than one; see [`WorkerState::load_of`].
    pub loads: Vec<(Vec<ModelDigest>, ModelLoad)>,
    /// Where its time went.
    pub accounts: Accounts,
    /// How far its work model's prediction of a step's time is off on average, in millionths of that time.
    pub attribution_error_ppm: u32,
    /// Guessed output tokens that were computed since the start.
    pub drafted_tokens: u64,
    /// Those of `drafted_tokens` that became output.
    pub accepted_tokens: u64,
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
            stage: Stage::Serving,
            leaves_in: None,
            at_risk: false,
            zone: String::new(),
            block_tokens: 0,
            block_bytes: 0,
            running_tokens: 0,
            waiting_tokens: 0,
            first_token_in: Duration::ZERO,
            prompt_token_time: Duration::ZERO,
            step_time: Duration::ZERO,
            price_per_hour: NanoUsd::ZERO,
            capacity: Capacity::default(),
            loads: Vec::new(),
            accounts: Accounts::default(),
            attribution_error_ppm: 0,
            drafted_tokens: 0,
            accepted_tokens: 0,
        }
    }
}

impl WorkerState {
    /// Whether it takes new sequences, as far as its stage goes.
    pub fn takes_work(&self) -> bool {
        self.stage == Stage::Serving
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
    /// It has no room for a sequence of this length, however long it waits; another one may have more. In words for
    /// the client.
    #[error("{0}")]
    TooLong(String),
    /// The output cannot be kept in the format that the client asked for: the client's mistake, in words for it.
    #[error("{0}")]
    Format(String),
    /// It cannot be reached, or stopped answering.
    #[error("the worker cannot be reached: {0}")]
    Unreachable(String),
    /// It tried and failed.
    #[error("the worker failed: {0}")]
    Failed(String),
    /// It loads or unloads nothing: what it serves is what it served.
    #[error("{message}")]
    NotLoaded {
        /// Why.
        why: NotLoaded,
        /// What was wrong and what to do, in words for whoever asked.
        message: String,
    },
}

impl WorkerError {
    /// Whether it is about what was asked and not about the worker: another one would say the same.
    pub const fn is_askers(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::Format(_))
    }

    /// Decides status, metric label and retry.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } | Self::Draining => ErrorKind::Overloaded,
            Self::ModelNotFound(_) | Self::Unreachable(_) => ErrorKind::Unavailable,
            Self::TooLong(_) => ErrorKind::ContextLengthExceeded,
            Self::Format(_) | Self::NotLoaded { .. } => ErrorKind::InvalidRequest,
            Self::Invalid(_) | Self::Failed(_) => ErrorKind::Internal,
        }
    }

    /// Whether another worker, or this one later, may well do it.
    pub const fn is_passing(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Draining | Self::ModelNotFound(_) | Self::Unreachable(_) => {
                true
            }
            Self::Invalid(_)
            | Self::TooLong(_)
            | Self::Format(_)
            | Self::Failed(_)
            | Self::NotLoaded { .. } => false,
        }
    }
}
