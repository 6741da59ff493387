//! A worker without an engine: it says what it is told to, so that everything around a worker can
//! be tested and measured without one.
//!
//! Its output is a pure function of prompt and position, like a real model's: continuing a sequence
//! elsewhere gives the same tokens. It may be told what to say; then the seed chooses what of it. Every token takes [`TOKEN_TIME`] on its accounts, and so does catching
//! up with tokens of another worker, whatever the clock says. It passes the conformance suite of the
//! contract.
//!
//! It may be told to load a model: that is the same script by another name.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Accounts, Capacity, FinishReason, GpuTime, IncarnationId, LoadOrder, Logprobs, ModelDigest,
    ModelFiles, ModelInfo, ModelKind, ModelName, NanoUsd, Rent, Stage, Times, Usage,
};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;

use crate::contract::{
    EmbedOrder, Embedded, Event, Generation, Start, StateStream, Wishes, Worker, WorkerError,
    WorkerState,
};
use crate::loading::{LoadStream, Loading, NotLoaded};

/// A worker that follows a script.
pub struct ScriptedWorker {
    incarnation: IncarnationId,
    model: ModelInfo,
    files: ModelFiles,
    /// Time between tokens.
    pace: Duration,
    lot: u32,
    capacity: u32,
    fail_after: Mutex<VecDeque<u32>>,
    lines: Vec<Vec<u32>>,
    load: Arc<Load>,
}

/// What changes while it works; told to watchers.
struct Load {
    running: AtomicU32,
    draining: AtomicBool,
    books: Mutex<Books>,
    /// What it loaded beside its first model.
    loaded: Mutex<Vec<ModelInfo>>,
    changed: watch::Sender<()>,
}

/// What it costs and where its time went.
#[derive(Clone, Copy)]
struct Books {
    rent: Rent,
    accounts: Accounts,
}

impl Load {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self) -> MutexGuard<'_, Vec<ModelInfo>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ScriptedWorker {
    /// A worker that serves `model`, `capacity` sequences at a time, without pause between tokens.
    pub fn new(model: ModelInfo, files: ModelFiles, capacity: u32) -> Self {
        let rent = Rent::new(NanoUsd::from_dollars(1), Capacity::OnDemand).unwrap_or_default();
        let load = Load {
            running: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            books: Mutex::new(Books { rent, accounts: Accounts::default() }),
            loaded: Mutex::default(),
            changed: watch::Sender::new(()),
        };
        Self {
            incarnation: IncarnationId::generate(),
            model,
            files,
            pace: Duration::ZERO,
            lot: 1,
            capacity,
            fail_after: Mutex::default(),
            lines: Vec::new(),
            load: Arc::new(load),
        }
    }

    /// The same of a model called `scripted`, for those who ask nothing in particular of it.
    pub fn of_some_model(capacity: u32) -> Self {
        let info = ModelInfo {
            name: ModelName::new("scripted"),
            digest: ModelDigest::new("abc"),
            context_length: 4096,
            vocabulary: 1000,
            stop_tokens: Vec::new(),
            weights: "none".to_owned(),
            kind: ModelKind::Text,
        };
        let files = ModelFiles { tokenizer: (*b"{}").into(), chat_template: None };
        Self::new(info, files, capacity)
    }

    /// What it serves.
    pub const fn info(&self) -> &ModelInfo {
        &self.model
    }

    /// The same worker, waiting `pace` before every token.
    #[must_use]
    pub fn paced(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// The same worker, telling up to `tokens` tokens at a time, as one does whose reader is slower.
    #[must_use]
    pub fn in_lots(mut self, tokens: u32) -> Self {
        self.lot = tokens;
        self
    }

    /// The same worker, saying one of `lines` and ending its turn then: of a sequence with seed `s`, the one at
    /// `s` modulo their number.
    #[must_use]
    pub fn saying(mut self, lines: Vec<Vec<u32>>) -> Self {
        self.lines = lines;
        self
    }

    /// What it tells of the token at `position`: less probable the later it is, and no token beside it
    /// as probable.
    pub fn logprobs(&self, token: u32, position: u32, top: u32) -> Logprobs {
        let logprob = -(position as f32 + 1.0) / 8.0;
        let others = |rank| ((token + rank) % self.model.vocabulary, logprob - rank as f32);
        Logprobs { logprob, top: (0..top).map(others).collect() }
    }

    /// Makes the next sequence break after `tokens` tokens, as if the worker had vanished; an order to embed
    /// breaks before it is answered.
    pub fn break_next_after(&self, tokens: u32) {
        self.fail_after.lock().unwrap_or_else(PoisonError::into_inner).push_back(tokens);
    }

    /// The token this worker produces at `position` of the output for `prompt`.
    pub fn token(&self, prompt: &[u32], position: u32) -> u32 {
        let sum =
            prompt.iter().fold(17_u32, |sum, token| sum.wrapping_mul(31).wrapping_add(*token));
        let token = sum.wrapping_add(position.wrapping_mul(2_654_435_761)) % self.model.vocabulary;
        if self.model.stop_tokens.contains(&token) { 0 } else { token }
    }

    /// All that it says to `start`, and why it ends then.
    fn output(&self, start: &Start) -> (Vec<u32>, FinishReason) {
        let most = start.max_output as usize;
        let Some(number) = std::num::NonZeroU64::new(self.lines.len() as u64) else {
            let tokens = (0..start.max_output).map(|at| self.token(&start.prompt, at)).collect();
            return (tokens, FinishReason::Length);
        };
        let mut line = self.lines[(start.sampling.seed % number) as usize].clone();
        let finish = if line.len() < most { FinishReason::Stop } else { FinishReason::Length };
        line.truncate(most);
        (line, finish)
    }

    /// The vector this worker makes of `text`, if its model is one that embeds.
    pub fn vector(&self, text: &[u32]) -> Vec<f32> {
        let ModelKind::Embedding { dimensions } = self.model.kind else { return Vec::new() };
        let scale = self.model.vocabulary as f32;
        (0..dimensions).map(|at| self.token(text, at) as f32 / scale).collect()
    }

    fn serves(&self, model: &ModelDigest) -> bool {
        *model == self.model.digest || self.load.loaded().iter().any(|info| info.digest == *model)
    }

    /// A place for work on `texts` by the version `model`, which `fits` what this worker's model is.
    fn admit(
        &self,
        model: &ModelDigest,
        texts: &[&[u32]],
        fits: bool,
    ) -> Result<Seat, WorkerError> {
        if !self.serves(model) || !fits {
            return Err(WorkerError::ModelNotFound(model.clone()));
        }
        if texts.iter().any(|text| text.is_empty()) {
            return Err(WorkerError::Invalid("the prompt is empty".to_owned()));
        }
        if self.load.draining.load(Ordering::SeqCst) {
            return Err(WorkerError::Draining);
        }
        Seat::take(&self.load, self.capacity)
            .ok_or(WorkerError::Full { retry_in: Duration::from_millis(50) })
    }
}

