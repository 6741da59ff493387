//! One stream of tokens, whatever happens to the workers behind it.
//!
//! An [`Answer`] keeps the log of tokens it has delivered. When its worker leaves, vanishes, stalls, fails or says what
//! cannot be, it asks the router for another one and goes on from the log; a reader sees no gap and no repeat.
//! Time that another worker spends on what was already computed once is not the tenant's: workers
//! tell it beside what is billable, as `usage.times.recompute`. A worker's last word on what it used is
//! exact; of one that vanished without it, what its tokens said is all that is known.

use std::sync::Arc;

use domain::{
    CacheSalt, FinishReason, Format, GpuTime, Job, Logprobs, ModelName, NanoUsd, Stage, Times,
    Usage, Work,
};
use proto::{Event, Start, WorkerError};
use tokio::time::Instant;

use crate::ahead::Ahead;
use crate::error::RouteError;
use crate::evidence::{self, Lie};
use crate::figures::Cause;
use crate::hedge::Hedge;
use crate::latest::Follower;
use crate::member::Leaving;
use crate::patience::Unheard;
use crate::place::{Placed, Site, Wanted};
use crate::queue::Lane;
use crate::router::Router;

/// The stream of tokens that answers a job. Dropping it cancels the sequence.
pub struct Answer {
    router: Arc<Router>,
    model: ModelName,
    session: u64,
    start: Start,
    /// `None` between two workers.
    running: Option<Running>,
    /// Where it runs, or ran last.
    site: Site,
    /// Workers that failed it, and how often it was started.
    avoid: Vec<u32>,
    attempts: u32,
    handed_over: u32,
    /// It is to end, for this reason.
    stop: Option<FinishReason>,
    /// Its first tokens that count, if it was stopped and not all of them do.
    kept: Option<u32>,
    used: Used,
    /// What workers before this one did, and what they spent on it.
    before: (Vec<Work>, Spent),
    /// What this worker has spent so far.
    here: Spent,
    /// Where it goes on when this worker leaves.
    ahead: Option<Ahead>,
    /// It ended for want of context, and is to go on where there is more. If nobody has room, that was its end.
    outgrown: bool,
}

/// What an answer has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// What the tenant is charged for.
    pub usage: Usage,
    /// What that cost us.
    pub cost: NanoUsd,
}

/// What workers spent on an answer.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    /// Billable.
    gpu: GpuTime,
    times: Times,
    cost: NanoUsd,
    /// The worker said that this is all.
    complete: bool,
    /// Nothing was produced before it.
    begins: bool,
}

/// A sequence on a worker.
struct Running {
    placed: Placed,
    leaving: Follower<Leaving>,
    /// When it last said something new, or could not be expected to.
    heard: Instant,
    /// It said something new: until then it computes all that came before, here as on the first worker.
    begun: bool,
    /// What it said was read, and it was not asked for more since: a slow reader is not a silent worker.
    rests: bool,
    /// A second worker, asked because the first token takes long.
    hedge: Option<Hedge>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// New tokens.
    Tokens {
        /// Which.
        ids: Vec<u32>,
        /// For each of them, if that was asked for; else empty.
        logprobs: Vec<Logprobs>,
    },
    /// The end.
    Finished(FinishReason),
}

/// What happened to a sequence that runs.
enum Happened {
    Said(Option<Event>),
    /// The second worker was faster.
    Overtaken(Box<Placed>, Event),
    /// It should have said something by now.
    Silence,
    /// Its worker is on its way out.
    Leaves(Leaving),
    /// What was added is to be copied.
    CopyAgain,
}

impl Answer {
    pub(crate) async fn begin(
        router: Arc<Router>,
        job: &Job,
        allowance: u32,
    ) -> Result<Self, RouteError> {
        let start = Start {
            request: job.request(),
            model: job.digest().clone(),
            prompt: Arc::clone(job.prompt()),
            generated: Vec::new(),
            max_output: job.max_output(),
            allowance,
            sampling: job.sampling().clone(),
            output: job.output().clone(),
            share: job.share(),
            salt: CacheSalt::of(job.share().tenant),
        };
        let (model, session) = (job.model().clone(), job.session());
        let wanted = Wanted {
            start: &start,
            model: &model,
            session,
            lane: Lane::New(start.share.priority),
            avoid: &[],
            preferred: None,
        };
        let placed = router.place(&wanted).await?;
        let usage = Usage { prompt_tokens: job.prompt_tokens(), ..Usage::default() };
        let hedge = Hedge::begin(&router, &wanted, &placed);
        Ok(Self {
            router,
            model,
            session,
            site: placed.site.clone(),
            running: Some(Running::new(placed, hedge)),
            start,
            avoid: Vec::new(),
            attempts: 1,
            handed_over: 0,
            stop: None,
            kept: None,
            used: Used { usage, ..Used::default() },
            before: Default::default(),
            here: Spent { begins: true, ..Spent::default() },
            ahead: None,
            outgrown: false,
        })
    }

