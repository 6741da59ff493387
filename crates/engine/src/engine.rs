//! The handle callers hold: takes requests, tells the state, ends the thread.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::{BlockHash, BlockNames, CacheSalt, Format, ModelDigest, ModelInfo, ModelName, Usage};
use tokio::sync::{oneshot, watch};

use crate::adapter::Base;
use crate::adapters::Adapters;
use crate::errands::{Errand, Errands};
use crate::grammar::{Guides, Language, Languages, NotCompiled};
use crate::inbox::Inbox;
use crate::names::Names;
use crate::prefixes::Prefixes;
use crate::running::Arrival;
use crate::sequence::line;
use crate::step_loop::{Shared, StepLoop};
use crate::{
    CachedBlocks, EngineConfig, EngineError, EngineState, LoadError, MAX_LOGPROBS, Model, Refusal,
    Request, Sequence, Shifts,
};

/// A running engine. Clones share one step thread; dropping the last one ends it, as [`shutdown`] does.
///
/// [`shutdown`]: Engine::shutdown
#[derive(Clone, Debug)]
pub struct Engine(Arc<Handle>);

impl Engine {
    /// Starts the step thread for `model`.
    pub fn start(model: Model, config: EngineConfig) -> Result<Self, EngineError> {
        Self::start_beside(&Shifts::default(), model, config)
    }

    /// The same beside other engines of this process, with which it takes turns.
    pub fn start_beside(
        shifts: &Shifts,
        model: Model,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        config.check()?;
        let info = model.info().clone();
        let base = Base::of(&model);
        let inbox = Arc::new(Inbox::new(config.max_waiting));
        let (report, state) = watch::channel(EngineState::default());
        let languages = Languages::new(model.files().clone(), info.clone());
        let bell = Arc::clone(&inbox);
        let format_bytes = usize::try_from(config.format_bytes).unwrap_or(usize::MAX);
        let guides = Guides::start(format_bytes, move || bell.ring())
            .map_err(|error| EngineError::Start(error.to_string()))?;
        let (guides, prefixes) = (Arc::new(guides), Arc::new(Prefixes::new()));
        let shared = Shared { inbox, guides, prefixes, errands: Arc::new(Errands::new()) };
        let block_tokens = config.block_tokens;
        let step_loop = StepLoop::new(model, config, shared.clone(), report)?.beside(shifts);
        let max_tokens = step_loop.max_tokens();
        let info = ModelInfo { context_length: max_tokens, ..info };
        let adapters = Adapters::new(base.known_as(&info));
        let thread = std::thread::Builder::new()
            .name("engine-step".to_owned())
            .spawn(move || step_loop.run())
            .map_err(|error| EngineError::Start(error.to_string()))?;
        let thread = Mutex::new(Some(thread));
        let handle =
            Handle { shared, state, info, adapters, max_tokens, block_tokens, languages, thread };
        Ok(Self(Arc::new(handle)))
    }

    /// Queues a sequence, or says why not. Takes as long as compiling the format of its output does, if that is
    /// none of the recent ones.
    pub async fn start_sequence(&self, request: Request) -> Result<Sequence, Refusal> {
        self.0.check(&request)?;
        if request.output.format == Format::Text {
            return self.submit(request);
        }
        let language = self.0.languages.find(&request.output.format, request.share).await;
        let language = language.map_err(|error| match error {
            NotCompiled::Wrong(reason) => Refusal::Format(reason),
            NotCompiled::Slow => Refusal::Format("it takes too long to compile".to_owned()),
            NotCompiled::Busy => Refusal::Full { retry_in: COMPILE_RETRY_HINT },
        })?;
        self.queue(request, Some(language))
    }

    /// Queues a sequence whose output may be any text, or says why not; never blocks.
    pub fn submit(&self, request: Request) -> Result<Sequence, Refusal> {
        self.0.check(&request)?;
        if request.output.format != Format::Text {
            return Err(Refusal::Invalid("formats are compiled by `start_sequence`".to_owned()));
        }
        self.queue(request, None)
    }

    fn queue(
        &self,
        request: Request,
        language: Option<Arc<Language>>,
    ) -> Result<Sequence, Refusal> {
        let adapter = request.adapter.as_ref().map(|digest| {
            let found = self.0.adapters.find(digest);
            found.ok_or_else(|| Refusal::NoAdapter(digest.clone()))
        });
        let adapter = adapter.transpose()?;
        let model = adapter.as_ref().map_or(&self.0.info, |adapter| adapter.info());
        let usage = Usage {
            prompt_tokens: request.prompt.len() as u32,
            completion_tokens: request.generated.len() as u32,
            ..Usage::default()
        };
        let inbox = &self.0.shared.inbox;
        let (sequence, outlet) = line(inbox, request.allowance, usage);
        let names = Names::new(self.names(&model.digest, request.salt), self.0.block_tokens);
        inbox.offer(Arrival::new(request, names, language, outlet).with(adapter))?;
        Ok(sequence)
    }

    fn names(&self, model: &ModelDigest, salt: CacheSalt) -> BlockNames {
        BlockNames::new(model, salt, self.0.block_tokens)
    }

    /// The names of the full blocks of a text of this salt, as this engine cuts them, for one of its
    /// [`models`](Self::models).
    pub fn block_names(
        &self,
        model: &ModelDigest,
        salt: CacheSalt,
        tokens: &[u32],
    ) -> Vec<BlockHash> {
        self.names(model, salt).all(tokens)
    }