#[async_trait]
impl Worker for ScriptedWorker {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let makes_text = self.model.kind == ModelKind::Text;
        let tokens = start.prompt.len() as u64 + u64::from(start.max_output);
        let most = self.model.context_length;
        if tokens > u64::from(most) {
            return Err(WorkerError::TooLong(format!("{tokens} tokens, but at most {most} fit")));
        }
        let seat = self.admit(&start.model, &[&start.prompt], makes_text)?;
        let fail_after = self.fail_after.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let produced = u32::try_from(start.generated.len()).unwrap_or(u32::MAX);
        let (tokens, finish) = self.output(&start);
        let logprobs = start.output.logprobs.map(|top| {
            let told = (0_u32..).zip(&tokens).map(|(at, token)| self.logprobs(*token, at, top));
            told.collect()
        });
        let recompute = if produced == 0 { GpuTime::ZERO } else { TOKEN_TIME };
        seat.catch_up(recompute);
        let script = Script {
            tokens,
            logprobs,
            finish,
            produced,
            first: produced,
            allowance: start.allowance,
            prompt_tokens: u32::try_from(start.prompt.len()).unwrap_or(u32::MAX),
            pace: self.pace,
            lot: self.lot,
            fail_after: fail_after.unwrap_or(u32::MAX),
            stop: None,
            kept: None,
            deaf: false,
            written_off: false,
            ended: false,
            times: Times { recompute, ..Times::default() },
            seat,
        };
        Ok(Generation::new(start.allowance, |wishes| script.play(wishes)))
    }

    async fn embed(&self, order: EmbedOrder) -> Result<Embedded, WorkerError> {
        let texts: Vec<&[u32]> = order.texts.iter().map(|text| &**text).collect();
        let seat = self.admit(&order.model, &texts, self.model.kind != ModelKind::Text)?;
        tokio::time::sleep(self.pace).await;
        let breaks = self.fail_after.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if breaks.is_some() {
            return Err(WorkerError::Unreachable("scripted break".to_owned()));
        }
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        let gpu = GpuTime::from_nanos(TOKEN_TIME.nanos() * tokens as u64);
        seat.work(gpu);
        let usage = Usage {
            prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            gpu,
            times: Times { prefill: gpu, ..Times::default() },
            ..Usage::default()
        };
        Ok(Embedded { vectors: texts.iter().map(|text| self.vector(text)).collect(), usage })
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        let changes = tokio_stream::wrappers::WatchStream::new(self.load.changed.subscribe());
        let (load, model) = (Arc::clone(&self.load), self.model.clone());
        let (incarnation, total_blocks, pace) = (self.incarnation, self.capacity, self.pace);
        let states = changes.map(move |()| {
            let running = load.running.load(Ordering::SeqCst);
            let Books { rent, accounts } = *load.books();
            WorkerState {
                incarnation,
                models: [vec![model.clone()], load.loaded().clone()].concat(),
                free_blocks: total_blocks.saturating_sub(running),
                total_blocks,
                running,
                first_token_in: pace,
                step_time: pace,
                stage: if load.draining.load(Ordering::SeqCst) {
                    Stage::Draining
                } else {
                    Stage::Serving
                },
                price_per_hour: rent.per_hour(),
                capacity: rent.capacity(),
                accounts,
                ..WorkerState::default()
            }
        });
        Ok(states.boxed())
    }

    async fn drain(&self, _: Option<Duration>) -> Result<(), WorkerError> {
        self.load.draining.store(true, Ordering::SeqCst);
        self.load.changed.send_replace(());
        Ok(())
    }

    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError> {
        self.load.books().rent = rent;
        self.load.changed.send_replace(());
        Ok(())
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        if !self.serves(model) {
            return Err(WorkerError::ModelNotFound(model.clone()));
        }
        Ok(self.files.clone())
    }

    async fn load(&self, order: LoadOrder) -> Result<LoadStream, WorkerError> {
        if self.load.draining.load(Ordering::SeqCst) {
            return Err(WorkerError::Draining);
        }
        let mut loaded = self.load.loaded();
        if loaded.iter().chain([&self.model]).any(|info| info.name == order.name) {
            let message = format!("something is called `{}` already", order.name);
            return Err(NotLoaded::NameTaken.because(message));
        }
        let digest = ModelDigest::new(format!("{}-{}", self.model.digest, order.name));
        let info = ModelInfo { name: order.name, digest, ..self.model.clone() };
        loaded.push(info.clone());
        self.load.changed.send_replace(());
        let told = [Loading::Progress { loaded: 1, total: 1 }, Loading::Done(info)];
        Ok(stream::iter(told.map(Ok)).boxed())
    }

    async fn unload(&self, name: &ModelName, _: Option<Duration>) -> Result<u32, WorkerError> {
        let mut loaded = self.load.loaded();
        let before = loaded.len();
        loaded.retain(|info| info.name != *name);
        if loaded.len() == before {
            let message = format!("no model that was loaded is called `{name}`");
            return Err(NotLoaded::NoSuchModel.because(message));
        }
        self.load.changed.send_replace(());
        Ok(self.load.running.load(Ordering::SeqCst))
    }
}

