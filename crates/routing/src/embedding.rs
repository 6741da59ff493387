//! Texts on their way to vectors, whatever happens to the workers behind it.
//!
//! Texts are cut into lots, each an order of its own, a few under way at a time: so one request with many texts neither
//! keeps a worker from others for long nor depends on a single one. A lot has no state: where its worker leaves,
//! vanishes, fails or says what cannot be, it is sent whole to another one, within the same bounds as sequences.
//!
//! Promises: every vector that is given out has the model's length and finite numbers; what workers said that they used
//! is in the books, also of a request that is given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use domain::{GpuTime, Job, ModelDigest, ModelKind, ModelName, Times, Usage, Work};
use futures_util::{Stream, StreamExt, stream};
use proto::{EmbedOrder, Embedded, WorkerError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::answer::Used;
use crate::error::RouteError;
use crate::evidence;
use crate::figures::{Cause, count};
use crate::gate::{NoPlace, Turn};
use crate::member::{InFlight, Member};
use crate::patience::predicted_end;
use crate::place::{Exit, LOOK_AGAIN, SOONEST};
use crate::policy::Field;
use crate::queue::{Lane, Ticket};
use crate::router::Router;

/// Vectors on their way. Dropping it gives up what is not here yet.
pub struct Embeddings {
    lots: std::pin::Pin<Box<dyn Stream<Item = Done> + Send>>,
    stopped: CancellationToken,
    used: Used,
    work: Vec<Work>,
}

/// Vectors of neighbouring texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// Index of the first of their texts.
    pub first: usize,
    /// Theirs, in order.
    pub vectors: Vec<Vec<f32>>,
}

/// Texts that go to a worker together.
struct Lot {
    first: usize,
    order: EmbedOrder,
    model: ModelName,
    session: u64,
    tokens: u64,
}

/// How far a lot is on its way to a worker.
struct Way {
    lane: Lane,
    /// Since when it waits for one.
    began: Instant,
    /// Members that failed it.
    failed: Vec<u32>,
}

/// What came of a lot.
struct Done {
    /// `None` if it was given up before a worker had it.
    result: Option<Result<Vectors, RouteError>>,
    usage: Usage,
    work: Vec<Work>,
}

/// What one worker made of a lot.
enum Told {
    Vectors(Vectors, Usage),
    /// It has no room, or goes; it is not asked again before so much time has passed.
    NoRoom(Duration),
    /// It failed.
    Failed(Cause, WorkerError),
    /// Nobody else would do it either.
    Final(WorkerError),
}

impl Router {
    /// The vectors of `texts`, which are all of the prompt of `job`, as they come.
    pub fn embed(self: &Arc<Self>, job: &Job, texts: Vec<Arc<[u32]>>) -> Embeddings {
        let stopped = CancellationToken::new();
        let (router, token) = (Arc::clone(self), stopped.clone());
        let lots = stream::iter(lots(job, texts)).map(move |lot| {
            let (router, token) = (Arc::clone(&router), token.clone());
            async move { router.embed_lot(lot, &token).await }
        });
        let lots = lots.buffer_unordered(LOTS_AT_ONCE).boxed();
        Embeddings { lots, stopped, used: Used::default(), work: Vec::new() }
    }