    /// What was used so far.
    pub const fn used(&self) -> Used {
        self.used
    }

    /// What each worker did, in turn.
    pub fn work(&self) -> Vec<Work> {
        let mut work = self.before.0.clone();
        if self.running.is_some() {
            work.push(self.work_here());
        }
        work
    }

    /// The worker that runs it now, or ran it last.
    pub fn worker(&self) -> &str {
        self.site.member.name()
    }

    /// Raises the number of tokens paid for, in total.
    pub fn extend(&mut self, allowance: u32) {
        let waited = self.is_unpaid();
        self.start.allowance = self.start.allowance.max(allowance);
        if let Some(running) = &mut self.running {
            running.placed.generation.control().extend(allowance);
            if waited {
                running.heard = Instant::now();
            }
        }
    }

    /// Ends the sequence at its next step; [`Piece::Finished`] follows.
    pub fn stop(&mut self, reason: FinishReason) {
        self.stop = self.stop.or(Some(reason));
        if let Some(running) = &mut self.running {
            running.placed.generation.control().stop(reason);
            running.heard = Instant::now();
        }
    }

    /// The same for an answer that is complete with its first `kept` tokens: those after them are not used, whether they
    /// were delivered or not, and a worker books the time they take as its own overhead.
    pub fn stop_after(&mut self, reason: FinishReason, kept: u32) {
        if self.stop.is_some() {
            return;
        }
        self.kept = Some(kept);
        self.used.usage.completion_tokens = self.tokens_used();
        self.stop = Some(reason);
        if let Some(running) = &mut self.running {
            running.placed.generation.control().stop_after(reason, kept);
            running.heard = Instant::now();
        }
    }

    /// What comes next. After [`Piece::Finished`] or an error there is nothing. Nothing is lost if this is
    /// dropped before it is done.
    pub async fn next(&mut self) -> Result<Piece, RouteError> {
        loop {
            if self.running.is_none() {
                if let Some(reason) = self.is_over() {
                    return Ok(Piece::Finished(reason));
                }
                match self.go_on_elsewhere().await {
                    Ok(()) => self.outgrown = false,
                    Err(_) if self.outgrown => return Ok(Piece::Finished(FinishReason::Length)),
                    Err(error) => return Err(error),
                }
            }
            let happened = self.happens().await;
            if let Some(piece) = self.take_in(happened)? {
                return Ok(piece);
            }
        }
    }

    /// Why there is nothing to go on with, if there is not.
    fn is_over(&self) -> Option<FinishReason> {
        let full = self.start.generated.len() >= self.start.max_output as usize;
        // Only the word that it ended was lost. An output in a format may have been complete with its last
        // token, which another worker can tell.
        let full = full && self.start.output.format == Format::Text;
        // What was said of it stays, even if nobody has a context for more any longer.
        let begun = !self.start.generated.is_empty();
        let full =
            full || (begun && self.widest_context().is_some_and(|most| self.tokens() >= most));
        self.stop.or(full.then_some(FinishReason::Length))
    }

    /// Tokens that it has, prompt and output.
    fn tokens(&self) -> u64 {
        self.start.prompt.len() as u64 + self.start.generated.len() as u64
    }

    fn widest_context(&self) -> Option<u64> {
        self.router.widest_context(&self.start.model).map(u64::from)
    }