    /// Loads a low-rank adapter of the model from a folder in the layout of PEFT, and calls it `name`. Sequences
    /// may ask for it by its digest from now on. Takes as long as reading it does; steps go on meanwhile.
    pub fn load_adapter(&self, name: ModelName, folder: &Path) -> Result<ModelInfo, LoadError> {
        self.0.adapters.load(name, folder)
    }

    /// Unloads the adapter of this name; whether there was one. New sequences that ask for it are refused;
    /// those it has go on to their ends, and its memory is free after the last of them.
    pub fn unload_adapter(&self, name: &ModelName) -> bool {
        self.0.adapters.unload(name)
    }

    /// The model this engine runs and then its adapters, now and whenever that changes.
    pub fn models(&self) -> watch::Receiver<Arc<[ModelInfo]>> {
        self.0.adapters.models()
    }

    /// Tells which blocks the cache holds: all of them first, then what changes.
    pub fn cached_blocks(&self) -> CachedBlocks {
        CachedBlocks::new(Arc::clone(&self.0.shared.prefixes))
    }

    /// How many of these blocks the cache holds, up to the first that it does not. Asking is a use of them.
    pub async fn count_cached(&self, names: Vec<BlockHash>) -> usize {
        self.0.ask(|told| Errand::Count(names, told)).await.unwrap_or(0)
    }

    /// The keys and values in a block of all layers, as the cache of every engine of this model keeps them;
    /// nothing if it does not hold the block.
    pub async fn export_block(&self, name: BlockHash) -> Option<Vec<u8>> {
        self.0.ask(|told| Errand::Export(name, told)).await.flatten()
    }

    /// Takes up a block that another engine of this model exported, in the place of the block that was used
    /// least recently. Returns whether the cache holds it now: there may be no room, and content of
    /// another length than this engine's blocks is refused.
    pub async fn import_block(&self, name: BlockHash, content: Vec<u8>) -> bool {
        self.0.ask(|told| Errand::Import(name, content, told)).await.unwrap_or(false)
    }

    /// The engine as of its last report.
    pub fn state(&self) -> EngineState {
        *self.0.state.borrow()
    }

    /// Reports: after every change of the queues, and at least every 50 ms while stepping.
    pub fn watch(&self) -> watch::Receiver<EngineState> {
        self.0.state.clone()
    }

    /// The model this engine runs, with the context that it has here: the cache bounds it too.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// Takes no new sequences from now on; running and waiting ones go on.
    pub fn drain(&self) {
        self.0.shared.inbox.drain();
    }

    /// Ends the step thread at the next step boundary and waits for it; sequences that are not over fail
    /// with [`Failure::Stopped`](crate::Failure::Stopped).
    pub fn shutdown(&self) {
        self.0.shut_down();
    }
}

/// Dropping it ends the step thread.
#[derive(Debug)]
struct Handle {
    shared: Shared,
    state: watch::Receiver<EngineState>,
    info: ModelInfo,
    adapters: Adapters,
    max_tokens: u32,
    block_tokens: u32,
    languages: Languages,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    /// Has the step thread do something; nothing comes back once it has ended, or if it has too much to do.
    async fn ask<T>(&self, errand: impl FnOnce(oneshot::Sender<T>) -> Errand) -> Option<T> {
        let (told, answer) = oneshot::channel();
        self.shared.errands.leave(errand(told));
        self.shared.inbox.ring();
        answer.await.ok()
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let Request { prompt, generated, max_output, sampling, output, .. } = request;
        if output.logprobs.is_some_and(|top| top > MAX_LOGPROBS) {
            let problem = format!("at most {MAX_LOGPROBS} of the most probable tokens are told");
            return Err(Refusal::Invalid(problem));
        }
        if prompt.is_empty() {
            return Err(Refusal::Invalid("the prompt is empty".to_owned()));
        }
        if *max_output == 0 {
            return Err(Refusal::Invalid("`max_output` must be at least 1".to_owned()));
        }
        if generated.len() as u64 > u64::from(*max_output) {
            let problem = "more tokens are generated already than `max_output` allows";
            return Err(Refusal::Invalid(problem.to_owned()));
        }
        let tokens = prompt.len() as u64 + u64::from(*max_output);
        if tokens > u64::from(self.max_tokens) {
            return Err(Refusal::TooLong { tokens, max: self.max_tokens });
        }
        if output.format != Format::Text
            && (output.allowed_token_ids.is_some() || !output.bad_words.is_empty())
        {
            let problem = "allowed tokens and bad words cannot be joined with a format";
            return Err(Refusal::Invalid(problem.to_owned()));
        }
        if output.allowed_token_ids.as_ref().is_some_and(|allowed| allowed.is_empty()) {
            return Err(Refusal::Invalid("no token is allowed".to_owned()));
        }
        let biased = sampling.logit_bias.iter().map(|(id, _)| id);
        for id in prompt.iter().chain(generated).chain(biased).copied().chain(output.tokens()) {
            if id >= self.info.vocabulary {
                let problem = format!("token id {id} is not below {}", self.info.vocabulary);
                return Err(Refusal::Invalid(problem));
            }
        }
        Ok(())
    }

    fn shut_down(&self) {
        self.shared.inbox.shut_down();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the engine's step thread had panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// When a format may be compiled that could not be for lack of room.
const COMPILE_RETRY_HINT: Duration = Duration::from_secs(1);
