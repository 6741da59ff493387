//! From an admitted job to text on its way to the client.
//!
//! The answer comes from the cache or from a worker. While a worker runs, its lease is extended in
//! time; when nothing more can be held, the worker is told to stop at that token, and when nobody can say
//! whether more can be held, it waits there for a while. If the client
//! leaves, the worker is told to stop too, and its last word, what was really used, is waited for. A job of
//! several sequences has one lease, which they share; what fails one of them fails the request.

mod output;
mod sequences;
mod sharing;

use std::time::Duration;

use admission::{Extension, Outcome, Permit};
use cache::{CacheKey, CachedAnswer, Leader, Lookup};
use domain::{ErrorKind, FinishReason, Job, Scope, Usage};
use routing::{Piece, RouteError};
use tokio::time::Instant;

use crate::call::Delivery;
use crate::catalog::Model;
use crate::endpoints::{About, Codec, Delta, Told};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::reply::Reply;
use crate::tools::Tools;
use output::Output;
use sequences::Sequences;
use sharing::Sharing;
use std::sync::Arc;

/// One job and everything its answer is made with.
pub(crate) struct Exchange {
    pub(crate) codec: &'static dyn Codec,
    pub(crate) about: About,
    pub(crate) scope: Scope,
    pub(crate) model: Arc<Model>,
    pub(crate) job: Job,
    /// What may be called.
    pub(crate) tools: Option<Arc<Tools>>,
    /// The field that the prompt came from.
    pub(crate) prompt_field: &'static str,
    /// The field that asked for a form of the output.
    pub(crate) format_field: Option<String>,
    pub(crate) delivery: Delivery,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
}

/// An answer that was relayed to its end; only its last words are still to be said.
pub(crate) struct Relayed {
    /// All of it, by index.
    pub(crate) choices: Vec<Told>,
    /// The one whose end is still to be told.
    last: usize,
    pub(crate) outcome: Outcome,
}

impl Relayed {
    fn of(choices: Vec<Told>, last: usize) -> Self {
        let mut relayed = Self { choices, last, outcome: Outcome::CacheHit };
        relayed.outcome = Outcome::Finished(relayed.finish());
        relayed
    }

    /// The choice whose end is still to be told.
    pub(crate) fn last(&self) -> (usize, &Told) {
        (self.last, &self.choices[self.last])
    }

    /// Tokens that the model thought with, in all choices.
    pub(crate) fn reasoning_tokens(&self) -> u32 {
        self.choices.iter().map(|choice| choice.reasoning_tokens).sum()
    }

    /// Why the answer ended: the reason of the choice that could least go on as it liked.
    pub(crate) fn finish(&self) -> FinishReason {
        let ended = |reason| self.choices.iter().any(|choice| choice.finish == reason);
        [FinishReason::Budget, FinishReason::Cancelled, FinishReason::Length]
            .into_iter()
            .find(|reason| ended(*reason))
            .unwrap_or(FinishReason::Stop)
    }
}

/// Where an answer comes from.
enum Source {
    Cache(CachedAnswer),
    Workers {
        sequences: Box<Sequences>,
        /// Others wait for this answer, or will want it.
        leader: Option<Leader>,
    },
}

impl Gateway {
    /// Answers `exchange` up to its last words. What it used is recorded in `permit` as it goes.
    pub(crate) async fn relay(
        &self,
        reply: &mut Reply,
        exchange: &Exchange,
        permit: &Permit,
    ) -> Result<Relayed, Failure> {
        let source = tokio::select! {
            source = self.source(exchange, permit) => source?,
            gone = reply.gone() => return Err(gone),
            () = tokio::time::sleep_until(exchange.deadline) => return Err(Failure::too_late()),
        };
        match source {
            Source::Cache(answer) => relay_cached(reply, exchange, permit, answer).await,
            Source::Workers { sequences, leader } => {
                self.relay_live(reply, exchange, permit, (sequences, leader)).await
            }
        }
    }

    /// The cache, else a worker.
    async fn source(&self, exchange: &Exchange, permit: &Permit) -> Result<Source, Failure> {
        let mut leader = None;
        if let Some(cache) = self.cache()
            && exchange.may_be_kept()
            && let Some(key) = CacheKey::of(&exchange.scope, &exchange.job)
        {
            match cache.look_up(key).await {
                Lookup::Hit { answer, .. } => {
                    self.metrics().cache("hit");
                    return Ok(Source::Cache(answer));
                }
                Lookup::Miss(first) => leader = Some(first),
            }
            self.metrics().cache("miss");
        }
        let Exchange { job, .. } = exchange;
        let mut sharing = Sharing::new(job.choices() as usize, job.max_output());
        sharing.divide(permit.allowance());
        let mut answers = Vec::new();
        for at in 0..job.choices() {
            let allowance = sharing.allowance(at as usize);
            let answer = self.router().dispatch(&job.choice(at), allowance).await;
            answers.push(answer.map_err(|error| exchange.failed(error))?);
        }
        let sequences = Box::new(Sequences::of(answers, sharing));
        Ok(Source::Workers { sequences, leader })
    }