    /// Waits for something to happen; changes nothing, so that it can be dropped.
    async fn happens(&mut self) -> Happened {
        let unpaid = self.is_unpaid();
        let again_at = self.ahead.as_ref().and_then(Ahead::again_at);
        if let Some(running) = &mut self.running
            && std::mem::take(&mut running.rests)
        {
            running.heard = Instant::now();
        }
        let limits = self.router.settings().stall;
        let silence_at = self.unheard().map(|unheard| unheard.until(limits));
        let Some(running) = &mut self.running else { return Happened::Said(None) };
        let Running { placed, leaving, hedge, .. } = running;
        tokio::select! {
            biased;
            event = placed.generation.next() => Happened::Said(event),
            (placed, event) = Hedge::won(hedge) => Happened::Overtaken(placed, event),
            leaving = leaving.changed() => Happened::Leaves(leaving),
            () = at(again_at) => Happened::CopyAgain,
            // Without a lease a sequence waits, and says nothing.
            () = at(silence_at), if !unpaid => Happened::Silence,
        }
    }

    /// What is known of the sequence that runs, as long as nothing is heard of it.
    fn unheard(&self) -> Option<Unheard<'_>> {
        let Running { heard, begun, .. } = self.running.as_ref()?;
        let (member, model) = (&self.site.member, &self.start.model);
        Some(Unheard { member, model, tokens: self.tokens(), heard: *heard, begun: *begun })
    }

    /// Nothing was heard of it until it should have been, by what was known then.
    fn take_silence(&mut self) -> Result<(), RouteError> {
        let (now, limits) = (Instant::now(), self.router.settings().stall);
        let Some(unheard) = self.unheard() else { return Ok(()) };
        if unheard.until(limits) > now {
            return Ok(());
        }
        if unheard.is_passed_over(now, limits) {
            let crowded = WorkerError::Full { retry_in: limits.least };
            return self.leave(Cause::PassedOver, crowded);
        }
        let silent = WorkerError::Unreachable("it said nothing for too long".to_owned());
        self.leave(Cause::Stalled, silent)
    }

    fn take_in(&mut self, happened: Happened) -> Result<Option<Piece>, RouteError> {
        let event = match happened {
            Happened::Said(event) => event,
            Happened::Overtaken(placed, event) => {
                self.change_horses(*placed);
                Some(event)
            }
            Happened::Silence => {
                return self.take_silence().map(|()| None);
            }
            Happened::Leaves(leaving) => {
                self.look_ahead(leaving);
                return Ok(None);
            }
            Happened::CopyAgain => {
                if let Some(ahead) = &mut self.ahead {
                    ahead.again(&self.router, &self.start, &self.site.member);
                }
                return Ok(None);
            }
        };
        match event {
            Some(Event::Tokens { first, ids, gpu, logprobs, cached }) => {
                let vocabulary = self.site.vocabulary;
                match evidence::fresh(&self.start, vocabulary, first, (ids, logprobs)) {
                    Ok((ids, logprobs)) => {
                        self.book(gpu);
                        self.hear_cached(cached);
                        Ok(self.deliver(ids, logprobs))
                    }
                    Err(lie) => self.catch_out(&lie).map(|()| None),
                }
            }
            Some(Event::Finished { reason, usage }) => {
                let expected = (self.site.max_output, self.stop);
                if let Err(lie) = evidence::ending(&self.start, expected, reason, &usage) {
                    self.hear_last_word(&usage);
                    return self.catch_out(&lie).map(|()| None);
                }
                self.hear_last_word(&usage);
                if let Some(running) = &mut self.running {
                    running.placed.in_flight.succeed();
                }
                if reason == FinishReason::Length && self.may_grow() {
                    self.outgrow();
                    return Ok(None);
                }
                Ok(Some(Piece::Finished(reason)))
            }
            Some(Event::HandedOver { usage }) => {
                self.hear_last_word(&usage);
                self.leave(Cause::HandedOver, WorkerError::Draining).map(|()| None)
            }
            Some(Event::Failed { error, usage }) => {
                if let Some(usage) = usage {
                    self.hear_last_word(&usage);
                }
                self.leave(cause_of(&error), error).map(|()| None)
            }
            None => {
                let early = WorkerError::Unreachable("the stream ended early".to_owned());
                self.leave(Cause::Lost, early).map(|()| None)
            }
        }
    }

    /// It waits for more to be paid.
    fn is_unpaid(&self) -> bool {
        self.stop.is_none() && self.start.generated.len() >= self.start.allowance as usize
    }

    fn deliver(&mut self, ids: Vec<u32>, logprobs: Vec<Logprobs>) -> Option<Piece> {
        if ids.is_empty() {
            // Nothing new is no sign of life.
            return None;
        }
        if let Some(running) = &mut self.running {
            (running.begun, running.rests) = (true, true);
            running.hedge = None;
        }
        self.start.generated.extend_from_slice(&ids);
        self.used.usage.completion_tokens = self.tokens_used();
        Some(Piece::Tokens { ids, logprobs })
    }

    fn tokens_used(&self) -> u32 {
        (self.start.generated.len() as u32).min(self.kept.unwrap_or(u32::MAX))
    }

    /// Books the time that new tokens took: no more than there was.
    fn book(&mut self, gpu: GpuTime) {
        let most = evidence::most_time(self.site.since.elapsed());
        let gpu = gpu.min(GpuTime::from_nanos(most.nanos().saturating_sub(self.here.gpu.nanos())));
        // The first token comes out of the prompt's own step; a reader is woken for it at once.
        let begins = self.start.generated.is_empty();
        let time = if begins { &mut self.here.times.prefill } else { &mut self.here.times.decode };
        *time += gpu;
        self.here.gpu += gpu;
        self.sum_up();
    }

    /// Takes what the worker says of itself in the place of what its tokens said.
    fn hear_last_word(&mut self, usage: &Usage) {
        let (usage, clamped) = evidence::bounded(usage, self.site.since.elapsed());
        self.router.counters.clamped(self.worker(), clamped);
        if clamped > GpuTime::ZERO
            && let Some(running) = &mut self.running
        {
            running.placed.in_flight.fail(&WorkerError::Failed(Lie::Usage.to_string()));
        }
        self.here.gpu = usage.gpu;
        self.here.times = usage.times;
        self.here.complete = true;
        self.hear_cached(usage.cached_tokens);
        self.sum_up();
    }

    /// How much of the prompt came from a cache, where it was computed for the tenant. A later worker speaks of what it
    /// computed again.
    fn hear_cached(&mut self, cached: u32) {
        if self.here.begins {
            self.used.usage.cached_tokens = cached.min(self.used.usage.prompt_tokens);
        }
    }

    fn sum_up(&mut self) {
        // Rounded up once for each worker.
        self.here.cost = self.here.gpu.cost(self.site.price_per_hour);
        let (_, before) = &self.before;
        self.used.usage.gpu = before.gpu + self.here.gpu;
        self.used.usage.times = before.times + self.here.times;
        self.used.cost = before.cost + self.here.cost;
    }

    fn work_here(&self) -> Work {
        Work {
            worker: self.worker().to_owned(),
            incarnation: self.site.incarnation.clone(),
            gpu: self.here.gpu,
            recompute: self.here.times.recompute,
            price_per_hour: self.site.price_per_hour,
            complete: self.here.complete,
        }
    }

    /// The second worker goes on in the place of the first, whose time is nobody's but ours.
    fn change_horses(&mut self, placed: Placed) {
        tracing::debug!(request = %self.start.request, worker = %self.worker(), "overtaken");
        let control = placed.generation.control();
        control.extend(self.start.allowance);
        if let Some(reason) = self.stop {
            control.stop(reason);
        }
        self.site = placed.site.clone();
        self.here = Spent { begins: true, ..Spent::default() };
        self.ahead = None;
        if let Some(slower) = self.running.replace(Running::new(placed, None)) {
            slower.placed.generation.waive();
        }
    }

    fn look_ahead(&mut self, leaving: Leaving) {
        if leaving.stage == Stage::Serving {
            self.ahead = None;
            return;
        }
        let avoid: Vec<u32> = self.avoid.iter().copied().chain([self.site.member.slot()]).collect();
        let wanted = Wanted {
            start: &self.start,
            model: &self.model,
            session: self.session,
            lane: Lane::Continuation,
            avoid: &avoid,
            preferred: None,
        };
        let chosen = self.ahead.take().map(|ahead| Arc::clone(ahead.to()));
        let Some(to) = chosen.or_else(|| self.router.foresee(&wanted)) else { return };
        let between = (&self.site.member, &to);
        self.ahead = Some(Ahead::begin(&self.router, &self.start, between, leaving.at));
    }

    /// Whether it ended only because its worker's context was full, and another one has more.
    fn may_grow(&self) -> bool {
        let wished_for = self.start.generated.len() < self.start.max_output as usize;
        let wider = || self.widest_context().is_some_and(|most| self.tokens() < most);
        self.stop.is_none() && wished_for && wider()
    }

    /// It is to go on where there is more context: nobody failed.
    fn outgrow(&mut self) {
        tracing::debug!(request = %self.start.request, worker = %self.worker(), "context is full");
        self.set_down();
        self.running = None;
        self.outgrown = true;
        self.router.counters.went_on(Cause::Outgrown);
    }

    fn catch_out(&mut self, lie: &Lie) -> Result<(), RouteError> {
        self.leave(Cause::Garbage, WorkerError::Failed(lie.to_string()))
    }

    /// The worker does not go on with it. An error if nobody else should, either.
    fn leave(&mut self, cause: Cause, failure: WorkerError) -> Result<(), RouteError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        // A format of which nothing was asked is no asker's mistake.
        let text = self.start.output.format == Format::Text;
        let is_askers = failure.is_askers() && !(text && matches!(failure, WorkerError::Format(_)));
        if !is_askers {
            tracing::warn!(
                request = %self.start.request,
                worker = %running.placed.site.member.name(),
                tokens = self.start.generated.len(),
                cause = cause.name(),
                error = %failure,
                "sequence leaves its worker"
            );
        }
        let leaves = self.site.member.leaves();
        self.set_down();
        // A worker that hands everything over and stays is no better than one that fails.
        let honest = cause == Cause::HandedOver && leaves;
        if cause == Cause::HandedOver {
            self.handed_over += 1;
        }
        if !honest || self.handed_over > MAX_HAND_OVERS {
            self.attempts += 1;
            // A worker that leaves breaks what it has, and one that is crowded passes some over; neither is sick. And no
            // worker is to blame for what was asked of it.
            if !leaves && cause != Cause::PassedOver && !is_askers {
                running.placed.in_flight.fail(&failure);
            }
        }
        self.avoid.push(self.site.member.slot());
        if cause == Cause::Lost {
            self.site.member.lose(&failure);
        }
        drop(running);
        if self.is_over().is_some() {
            return Ok(());
        }
        if is_askers || self.attempts > self.router.settings().max_attempts {
            return Err(RouteError::Worker(failure));
        }
        self.router.counters.went_on(cause);
        Ok(())
    }

    /// Books what this worker did with what others did before.
    fn set_down(&mut self) {
        let work = self.work_here();
        let Spent { gpu, times, cost, .. } = std::mem::take(&mut self.here);
        let (works, before) = &mut self.before;
        works.push(work);
        before.gpu += gpu;
        before.times = before.times + times;
        before.cost += cost;
    }

    async fn go_on_elsewhere(&mut self) -> Result<(), RouteError> {
        let wanted = Wanted {
            start: &self.start,
            model: &self.model,
            session: self.session,
            lane: Lane::Continuation,
            avoid: &self.avoid,
            preferred: self.ahead.as_ref().map(|ahead| ahead.to().slot()),
        };
        let placed = self.router.place(&wanted).await?;
        self.ahead = None;
        self.site = placed.site.clone();
        self.here.begins = self.start.generated.is_empty();
        self.running = Some(Running::new(placed, None));
        Ok(())
    }
}

impl Running {
    fn new(placed: Placed, hedge: Option<Hedge>) -> Self {
        let mut leaving = placed.site.member.leaving();
        // One that began to leave meanwhile is news.
        if leaving.value().stage != Stage::Serving {
            leaving.mark_changed();
        }
        Self { placed, leaving, heard: Instant::now(), begun: false, rests: true, hedge }
    }
}

/// Resolves at this moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn cause_of(error: &WorkerError) -> Cause {
    match error {
        WorkerError::Draining => Cause::HandedOver,
        WorkerError::Unreachable(_) => Cause::Lost,
        WorkerError::Full { .. }
        | WorkerError::ModelNotFound(_)
        | WorkerError::Invalid(_)
        | WorkerError::TooLong(_)
        | WorkerError::Format(_)
        | WorkerError::Failed(_)
        | WorkerError::NotLoaded { .. } => Cause::Failed,
    }
}

/// A fleet that is renewed worker by worker hands a long answer over that often, and not oftener.
const MAX_HAND_OVERS: u32 = 16;
