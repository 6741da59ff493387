//! One stream of tokens, whatever happens to the workers behind it.
//!
//! An [`Answer`] keeps the log of tokens it has delivered. When its worker fails in passing, it
//! asks the router for another one and goes on from the log; a reader sees no gap and no repeat.
//! Time that another worker spends on what was already computed once is not the tenant's: workers
//! tell it beside what is billable, as `usage.times.recompute`. A worker's last word on what it used is
//! exact; of one that vanished without it, what its tokens said is all that is known.

use std::sync::Arc;

use domain::{
    CacheSalt, FinishReason, GpuTime, Job, Logprobs, ModelName, NanoUsd, Times, Usage, Work,
};
use proto::{Control, Event, Start, WorkerError};

use crate::error::RouteError;
use crate::router::{Placed, Router};

/// The stream of tokens that answers a job. Dropping it cancels the sequence.
pub struct Answer {
    router: Arc<Router>,
    model: ModelName,
    start: Start,
    placed: Placed,
    attempts: u32,
    used: Used,
    /// What workers before this one did, and what they spent on it.
    before: (Vec<Work>, Spent),
    /// What this worker has spent so far.
    here: Spent,
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
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// New tokens.
    Tokens {
        /// Their ids.
        ids: Vec<u32>,
        /// For each of them, if that was asked for; else empty.
        logprobs: Vec<Logprobs>,
    },
    /// The end.
    Finished(FinishReason),
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
        let placed = router.place(&start, job.model()).await?;
        let usage = Usage { prompt_tokens: job.prompt_tokens(), ..Usage::default() };
        let used = Used { usage, ..Used::default() };
        let model = job.model().clone();
        let (before, here) = Default::default();
        Ok(Self { router, model, start, placed, attempts: 1, used, before, here })
    }

    /// What was used so far.
    pub const fn used(&self) -> Used {
        self.used
    }

    /// What each worker did, in turn.
    pub fn work(&self) -> Vec<Work> {
        let mut work = self.before.0.clone();
        work.push(self.work_here());
        work
    }

    /// The worker that runs it now.
    pub fn worker(&self) -> &str {
        self.placed.member.name()
    }

    /// Raises the number of tokens paid for, in total.
    pub fn extend(&mut self, allowance: u32) {
        self.start.allowance = self.start.allowance.max(allowance);
        self.control().extend(allowance);
    }

    /// Ends the sequence at its next step; [`Piece::Finished`] follows.
    pub fn stop(&self, reason: FinishReason) {
        self.control().stop(reason);
    }

    /// What comes next. After [`Piece::Finished`] or an error there is nothing.
    pub async fn next(&mut self) -> Result<Piece, RouteError> {
        loop {
            let failure = match self.placed.generation.next().await {
                Some(Event::Tokens { first, ids, gpu, mut logprobs }) => {
                    let told = ids.len();
                    match self.fresh(first, ids) {
                        Ok(ids) => {
                            self.book(gpu);
                            // Those of tokens that were delivered before.
                            logprobs.drain(..(told - ids.len()).min(logprobs.len()));
                            return Ok(self.deliver(ids, logprobs));
                        }
                        Err(failure) => failure,
                    }
                }
                Some(Event::Finished { reason, usage }) => return Ok(self.finish(reason, &usage)),
                Some(Event::HandedOver { usage }) => {
                    self.hear_last_word(&usage);
                    WorkerError::Draining
                }
                Some(Event::Failed { error, usage }) => {
                    if let Some(usage) = usage {
                        self.hear_last_word(&usage);
                    }
                    error
                }
                None => WorkerError::Unreachable("the stream ended early".to_owned()),
            };
            if self.start.generated.len() >= self.start.max_output as usize {
                // Only the word that it ended was lost.
                return Ok(Piece::Finished(FinishReason::Length));
            }
            self.go_on_elsewhere(failure).await?;
        }
    }

    fn control(&self) -> Control {
        self.placed.generation.control()
    }

    /// Those of `ids` that were not delivered before. A gap is a lying worker.
    fn fresh(&self, first: u32, mut ids: Vec<u32>) -> Result<Vec<u32>, WorkerError> {
        let known = self.used.usage.completion_tokens;
        let Some(repeated) = known.checked_sub(first) else {
            let reason = format!("it skipped from token {known} to token {first}");
            return Err(WorkerError::Unreachable(reason));
        };
        ids.drain(..ids.len().min(repeated as usize));
        let room = self.start.max_output.saturating_sub(known) as usize;
        if ids.len() > room {
            return Err(WorkerError::Unreachable("it produced more than asked for".to_owned()));
        }
        Ok(ids)
    }

    fn deliver(&mut self, ids: Vec<u32>, logprobs: Vec<Logprobs>) -> Piece {
        self.start.generated.extend_from_slice(&ids);
        self.used.usage.completion_tokens = self.start.generated.len() as u32;
        Piece::Tokens { ids, logprobs }
    }

    /// Books the time that new tokens took.
    fn book(&mut self, gpu: GpuTime) {
        // The first token comes out of the prompt's own step; a reader is woken for it at once.
        let begins = self.start.generated.is_empty();
        let time = if begins { &mut self.here.times.prefill } else { &mut self.here.times.decode };
        *time += gpu;
        self.here.gpu += gpu;
        self.sum_up();
    }

    /// Takes what the worker says of itself in the place of what its tokens said.
    fn hear_last_word(&mut self, usage: &Usage) {
        self.here.gpu = usage.gpu;
        self.here.times = usage.times;
        self.here.complete = true;
        if self.attempts == 1 {
            // A later worker speaks of what it computed again, which is not the tenant's.
            self.used.usage.cached_tokens = usage.cached_tokens.min(usage.prompt_tokens);
        }
        self.sum_up();
    }

    fn sum_up(&mut self) {
        // Rounded up once for each worker.
        self.here.cost = self.here.gpu.cost(self.placed.price_per_hour);
        let (_, before) = &self.before;
        self.used.usage.gpu = before.gpu + self.here.gpu;
        self.used.usage.times = before.times + self.here.times;
        self.used.cost = before.cost + self.here.cost;
    }

    fn work_here(&self) -> Work {
        Work {
            worker: self.worker().to_owned(),
            incarnation: self.placed.incarnation.clone(),
            gpu: self.here.gpu,
            recompute: self.here.times.recompute,
            price_per_hour: self.placed.price_per_hour,
            complete: self.here.complete,
        }
    }

    fn finish(&mut self, reason: FinishReason, usage: &Usage) -> Piece {
        self.hear_last_word(usage);
        Piece::Finished(reason)
    }

    async fn go_on_elsewhere(&mut self, failure: WorkerError) -> Result<(), RouteError> {
        if !failure.is_passing() || self.attempts >= self.router.max_attempts() {
            return Err(RouteError::Worker(failure));
        }
        tracing::warn!(
            request = %self.start.request,
            worker = %self.worker(),
            tokens = self.start.generated.len(),
            error = %failure,
            "sequence goes on elsewhere"
        );
        if matches!(failure, WorkerError::Unreachable(_)) {
            self.placed.member.lose(&failure);
        }
        self.attempts += 1;
        let work = self.work_here();
        let Spent { gpu, times, cost, .. } = std::mem::take(&mut self.here);
        let (works, before) = &mut self.before;
        works.push(work);
        before.gpu += gpu;
        before.times = before.times + times;
        before.cost += cost;
        self.placed = self.router.place(&self.start, &self.model).await?;
        Ok(())
    }
}