    async fn relay_live(
        &self,
        reply: &mut Reply,
        exchange: &Exchange,
        permit: &Permit,
        (mut sequences, leader): (Box<Sequences>, Option<Leader>),
    ) -> Result<Relayed, Failure> {
        if leader.is_some() {
            reply.header("x-tollgate-cache", "miss");
        }
        let relayed = self.stream(reply, exchange, permit, &mut sequences).await;
        if let Err(failure) = &relayed {
            let known = spent(&sequences);
            sequences.give_up().await;
            if failure.kind() == ErrorKind::ClientGone {
                // What it had not told of yet when the client left, its last step and all.
                self.metrics().wasted(spent(&sequences).saturating_sub(known));
            }
        }
        let used = sequences.used();
        permit.record(used.usage, used.cost);
        permit.record_work(sequences.work());
        if nothing_delivered(exchange, &relayed) {
            permit.waive();
        }
        self.metrics().redone(used.usage.times.recompute.nanos());
        let (relayed, raw) = relayed?;
        let finish = relayed.finish();
        // What is kept is text, which does not say that a call in it was cut.
        let leader = leader.filter(|_| !relayed.last().1.call_is_cut);
        if let (Some(leader), FinishReason::Stop | FinishReason::Length) = (leader, finish) {
            let Usage { prompt_tokens, completion_tokens, .. } = used.usage;
            let kept = CachedAnswer {
                text: raw,
                finish,
                prompt_tokens,
                completion_tokens,
                reasoning_tokens: relayed.reasoning_tokens(),
            };
            leader.fill(kept).await;
        }
        Ok(relayed)
    }

    /// Relays every sequence to its end; tells the first one's text too, as the cache keeps it.
    async fn stream(
        &self,
        reply: &mut Reply,
        exchange: &Exchange,
        permit: &Permit,
        sequences: &mut Sequences,
    ) -> Result<(Relayed, String), Failure> {
        let number = exchange.job.choices() as usize;
        let mut outputs: Vec<Output> = (0..number).map(|_| Output::new(exchange)).collect();
        if exchange.delivery != Delivery::Whole {
            begin_events(reply, exchange).await?;
        }
        let (mut starving, mut silent, mut running) = (None, true, number);
        loop {
            let Some((at, piece)) = next(reply, exchange, sequences, starving).await? else {
                starving = extend_lease(permit, sequences, starving).await?;
                continue;
            };
            permit.record(sequences.used().usage, sequences.used().cost);
            match piece.map_err(|error| exchange.failed(error))? {
                Piece::Tokens { ids, logprobs } => {
                    if std::mem::take(&mut silent) {
                        self.metrics().first_token(exchange.began.elapsed());
                    }
                    let delta = outputs[at].push(&ids, &logprobs);
                    tell(reply, exchange, at, delta).await?;
                    if let Some(kept) = outputs[at].is_complete_with() {
                        // Workers tell tokens in lots; what comes after the end is nobody's but ours.
                        sequences.stop_after(at, kept);
                    }
                }
                Piece::Finished(finish) => {
                    let delta = outputs[at].finish(finish);
                    tell(reply, exchange, at, delta).await?;
                    running -= 1;
                    if running == 0 {
                        return Ok(all_told(outputs, at));
                    }
                    if exchange.delivery != Delivery::Whole {
                        let closing =
                            exchange.codec.closing(&exchange.about, at, outputs[at].told());
                        reply.event(&exchange.decorate(closing)).await?;
                    }
                    // What it did not use is for the others.
                    sequences.share(permit.allowance());
                }
            }
            starving = extend_lease(permit, sequences, starving).await?;
        }
    }
}

/// GPU time that workers are known to have spent on an answer, in nanoseconds.
fn spent(sequences: &Sequences) -> u64 {
    let usage = sequences.used().usage;
    (usage.gpu + usage.times.recompute).nanos()
}

/// All choices; `last` is the one that ended last.
fn all_told(outputs: Vec<Output>, last: usize) -> (Relayed, String) {
    let (mut choices, mut first) = (Vec::new(), None);
    for output in outputs {
        let (told, raw) = output.into_told();
        choices.push(told);
        first.get_or_insert(raw);
    }
    (Relayed::of(choices, last), first.unwrap_or_default())
}

/// Sends what a choice has more of, if it has.
async fn tell(
    reply: &mut Reply,
    exchange: &Exchange,
    at: usize,
    delta: Delta,
) -> Result<(), Failure> {
    if delta.is_empty() || exchange.delivery == Delivery::Whole {
        return Ok(());
    }
    let chunk = exchange.codec.delta(&exchange.about, at, &delta);
    reply.event(&exchange.decorate(chunk)).await
}

/// Whether there is nothing to pay for: a whole answer that failed on our side delivered nothing.
fn nothing_delivered<T>(exchange: &Exchange, relayed: &Result<T, Failure>) -> bool {
    let ours = matches!(relayed, Err(failure) if failure.kind() != ErrorKind::ClientGone);
    ours && exchange.delivery == Delivery::Whole
}

