//! The handle callers hold: takes requests, tells the state, ends the thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use domain::{Format, ModelInfo, Usage};
use tokio::sync::watch;

use crate::grammar::{Guides, Language, Languages, NotCompiled};
use crate::inbox::Inbox;
use crate::running::Arrival;
use crate::sequence::line;
use crate::step_loop::StepLoop;
use crate::{
    EngineConfig, EngineError, EngineState, MAX_LOGPROBS, Model, Refusal, Request, Sequence,
};

/// A running engine. Clones share one step thread; dropping the last one ends it, as [`shutdown`] does.
///
/// [`shutdown`]: Engine::shutdown
#[derive(Clone, Debug)]
pub struct Engine(Arc<Handle>);

impl Engine {
    /// Starts the step thread for `model`.
    pub fn start(model: Model, config: EngineConfig) -> Result<Self, EngineError> {
        config.check()?;
        let info = model.info().clone();
        let inbox = Arc::new(Inbox::new(config.max_waiting));
        let (report, state) = watch::channel(EngineState::default());
        let languages = Languages::new(model.files().clone(), info.clone());
        let bell = Arc::clone(&inbox);
        let guides = Guides::start(move || bell.ring())
            .map_err(|error| EngineError::Start(error.to_string()))?;
        let guides = Arc::new(guides);
        let step_loop = StepLoop::new(model, config, inbox.clone(), guides.clone(), report)?;
        let max_tokens = step_loop.max_tokens();
        let thread = std::thread::Builder::new()
            .name("engine-step".to_owned())
            .spawn(move || step_loop.run())
            .map_err(|error| EngineError::Start(error.to_string()))?;
        let thread = Mutex::new(Some(thread));
        let handle = Handle { inbox, state, info, max_tokens, languages, guides, thread };
        Ok(Self(Arc::new(handle)))
    }

    /// Queues a sequence, or says why not. Takes as long as compiling the format of its output does, if that is
    /// none of the recent ones.
    pub async fn start_sequence(&self, request: Request) -> Result<Sequence, Refusal> {
        self.0.check(&request)?;
        if request.output.format == Format::Text {
            return self.submit(request);
        }
        let language = self.0.languages.find(&request.output.format).await;
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
        let usage = Usage {
            prompt_tokens: request.prompt.len() as u32,
            completion_tokens: request.generated.len() as u32,
            ..Usage::default()
        };
        let (sequence, outlet) = line(&self.0.inbox, request.allowance, usage);
        let guide = language.map(|language| self.0.guides.guide(language, &request.generated));
        self.0.inbox.offer(Arrival::new(request, guide, outlet))?;
        Ok(sequence)
    }

    /// The engine as of its last report.
    pub fn state(&self) -> EngineState {
        *self.0.state.borrow()
    }

    /// Reports: after every change of the queues, and at least every 50 ms while stepping.
    pub fn watch(&self) -> watch::Receiver<EngineState> {
        self.0.state.clone()
    }

    /// The model this engine runs.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// Takes no new sequences from now on; running and waiting ones go on.
    pub fn drain(&self) {
        self.0.inbox.drain();
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
    inbox: Arc<Inbox>,
    state: watch::Receiver<EngineState>,
    info: ModelInfo,
    max_tokens: u32,
    languages: Languages,
    guides: Arc<Guides>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let Request { prompt, generated, max_output, allowance: _, sampling, output, share: _ } =
            request;
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
        let biased = sampling.logit_bias.iter().map(|(id, _)| id);
        for id in prompt.iter().chain(generated).chain(biased) {
            if *id >= self.info.vocabulary {
                let problem = format!("token id {id} is not below {}", self.info.vocabulary);
                return Err(Refusal::Invalid(problem));
            }
        }
        Ok(())
    }

    fn shut_down(&self) {
        self.inbox.shut_down();
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
