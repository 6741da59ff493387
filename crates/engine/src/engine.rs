//! The handle callers hold: takes requests, tells the state, ends the thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use domain::{ModelInfo, Usage};
use tokio::sync::watch;

use crate::inbox::Inbox;
use crate::running::Arrival;
use crate::sequence::line;
use crate::step_loop::StepLoop;
use crate::{EngineConfig, EngineError, EngineState, Model, Refusal, Request, Sequence};

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
        let step_loop = StepLoop::new(model, config, inbox.clone(), report)?;
        let max_tokens = step_loop.max_tokens();
        let thread = std::thread::Builder::new()
            .name("engine-step".to_owned())
            .spawn(move || step_loop.run())
            .map_err(|error| EngineError::Start(error.to_string()))?;
        let thread = Mutex::new(Some(thread));
        Ok(Self(Arc::new(Handle { inbox, state, info, max_tokens, thread })))
    }

    /// Queues a sequence, or says why not; never blocks.
    pub fn submit(&self, request: Request) -> Result<Sequence, Refusal> {
        self.0.check(&request)?;
        let usage = Usage {
            prompt_tokens: request.prompt.len() as u32,
            completion_tokens: request.generated.len() as u32,
            ..Usage::default()
        };
        let (sequence, outlet) = line(&self.0.inbox, request.allowance, usage);
        self.0.inbox.offer(Arrival::new(request, outlet))?;
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
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Handle {
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let Request { prompt, generated, max_output, allowance: _, sampling, stop_on_eos: _ } =
            request;
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
