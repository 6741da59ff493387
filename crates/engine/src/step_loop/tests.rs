//! The step loop, driven pass by pass with the real weights of the demo model, on a clock that only computing
//! moves.

mod fairness;
mod faults;
mod guesses;

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use domain::{Accounts, FinishReason, ModelName, OutputRules, ProjectId, Sampling, Share, Usage};
use tokio::sync::watch;

use super::*;
use crate::fair::Place;
use crate::ledger::Clock;
use crate::models::Shape;
use crate::running::Arrival;
use crate::sequence::{Sequence, line};
use crate::{Event, ModelSource, Refusal, Request};

/// A step loop without its thread.
struct Driver {
    steps: StepLoop,
    inbox: Arc<Inbox>,
    clock: Arc<Mutex<Instant>>,
    token_nanos: Arc<AtomicU64>,
}

/// A decoder whose steps take what they are said to take, and that does what a test wants.
struct Rigged {
    decoder: Box<dyn Decoder>,
    clock: Arc<Mutex<Instant>>,
    /// It only takes its time.
    hollow: bool,
    token_nanos: Arc<AtomicU64>,
    rig: Rig,
}

/// What it does to the logits of a step beside computing them.
type Rig = Box<dyn Fn(&Step, &mut Vec<f32>) -> candle_core::Result<()> + Send + Sync>;

impl Decoder for Rigged {
    fn shape(&self) -> &Shape {
        self.decoder.shape()
    }

    fn forward(
        &self,
        step: &Step,
        cache: &KvCache,
        pool: &Pool,
        logits: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        let token_time = Duration::from_nanos(self.token_nanos.load(Ordering::Relaxed));
        *self.clock.lock().unwrap() += STEP_TIME + token_time * step.tokens.len() as u32;
        if self.hollow {
            logits.clear();
            logits.resize(step.sampled.len() * self.shape().vocabulary, 0.0);
        } else {
            self.decoder.forward(step, cache, pool, logits)?;
        }
        (self.rig)(step, logits)
    }
}

impl Driver {
    /// With the weights of the demo model.
    fn new(config: EngineConfig, rig: Rig) -> Self {
        Self::with(config, rig, false)
    }

    /// Without: what it produces is nonsense, and when it does is what it would be with them.
    fn hollow(config: EngineConfig) -> Self {
        Self::with(config, Box::new(|_, _| Ok(())), true)
    }

    fn with(config: EngineConfig, rig: Rig, hollow: bool) -> Self {
        let clock = Arc::new(Mutex::new(Instant::now()));
        let model = Model::load(ModelName::new("demo"), &ModelSource::Demo, &mut |_| {}).unwrap();
        let token_nanos = Arc::new(AtomicU64::new(TOKEN_TIME.as_nanos() as u64));
        let rigged = |decoder| Rigged {
            decoder,
            clock: clock.clone(),
            hollow,
            token_nanos: token_nanos.clone(),
            rig,
        };
        let model = model.wrapped(|decoder| Box::new(rigged(decoder)));
        let inbox = Arc::new(Inbox::new(config.max_waiting));
        let (report, _) = watch::channel(EngineState::default());
        let guides = Arc::new(Guides::start(1 << 28, || {}).unwrap());
        let shared = Shared {
            inbox: inbox.clone(),
            guides,
            prefixes: Arc::new(Prefixes::new()),
            errands: Arc::new(Errands::new()),
        };
        let mut steps = StepLoop::new(model, config, shared, report).unwrap();
        steps.ledger = Ledger::by(Clock::Set(clock.clone()));
        Self { steps, inbox, clock, token_nanos }
    }

    /// The same where a token of a step takes so long.
    fn paced(self, token_time: Duration) -> Self {
        self.token_nanos.store(token_time.as_nanos() as u64, Ordering::Relaxed);
        self
    }

    fn submit(&self, request: Request) -> Result<Sequence, Refusal> {
        let usage = Usage { prompt_tokens: request.prompt.len() as u32, ..Usage::default() };
        let (sequence, outlet) = line(&self.inbox, request.allowance, usage);
        let names = self.steps.names(request.salt);
        let share = request.share;
        let mut arrival = Arrival::new(request, names, None, outlet);
        arrival.place = Place::new(share, self.now());
        self.inbox.offer(arrival)?;
        Ok(sequence)
    }

    fn is_empty(&self) -> bool {
        let StepLoop { running, away, .. } = &self.steps;
        running.is_empty() && away.is_empty() && self.inbox.waiting().0 == 0
    }

    /// Steps until nothing is left.
    fn finish(&mut self) {
        while !self.is_empty() {
            self.steps.pass();
        }
    }

    fn now(&self) -> Instant {
        *self.clock.lock().unwrap()
    }

    fn accounts(&self) -> Accounts {
        self.steps.ledger.accounts()
    }
}

/// What a sequence sent since it was last read: its tokens, and its last event if there was one.
fn read(sequence: &mut Sequence) -> (Vec<u32>, Option<Event>) {
    let mut all = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match pin!(sequence.next()).poll(&mut context) {
            Poll::Ready(Some(Event::Tokens { ids, .. })) => all.extend(ids),
            Poll::Ready(end) => return (all, end),
            Poll::Pending => return (all, None),
        }
    }
}

fn request(tenant: u128, prompt: Vec<u32>, output: u32) -> Request {
    Request {
        prompt: prompt.into(),
        generated: Vec::new(),
        max_output: output,
        allowance: output,
        sampling: Sampling::greedy(),
        output: OutputRules { ignore_eos: true, ..OutputRules::default() },
        share: Share::of(ProjectId::from_u128(tenant)),
        salt: CacheSalt::of(ProjectId::from_u128(tenant)),
        adapter: None,
    }
}

/// A step and a token of it take as long as they do on a slow core.
const STEP_TIME: Duration = Duration::from_micros(500);
const TOKEN_TIME: Duration = Duration::from_micros(250);