    async fn embed_lot(&self, lot: Lot, stopped: &CancellationToken) -> Done {
        let mut done = Done { result: None, usage: Usage::default(), work: Vec::new() };
        let mut way = Way {
            lane: Lane::New(lot.order.share.priority),
            began: Instant::now(),
            failed: Vec::new(),
        };
        loop {
            let turn = tokio::select! {
                biased;
                () = stopped.cancelled() => return done,
                turn = self.turn_of(&lot, &way) => turn,
            };
            let waited = way.began.elapsed();
            let (turn, member) = match turn {
                Ok(found) => found,
                Err(error) => {
                    done.result = Some(Err(error));
                    return done;
                }
            };
            let Some(in_flight) = member.occupy(lot.tokens, Instant::now()) else { continue };
            let (told, work) = self.ask_to_embed(&lot, (turn, &member), in_flight).await;
            done.work.extend(work);
            let error = match told {
                Told::Vectors(vectors, usage) => {
                    self.counters.waited(way.lane, waited);
                    self.retries.earn();
                    (done.result, done.usage) = (Some(Ok(vectors)), usage);
                    return done;
                }
                Told::NoRoom(_) => continue,
                Told::Final(error) => error,
                Told::Failed(cause, error) => {
                    way.failed.push(member.slot());
                    let again = (way.failed.len() as u32) < self.settings().max_attempts;
                    if again && self.retries.spend() {
                        self.counters.went_on(cause);
                        (way.lane, way.began) = (Lane::Continuation, Instant::now());
                        continue;
                    }
                    error
                }
            };
            done.result = Some(Err(RouteError::Worker(error)));
            return done;
        }
    }

    /// Waits until a worker may be asked for a lot, and whom the model's policy chooses.
    async fn turn_of(&self, lot: &Lot, way: &Way) -> Result<(Turn, Arc<Member>), RouteError> {
        let Way { lane, began, ref failed } = *way;
        let give_up = |place, nobody| self.no_place(&lot.model, place, nobody);
        let mut nobody = self.pool(&lot.order.model).is_none();
        let mut wait = self.wait(began, (!nobody).then_some(Duration::ZERO));
        let ticket = |id| Ticket::new(id, lane, lot.order.share, lot.tokens, began);
        let gate = self.gate(&lot.order.model);
        let mut turn = gate.enter(wait, ticket).map_err(|place| give_up(place, nobody))?;
        loop {
            let pause = if wait.hint.is_zero() { LOOK_AGAIN } else { wait.hint };
            if !turn.comes(wait.until, pause).await {
                let retry_in = turn.expected_wait(Instant::now()).max(wait.hint);
                return Err(give_up(NoPlace { retry_in }, nobody));
            }
            let now = Instant::now();
            let pool = self.pool(&lot.order.model).unwrap_or_default();
            if let Some(member) = self.choose_for(lot, &pool, failed) {
                return Ok((turn, member));
            }
            nobody = !pool.iter().any(|member| member.is_full(&lot.order.model, now));
            wait = self.wait(began, (!nobody).then_some(ASK_AGAIN));
            if wait.until <= now {
                return Err(give_up(NoPlace { retry_in: wait.hint }, nobody));
            }
            turn.wait(wait).map_err(|place| give_up(place, nobody))?;
        }
    }

    fn choose_for(&self, lot: &Lot, pool: &[Arc<Member>], failed: &[u32]) -> Option<Arc<Member>> {
        let asked = self.asked((&lot.order.model, lot.tokens), lot.order.share, lot.session);
        let policy = self.settings().policy_of(&lot.model);
        let best = |except: &[u32]| {
            let field = Field::new(&asked, pool, except, (&Vec::new(), 0));
            policy.choose(&field).map(|at| Arc::clone(&pool[at]))
        };
        // Better one that failed once than nobody.
        best(failed).or_else(|| best(&[]))
    }