/// The next piece and whose it is, unless the client leaves or the deadline passes first; `None` if a lease that
/// is `starving` is to be asked for again.
async fn next(
    reply: &mut Reply,
    exchange: &Exchange,
    sequences: &mut Sequences,
    starving: Option<Instant>,
) -> Result<Option<(usize, Result<Piece, RouteError>)>, Failure> {
    let ask_again = Instant::now() + ASK_AGAIN;
    let piece = sequences.next();
    tokio::pin!(piece);
    loop {
        tokio::select! {
            biased;
            piece = &mut piece => {
                return piece.map(Some).ok_or_else(|| Failure::internal("no sequence is left"));
            }
            gone = reply.gone() => return Err(gone),
            () = tokio::time::sleep_until(exchange.deadline) => return Err(Failure::too_late()),
            () = tokio::time::sleep_until(ask_again), if starving.is_some() => return Ok(None),
            () = tokio::time::sleep(PING_INTERVAL) => {
                if exchange.delivery != Delivery::Whole {
                    reply.ping().await?;
                }
            }
        }
    }
}

/// Pays for more tokens before the paid ones run out, or stops the worker at the last paid one. Where nobody
/// can say whether there is more, the worker waits there: since when, if it does.
async fn extend_lease(
    permit: &Permit,
    sequences: &mut Sequences,
    starving: Option<Instant>,
) -> Result<Option<Instant>, Failure> {
    if !permit.runs_short() || !sequences.want_more() {
        return Ok(None);
    }
    let extension = permit.extend().await;
    if let Extension::Extended(allowance) = extension {
        sequences.share(allowance);
        return Ok(None);
    }
    if !permit.is_used_up() {
        return Ok(None);
    }
    if extension == Extension::Refused {
        sequences.stop_open(FinishReason::Budget);
        return Ok(None);
    }
    let since = starving.unwrap_or_else(Instant::now);
    if since.elapsed() >= LEASE_PATIENCE { Err(Failure::unpayable()) } else { Ok(Some(since)) }
}

async fn relay_cached(
    reply: &mut Reply,
    exchange: &Exchange,
    permit: &Permit,
    answer: CachedAnswer,
) -> Result<Relayed, Failure> {
    let CachedAnswer { prompt_tokens, completion_tokens, .. } = answer;
    let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
    reply.header("x-tollgate-cache", "hit");
    let mut output = Output::new(exchange);
    let delta = output.kept(&answer);
    if exchange.delivery != Delivery::Whole {
        begin_events(reply, exchange).await?;
    }
    tell(reply, exchange, 0, delta).await?;
    // Not before it is told: a client that left meanwhile would pay for tokens that cost nothing.
    permit.record(usage, domain::NanoUsd::ZERO);
    let (relayed, _) = all_told(vec![output], 0);
    Ok(Relayed { outcome: Outcome::CacheHit, ..relayed })
}

async fn begin_events(reply: &mut Reply, exchange: &Exchange) -> Result<(), Failure> {
    reply.begin_events().await?;
    for at in 0..exchange.job.choices() as usize {
        if let Some(opening) = exchange.codec.opening(&exchange.about, at) {
            reply.event(&exchange.decorate(opening)).await?;
        }
    }
    Ok(())
}

impl Exchange {
    /// Whether the text of the answer tells all of it, and is what the same job gives without tools: special
    /// tokens that calls begin with are shown for requests with tools only, and one that wants a
    /// single call ends early.
    fn may_be_kept(&self) -> bool {
        let plain = self.model.text.voice().tokens.is_empty();
        self.tools.as_ref().is_none_or(|tools| tools.parallel && plain)
    }

    /// What a client is told of a failed answer. A format that no worker can keep an output in is its own mistake,
    /// and the field is named that it wrote it in.
    fn failed(&self, error: RouteError) -> Failure {
        if matches!(error, RouteError::Worker(proto::WorkerError::TooLong(_))) {
            return Failure::from(error).blaming(self.prompt_field);
        }
        let field = match (&self.format_field, &self.tools) {
            (Some(field), _) => field.as_str(),
            (None, Some(_)) => "tools",
            (None, None) => return error.into(),
        };
        match error {
            RouteError::Worker(proto::WorkerError::Format(reason)) => {
                Failure::invalid(field, format!("`{field}`: {reason}"))
            }
            error => error.into(),
        }
    }

    /// A stream that was asked for usage says in every chunk but the last that it is yet to come.
    pub(crate) fn decorate(&self, mut chunk: serde_json::Value) -> serde_json::Value {
        if self.delivery == (Delivery::Stream { include_usage: true }) {
            chunk["usage"] = serde_json::Value::Null;
        }
        chunk
    }
}

/// Proxies close connections that are quiet for a minute or less.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How often a lease is asked for again whose quota nobody can tell.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long a stream waits for that.
const LEASE_PATIENCE: Duration = Duration::from_secs(15);