/// One place among the sequences that run, and its books. Dropping it frees the place.
struct Seat {
    load: Arc<Load>,
    taken: bool,
}

impl Seat {
    fn take(load: &Arc<Load>, capacity: u32) -> Option<Self> {
        let taken = load.running.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            (count < capacity).then_some(count + 1)
        });
        taken.ok()?;
        load.changed.send_replace(());
        Some(Self { load: Arc::clone(load), taken: true })
    }

    /// Frees the place; its books are open as long as its sequence may be read.
    fn leave(&mut self) {
        if std::mem::take(&mut self.taken) {
            self.load.running.fetch_sub(1, Ordering::SeqCst);
        }
        self.load.changed.send_replace(());
    }

    /// Books time on tokens that another worker produced.
    fn catch_up(&self, time: GpuTime) {
        let accounts = &mut self.load.books().accounts;
        accounts.migration += time;
        accounts.wall += time;
    }

    /// Books time on tokens of its own.
    fn work(&self, time: GpuTime) {
        let accounts = &mut self.load.books().accounts;
        accounts.requests += time;
        accounts.wall += time;
    }

    /// Another worker was faster.
    fn waive(&self, time: GpuTime) {
        let accounts = &mut self.load.books().accounts;
        accounts.requests = accounts.requests - time;
        accounts.hedge += time;
    }

    /// Nothing came of it.
    fn excuse(&self, time: GpuTime) {
        let accounts = &mut self.load.books().accounts;
        accounts.requests = accounts.requests - time;
        accounts.overhead += time;
    }

    /// Nobody will read what it used.
    fn abandon(&self, time: GpuTime) {
        let accounts = &mut self.load.books().accounts;
        accounts.requests = accounts.requests - time;
        accounts.abandoned += time;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One sequence being played. Dropping it before its end was read abandons its time.
struct Script {
    tokens: Vec<u32>,
    /// For each of them, if that was asked for.
    logprobs: Option<Vec<Logprobs>>,
    /// Why it ends after them.
    finish: FinishReason,
    produced: u32,
    first: u32,
    allowance: u32,
    prompt_tokens: u32,
    pace: Duration,
    /// Most tokens told at a time.
    lot: u32,
    fail_after: u32,
    stop: Option<FinishReason>,
    /// Tokens that count, if it is to stop and not all of them do.
    kept: Option<u32>,
    /// Nobody wishes anything any more.
    deaf: bool,
    /// What it used is no longer the requests'.
    written_off: bool,
    ended: bool,
    times: Times,
    seat: Seat,
}

impl Script {
    fn play(self, wishes: Wishes) -> impl Stream<Item = Event> + Send {
        stream::unfold((self, wishes), |(mut script, mut wishes)| async move {
            let event = script.next(&mut wishes).await?;
            Some((event, (script, wishes)))
        })
    }

    async fn next(&mut self, wishes: &mut Wishes) -> Option<Event> {
        if self.ended {
            self.heed_waive(wishes);
            return None;
        }
        self.wait_for_turn(wishes).await;
        self.heed_waive(wishes);
        let event = self.event();
        self.ended = !matches!(event, Event::Tokens { .. });
        if self.ended {
            self.seat.leave();
        }
        Some(event)
    }

    /// Waits until there is something to say, taking in wishes first.
    async fn wait_for_turn(&mut self, wishes: &mut Wishes) {
        let pause = tokio::time::sleep(self.pace);
        tokio::pin!(pause);
        let mut paused = !self.pace.is_zero();
        loop {
            let at_end = self.produced as usize >= self.tokens.len();
            let blocked = !at_end && self.produced >= self.allowance;
            tokio::select! {
                biased;
                wish = wishes.next(), if !self.deaf => {
                    if let Some((allowance, stop)) = wish {
                        self.allowance = self.allowance.max(allowance);
                        self.stop = stop;
                        self.kept = wishes.kept();
                    } else {
                        self.stop = self.stop.or(Some(FinishReason::Cancelled));
                        self.deaf = true;
                    }
                }
                () = &mut pause, if paused => paused = false,
                () = std::future::ready(()), if self.stop.is_some() || !(blocked || paused) => return,
            }
        }
    }

    /// Books what it used on another account if its reader has said so, at its end or after it.
    fn heed_waive(&mut self, wishes: &Wishes) {
        if wishes.are_to_waive() && !std::mem::replace(&mut self.written_off, true) {
            self.seat.waive(self.gpu());
        }
    }

    fn event(&mut self) -> Event {
        let done = self.produced as usize >= self.tokens.len();
        let reason = self.stop.or(done.then_some(self.finish));
        if let Some(reason) = reason {
            self.excuse_overrun();
            return Event::Finished { reason, usage: self.usage() };
        }
        if self.produced - self.first >= self.fail_after {
            // A worker that vanishes tells nobody what it did.
            self.written_off = true;
            self.seat.abandon(self.gpu());
            return Event::lost(WorkerError::Unreachable("scripted break".to_owned()));
        }
        let first = self.produced;
        let breaks_at = self.first.saturating_add(self.fail_after);
        let end = (self.tokens.len() as u32).min(self.allowance).min(breaks_at);
        let mut gpu = GpuTime::ZERO;
        while self.produced < end.min(first + self.lot) {
            self.seat.work(TOKEN_TIME);
            // The first token comes out of the prompt's own step.
            let begins = self.produced == 0;
            let time = if begins { &mut self.times.prefill } else { &mut self.times.decode };
            *time += TOKEN_TIME;
            gpu += TOKEN_TIME;
            self.produced += 1;
        }
        let told = first as usize..self.produced as usize;
        let ids = self.tokens[told.clone()].to_vec();
        let logprobs = self.logprobs.as_ref().map(|all| all[told].to_vec());
        Event::Tokens { first, ids, gpu, logprobs: logprobs.unwrap_or_default(), cached: 0 }
    }

    /// What followed the tokens that its reader keeps is nobody's but the worker's.
    fn excuse_overrun(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let beyond = self.produced.saturating_sub(kept.max(self.first));
        let overrun = GpuTime::from_nanos(u64::from(beyond) * TOKEN_TIME.nanos());
        let decode = overrun.min(self.times.decode);
        self.times.decode = self.times.decode - decode;
        self.times.prefill = self.times.prefill - (overrun - decode);
        self.seat.excuse(overrun);
    }

    fn gpu(&self) -> GpuTime {
        self.times.prefill + self.times.decode
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            completion_tokens: self.produced,
            gpu: self.gpu(),
            times: self.times,
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if !self.ended && !self.written_off {
            self.seat.abandon(self.gpu());
        }
    }
}

/// What a scripted token takes.
const TOKEN_TIME: GpuTime = GpuTime::from_nanos(1_000_000);