    async fn ask_to_embed(
        &self,
        lot: &Lot,
        (turn, member): (Turn, &Arc<Member>),
        mut in_flight: InFlight,
    ) -> (Told, Option<Work>) {
        let since = Instant::now();
        let (price_per_hour, incarnation) = member.price_and_incarnation();
        let (mut turn, mut exit) = (Some(turn), None);
        let limits = self.settings().stall;
        let most = limits.most.max(limits.least).saturating_mul(QUEUES);
        let overdue =
            since + predicted_end(member, &lot.order.model, lot.tokens).clamp(limits.least, most);
        let answer = member.worker().embed(lot.order.clone());
        tokio::pin!(answer);
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer,
                () = tokio::time::sleep_until(since + REFUSED_WITHIN), if turn.is_some() => {
                    exit = turn.take().map(|turn| Self::taken(turn, member));
                }
                () = tokio::time::sleep_until(overdue) => {
                    break Err(WorkerError::Unreachable("it did not answer".to_owned()));
                }
            }
        };
        if answer.is_ok()
            && let Some(turn) = turn.take()
        {
            exit = Some(Self::taken(turn, member));
        }
        let mut work = Work {
            worker: member.name().to_owned(),
            incarnation,
            gpu: GpuTime::ZERO,
            recompute: GpuTime::ZERO,
            price_per_hour,
            complete: false,
        };
        let told = match answer {
            Ok(embedded) => {
                let (told, usage) = self.checked(lot, member, embedded, since.elapsed());
                (work.gpu, work.complete) = (usage.gpu, true);
                told
            }
            Err(error) => {
                // What no worker can make sense of is not asked again.
                if !matches!(error, WorkerError::Invalid(_) | WorkerError::Format(_)) {
                    count(&self.counters.retried);
                }
                refused(error)
            }
        };
        match &told {
            Told::Vectors(..) => in_flight.succeed(),
            Told::Failed(_, error) => in_flight.fail(error),
            Told::NoRoom(_) | Told::Final(_) => {}
        }
        // Counted out before others are told that there may be room.
        drop(in_flight);
        drop(exit);
        let work = match &told {
            Told::NoRoom(hint) => {
                member.fill_up(&lot.order.model, Instant::now() + *hint);
                None
            }
            Told::Failed(Cause::Lost, error) => {
                member.lose(error);
                Some(work)
            }
            Told::Vectors(..) | Told::Failed(..) => Some(work),
            Told::Final(_) => None,
        };
        (told, work)
    }

    /// The worker has the lot, or will not say otherwise: the queue goes on, and whoever waits hears of its end.
    fn taken(turn: Turn, member: &Arc<Member>) -> Exit {
        let gate = Arc::clone(turn.gate());
        turn.placed(Instant::now());
        Exit::new(gate, Arc::clone(member))
    }

    /// What can be true of an answer.
    fn checked(
        &self,
        lot: &Lot,
        member: &Member,
        embedded: Embedded,
        wall: Duration,
    ) -> (Told, Usage) {
        let Embedded { vectors, usage } = embedded;
        let (usage, clamped) = evidence::bounded(&usage, wall);
        self.counters.clamped(member.name(), clamped);
        let usage = Usage {
            prompt_tokens: u32::try_from(lot.tokens).unwrap_or(u32::MAX),
            cached_tokens: 0,
            completion_tokens: 0,
            times: Times { decode: GpuTime::ZERO, prefill: usage.gpu, ..usage.times },
            ..usage
        };
        let width = width(member, &lot.order.model);
        let is_one = |vector: &Vec<f32>| {
            Some(vector.len()) == width && vector.iter().all(|number| number.is_finite())
        };
        if vectors.len() == lot.order.texts.len() && vectors.iter().all(is_one) {
            return (Told::Vectors(Vectors { first: lot.first, vectors }, usage), usage);
        }
        let lie = WorkerError::Failed("it told vectors that cannot be".to_owned());
        (Told::Failed(Cause::Garbage, lie), usage)
    }
}

impl Embeddings {
    /// More of them, in any order; `None` when all are there. Nothing is lost if this is dropped before it is done.
    pub async fn next(&mut self) -> Option<Result<Vectors, RouteError>> {
        loop {
            let done = self.lots.next().await?;
            self.book(&done);
            if let Some(result) = done.result {
                return Some(result);
            }
        }
    }

    /// Sends nothing more, and waits a while for what workers say of what they have.
    pub async fn give_up(&mut self) {
        self.stopped.cancel();
        let rest = async { while self.next().await.is_some() {} };
        // Who does not answer until then is not believed later either.
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    }

