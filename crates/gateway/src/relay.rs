//! From an admitted job to text on its way to the client.
//!
//! The answer comes from the cache or from a worker. While a worker runs, its lease is extended in
//! time; when nothing more can be held, the worker is told to stop at that token, and when nobody can say
//! whether more can be held, it waits there for a while. If the client
//! leaves, the worker is told to stop too, and its last word, what was really used, is waited for.

use std::time::Duration;

use admission::{Extension, Outcome, Permit};
use cache::{CacheKey, CachedAnswer, Leader, Lookup};
use domain::{ErrorKind, FinishReason, Job, Scope, Usage};
use routing::{Answer, Piece};
use tokio::time::Instant;

use crate::call::Delivery;
use crate::catalog::Model;
use crate::endpoints::{About, Codec};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::reply::Reply;
use crate::text::{Detokenizer, Scanned, StopStrings};
use std::sync::Arc;

/// One job and everything its answer is made with.
pub(crate) struct Exchange {
    pub(crate) codec: &'static dyn Codec,
    pub(crate) about: About,
    pub(crate) scope: Scope,
    pub(crate) model: Arc<Model>,
    pub(crate) job: Job,
    pub(crate) delivery: Delivery,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
}

/// An answer that was relayed to its end; only its last words are still to be said.
pub(crate) struct Relayed {
    /// All of the text.
    pub(crate) text: String,
    pub(crate) finish: FinishReason,
    pub(crate) outcome: Outcome,
}

/// Where an answer comes from.
enum Source {
    Cache(CachedAnswer),
    Worker {
        answer: Box<Answer>,
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
            Source::Worker { answer, leader } => {
                self.relay_live(reply, exchange, permit, (answer, leader)).await
            }
        }
    }

    /// The cache, else a worker.
    async fn source(&self, exchange: &Exchange, permit: &Permit) -> Result<Source, Failure> {
        let mut leader = None;
        if let Some(cache) = self.cache()
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
        let answer = self.router().dispatch(&exchange.job, permit.allowance()).await?;
        Ok(Source::Worker { answer: Box::new(answer), leader })
    }

    async fn relay_live(
        &self,
        reply: &mut Reply,
        exchange: &Exchange,
        permit: &Permit,
        (mut answer, leader): (Box<Answer>, Option<Leader>),
    ) -> Result<Relayed, Failure> {
        if leader.is_some() {
            reply.header("x-tollgate-cache", "miss");
        }
        let relayed = self.stream(reply, exchange, permit, &mut answer).await;
        if let Err(failure) = &relayed {
            let known = spent(&answer);
            give_up(&mut answer).await;
            if failure.kind() == ErrorKind::ClientGone {
                // What it had not told of yet when the client left, its last step and all.
                self.metrics().wasted(spent(&answer).saturating_sub(known));
            }
        }
        let used = answer.used();
        permit.record(used.usage, used.cost);
        permit.record_work(answer.work());
        if nothing_delivered(exchange, &relayed) {
            permit.waive();
        }
        self.metrics().redone(used.usage.times.recompute.nanos());
        let relayed = relayed?;
        if let (Some(leader), FinishReason::Stop | FinishReason::Length) = (leader, relayed.finish)
        {
            leader.fill(cacheable(&relayed, used.usage)).await;
        }
        Ok(relayed)
    }

    async fn stream(
        &self,
        reply: &mut Reply,
        exchange: &Exchange,
        permit: &Permit,
        answer: &mut Answer,
    ) -> Result<Relayed, Failure> {
        let mut output = Output::begin(reply, exchange).await?;
        let mut starving = None;
        loop {
            let Some(piece) = next(reply, exchange, answer, starving).await? else {
                starving = extend_lease(permit, answer, starving).await?;
                continue;
            };
            permit.record(answer.used().usage, answer.used().cost);
            match piece {
                Piece::Tokens { ids, .. } => {
                    if output.is_empty() {
                        self.metrics().first_token(exchange.began.elapsed());
                    }
                    if output.push(reply, &ids).await? {
                        answer.stop(FinishReason::Stop);
                    } else {
                        starving = extend_lease(permit, answer, starving).await?;
                    }
                }
                Piece::Finished(finish) => return output.end(reply, finish).await,
            }
        }
    }
}

/// GPU time that workers are known to have spent on an answer, in nanoseconds.
fn spent(answer: &Answer) -> u64 {
    let usage = answer.used().usage;
    (usage.gpu + usage.times.recompute).nanos()
}

/// Whether there is nothing to pay for: a whole answer that failed on our side delivered nothing.
fn nothing_delivered(exchange: &Exchange, relayed: &Result<Relayed, Failure>) -> bool {
    let ours = matches!(relayed, Err(failure) if failure.kind() != ErrorKind::ClientGone);
    ours && exchange.delivery == Delivery::Whole
}