    /// What was used so far.
    pub const fn used(&self) -> Used {
        self.used
    }

    /// What each worker did.
    pub fn work(&self) -> Vec<Work> {
        self.work.clone()
    }

    fn book(&mut self, done: &Done) {
        for work in &done.work {
            let same = |known: &&mut Work| {
                known.worker == work.worker
                    && known.incarnation == work.incarnation
                    && known.price_per_hour == work.price_per_hour
            };
            match self.work.iter_mut().find(same) {
                Some(known) => {
                    known.gpu += work.gpu;
                    known.complete &= work.complete;
                }
                None => self.work.push(work.clone()),
            }
        }
        let usage = &mut self.used.usage;
        usage.prompt_tokens = usage.prompt_tokens.saturating_add(done.usage.prompt_tokens);
        usage.gpu = self.work.iter().map(|work| work.gpu).sum();
        // Lots wait beside each other; the longest wait is that of the request.
        let queue = usage.times.queue.max(done.usage.times.queue);
        usage.times = Times { queue, prefill: usage.gpu, ..usage.times };
        // Rounded up once for each worker.
        self.used.cost = self.work.iter().map(|work| work.gpu.cost(work.price_per_hour)).sum();
    }
}

/// What a refusal comes to.
fn refused(error: WorkerError) -> Told {
    match error {
        WorkerError::Full { retry_in } => Told::NoRoom(retry_in.clamp(SOONEST, LOOK_AGAIN)),
        // What it pushes says so soon.
        WorkerError::Draining | WorkerError::ModelNotFound(_) => Told::NoRoom(SOONEST),
        WorkerError::Invalid(_) | WorkerError::TooLong(_) | WorkerError::Format(_) => {
            Told::Final(error)
        }
        WorkerError::Unreachable(_) => Told::Failed(Cause::Lost, error),
        WorkerError::Failed(_) | WorkerError::NotLoaded { .. } => {
            Told::Failed(Cause::Failed, error)
        }
    }
}

/// How many numbers the vectors of `model` have on this worker.
fn width(member: &Member, model: &ModelDigest) -> Option<usize> {
    match member.serves(model)?.kind {
        ModelKind::Text => None,
        ModelKind::Embedding { dimensions } => usize::try_from(dimensions).ok(),
    }
}

/// Neighbouring texts together, up to a size.
fn lots(job: &Job, texts: Vec<Arc<[u32]>>) -> Vec<Lot> {
    let mut rest = VecDeque::from(texts);
    let (mut lots, mut first) = (Vec::new(), 0);
    while !rest.is_empty() {
        let (mut texts, mut tokens) = (Vec::new(), 0);
        while let Some(next) = rest.front()
            && texts.len() < LOT_TEXTS
            && (texts.is_empty() || tokens + next.len() <= LOT_TOKENS)
        {
            tokens += next.len();
            texts.extend(rest.pop_front());
        }
        let number = texts.len();
        let (request, model) = (job.request(), job.digest().clone());
        let order = EmbedOrder { request, model, texts, share: job.share() };
        let (model, session) = (job.model().clone(), job.session());
        lots.push(Lot { first, order, model, session, tokens: tokens as u64 });
        first += number;
    }
    lots
}

/// Lots of one request that are under way at a time.
const LOTS_AT_ONCE: usize = 4;
/// Texts of one lot.
const LOT_TEXTS: usize = 64;
/// Tokens of one lot, where it has more than one text: others wait that long at most.
const LOT_TOKENS: usize = 2048;
/// How often those who have no room are looked at, where nothing says that they have some.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// A worker without room says so within this.
const REFUSED_WITHIN: Duration = Duration::from_millis(50);
/// An order says nothing until it is done: unlike a sequence it may wait in its worker's queue all that time.
const QUEUES: u32 = 4;
/// How long the last words of workers are waited for.
const LAST_WORDS: Duration = Duration::from_secs(10);