/// The next piece, unless the client leaves or the deadline passes first; `None` if a lease that is
/// `starving` is to be asked for again.
async fn next(
    reply: &mut Reply,
    exchange: &Exchange,
    answer: &mut Answer,
    starving: Option<Instant>,
) -> Result<Option<Piece>, Failure> {
    let ask_again = Instant::now() + ASK_AGAIN;
    let piece = answer.next();
    tokio::pin!(piece);
    loop {
        tokio::select! {
            biased;
            piece = &mut piece => return Ok(Some(piece?)),
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
    answer: &mut Answer,
    starving: Option<Instant>,
) -> Result<Option<Instant>, Failure> {
    if !permit.runs_short() {
        return Ok(None);
    }
    let extension = permit.extend().await;
    if let Extension::Extended(allowance) = extension {
        answer.extend(allowance);
        return Ok(None);
    }
    if !permit.is_used_up() {
        return Ok(None);
    }
    if extension == Extension::Refused {
        answer.stop(FinishReason::Budget);
        return Ok(None);
    }
    let since = starving.unwrap_or_else(Instant::now);
    if since.elapsed() >= LEASE_PATIENCE { Err(Failure::unpayable()) } else { Ok(Some(since)) }
}

/// Ends a sequence nobody reads, and waits for the worker's last word on what it used.
async fn give_up(answer: &mut Answer) {
    answer.stop(FinishReason::Cancelled);
    let last_word = async { while let Ok(Piece::Tokens { .. }) = answer.next().await {} };
    if tokio::time::timeout(LAST_WORD_TIMEOUT, last_word).await.is_err() {
        tracing::warn!(worker = %answer.worker(), "worker did not confirm a cancelled sequence");
    }
}

async fn relay_cached(
    reply: &mut Reply,
    exchange: &Exchange,
    permit: &Permit,
    answer: CachedAnswer,
) -> Result<Relayed, Failure> {
    let CachedAnswer { text, finish, prompt_tokens, completion_tokens } = answer;
    let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
    reply.header("x-tollgate-cache", "hit");
    if exchange.delivery != Delivery::Whole {
        begin_events(reply, exchange).await?;
        reply.event(&exchange.decorate(exchange.codec.delta(&exchange.about, &text))).await?;
    }
    // Not before it is told: a client that left meanwhile would pay for tokens that cost nothing.
    permit.record(usage, domain::NanoUsd::ZERO);
    Ok(Relayed { text, finish, outcome: Outcome::CacheHit })
}

async fn begin_events(reply: &mut Reply, exchange: &Exchange) -> Result<(), Failure> {
    reply.begin_events().await?;
    match exchange.codec.opening(&exchange.about) {
        Some(opening) => reply.event(&exchange.decorate(opening)).await,
        None => Ok(()),
    }
}

impl Exchange {
    /// A stream that was asked for usage says in every chunk but the last that it is yet to come.
    pub(crate) fn decorate(&self, mut chunk: serde_json::Value) -> serde_json::Value {
        if self.delivery == (Delivery::Stream { include_usage: true }) {
            chunk["usage"] = serde_json::Value::Null;
        }
        chunk
    }
}

fn cacheable(relayed: &Relayed, usage: Usage) -> CachedAnswer {
    CachedAnswer {
        text: relayed.text.clone(),
        finish: relayed.finish,
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
    }
}

/// Text as it forms: tokens in, what may be shown out.
struct Output<'a> {
    exchange: &'a Exchange,
    detokenizer: Detokenizer,
    stops: StopStrings,
    text: String,
    tokens: usize,
    stopped: bool,
}

impl<'a> Output<'a> {
    async fn begin(reply: &mut Reply, exchange: &'a Exchange) -> Result<Self, Failure> {
        if exchange.delivery != Delivery::Whole {
            begin_events(reply, exchange).await?;
        }
        Ok(Self {
            exchange,
            detokenizer: Detokenizer::new(Arc::clone(&exchange.model.text)),
            stops: StopStrings::new(exchange.job.stop()),
            text: String::new(),
            tokens: 0,
            stopped: false,
        })
    }

    const fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Takes in new tokens; tells whether the answer is to end here.
    async fn push(&mut self, reply: &mut Reply, ids: &[u32]) -> Result<bool, Failure> {
        self.tokens += ids.len();
        if self.stopped {
            return Ok(true);
        }
        let fresh = self.detokenizer.push(ids);
        let scanned = self.stops.push(&fresh);
        self.show(reply, scanned).await?;
        Ok(self.stopped)
    }

    async fn end(mut self, reply: &mut Reply, finish: FinishReason) -> Result<Relayed, Failure> {
        if !self.stopped {
            let rest = self.detokenizer.finish();
            let scanned = self.stops.push(&rest);
            self.show(reply, scanned).await?;
        }
        if !self.stopped {
            let held = self.stops.finish();
            self.show(reply, Scanned::Text(held)).await?;
        }
        // A stop string may be met in the very last token.
        let finish = if self.stopped { FinishReason::Stop } else { finish };
        Ok(Relayed { text: self.text, finish, outcome: Outcome::Finished(finish) })
    }

    async fn show(&mut self, reply: &mut Reply, scanned: Scanned) -> Result<(), Failure> {
        let text = match scanned {
            Scanned::Text(text) => text,
            Scanned::Stopped(text) => {
                self.stopped = true;
                text
            }
        };
        if text.is_empty() {
            return Ok(());
        }
        self.text.push_str(&text);
        if self.exchange.delivery == Delivery::Whole {
            return Ok(());
        }
        let Exchange { codec, about, .. } = self.exchange;
        reply.event(&self.exchange.decorate(codec.delta(about, &text))).await
    }
}

/// Proxies close connections that are quiet for a minute or less.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How often a lease is asked for again whose quota nobody can tell.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long a stream waits for that.
const LEASE_PATIENCE: Duration = Duration::from_secs(15);
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);
