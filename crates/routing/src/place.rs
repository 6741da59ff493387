//! The way of one sequence to a worker: choose, ask, ask another, wait, try again.

use std::sync::Arc;
use std::time::Duration;

use domain::{BlockNames, ModelDigest, ModelName, NanoUsd, Share};
use proto::{Generation, Start, WorkerError, WorkerState};
use tokio::time::Instant;

use crate::error::RouteError;
use crate::figures::count;
use crate::gate::{Gate, NoPlace, Wait};
use crate::member::{InFlight, Member};
use crate::policy::{Asked, Field, Room};
use crate::prefixes::{Expected, Matches};
use crate::queue::{Lane, Ticket};
use crate::router::Router;

/// A sequence that runs somewhere.
pub(crate) struct Placed {
    pub(crate) generation: Generation,
    pub(crate) site: Site,
    /// Counted out before `_exit` tells others that there may be room.
    pub(crate) in_flight: InFlight,
    /// What of its prompt the worker has not told of yet.
    pub(crate) _sent: Option<Expected>,
    pub(crate) _exit: Exit,
}

/// Where a sequence runs.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) member: Arc<Member>,
    pub(crate) price_per_hour: NanoUsd,
    /// Which life of the worker's process.
    pub(crate) incarnation: String,
    /// Number of token ids of the model there.
    pub(crate) vocabulary: u32,
    /// Most tokens it produces there: what was asked for, or what its context has room for.
    pub(crate) max_output: u32,
    pub(crate) since: Instant,
}

/// Tells those who wait, when dropped, that a sequence ended.
pub(crate) struct Exit {
    gate: Arc<Gate>,
    member: Arc<Member>,
}

impl Exit {
    pub(crate) const fn new(gate: Arc<Gate>, member: Arc<Member>) -> Self {
        Self { gate, member }
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.member.has_room();
        self.gate.open();
    }
}

/// A sequence that is to be placed.
pub(crate) struct Wanted<'a> {
    pub(crate) start: &'a Start,
    pub(crate) model: &'a ModelName,
    pub(crate) session: u64,
    pub(crate) lane: Lane,
    /// Members that failed it.
    pub(crate) avoid: &'a [u32],
    /// Where its KV blocks were copied ahead to.
    pub(crate) preferred: Option<u32>,
}

/// What is worked out once for a sequence, however often it is tried.
struct Prompt {
    block_tokens: u32,
    names: Arc<[u64]>,
    policy: &'static crate::policy::Policy,
    tokens: u64,
}

/// Why nobody took it.
enum Refusal {
    /// Somebody serves the model and has no room.
    Full(Duration),
    /// Nobody who serves it can be reached.
    Nobody,
    /// Who was asked failed at it.
    Failed(WorkerError),
    /// It is not to be tried elsewhere.
    Final(WorkerError),
}

impl Router {
    /// Finds a worker for a sequence, waiting for room.
    pub(crate) async fn place(self: &Arc<Self>, wanted: &Wanted<'_>) -> Result<Placed, RouteError> {
        let began = Instant::now();
        let prompt = self.prompt(wanted);
        let gate = self.gate(&wanted.start.model);
        let give_up = |place, nobody| self.no_place(wanted.model, place, nobody);
        let mut nobody = self.pool(&wanted.start.model).is_none();
        let mut wait = self.wait(began, (!nobody).then_some(Duration::ZERO));
        let ticket = |id| Self::ticket(id, wanted, began);
        let mut turn = gate.enter(wait, ticket).map_err(|place| give_up(place, nobody))?;
        loop {
            let pause = if wait.hint.is_zero() { LOOK_AGAIN } else { wait.hint.min(LOOK_AGAIN) };
            if !turn.comes(wait.until, pause).await {
                let retry_in = turn.expected_wait(Instant::now()).max(wait.hint);
                return Err(give_up(NoPlace { retry_in }, nobody));
            }
            let hint = match self.try_members(wanted, &prompt, turn.gate()).await {
                Ok(placed) => {
                    self.counters.waited(wanted.lane, began.elapsed());
                    self.retries.earn();
                    turn.placed(Instant::now());
                    return Ok(placed);
                }
                Err(Refusal::Final(error) | Refusal::Failed(error)) => {
                    return Err(RouteError::Worker(error));
                }
                Err(Refusal::Full(hint)) => Some(hint),
                Err(Refusal::Nobody) => None,
            };
            nobody = hint.is_none();
            wait = self.wait(began, hint);
            if wait.until <= Instant::now() {
                return Err(give_up(NoPlace { retry_in: wait.hint }, nobody));
            }
            turn.wait(wait).map_err(|place| give_up(place, nobody))?;
        }
    }

    /// A worker that has room now; nobody waits.
    pub(crate) async fn place_at_once(self: &Arc<Self>, wanted: &Wanted<'_>) -> Option<Placed> {
        let pool = self.pool(&wanted.start.model)?;
        if pool.len() <= wanted.avoid.len() {
            return None;
        }
        let (prompt, gate) = (self.prompt(wanted), self.gate(&wanted.start.model));
        let mut placed = self.try_members(wanted, &prompt, &gate).await.ok()?;
        // The one it is to be faster than is no second one.
        let other = !wanted.avoid.contains(&placed.site.member.slot());
        if !other {
            placed.in_flight.succeed();
        }
        other.then_some(placed)
    }

    /// Whom a sequence would be placed with now; nobody is asked.
    pub(crate) fn foresee(&self, wanted: &Wanted<'_>) -> Option<Arc<Member>> {
        let prompt = self.prompt(wanted);
        let pool = self.pool(&wanted.start.model)?;
        let matches = self.prefixes.find(&prompt.names);
        let asked = self.asked_for(wanted, prompt.tokens);
        let field = Field::new(&asked, &pool, wanted.avoid, (&matches, prompt.block_tokens));
        prompt.policy.choose(&field).map(|at| Arc::clone(&pool[at]))
    }

    /// What is told to whoever finds no place: `nobody` serves the model, or nobody has room.
    pub(crate) fn no_place(
        &self,
        model: &ModelName,
        NoPlace { retry_in }: NoPlace,
        nobody: bool,
    ) -> RouteError {
        count(&self.counters.refused);
        let (model, retry_in) = (model.clone(), retry_in.max(SOONEST));
        if nobody {
            RouteError::NoWorker { model, retry_in }
        } else {
            RouteError::Full { model, retry_in }
        }
    }

    pub(crate) fn wait(&self, began: Instant, hint: Option<Duration>) -> Wait {
        let settings = self.settings();
        match hint {
            Some(hint) => Wait { until: began + settings.patience, hint, max: settings.max_queued },
            None => Wait {
                until: began + settings.cold_start_patience.max(settings.patience),
                hint: Duration::ZERO,
                max: settings.max_cold_start,
            },
        }
    }

    fn ticket(id: u64, wanted: &Wanted<'_>, now: Instant) -> Ticket {
        let Start { prompt, generated, max_output, share, .. } = wanted.start;
        let output = u64::from(*max_output).min(TYPICAL_OUTPUT);
        Ticket::new(id, wanted.lane, *share, (prompt.len() + generated.len()) as u64 + output, now)
    }

    fn prompt(&self, wanted: &Wanted<'_>) -> Prompt {
        let Start { model, prompt, generated, salt, .. } = wanted.start;
        let pool = self.pool(model);
        let sizes = pool.iter().flat_map(|pool| pool.iter());
        let of_model = |state: &WorkerState| state.load_of(model).block_tokens;
        let mut sizes = sizes.filter_map(|member| member.with_state(of_model));
        let block_tokens = sizes.find(|tokens| *tokens > 0).unwrap_or(0);
        let mut names = Vec::new();
        // Where nobody holds a prefix, a name would be a hash for nothing.
        if block_tokens > 0 && !self.prefixes.is_empty() {
            let most = (block_tokens as usize).saturating_mul(MAX_NAMES);
            let text = BlockNames::new(model, *salt, block_tokens);
            let all = if generated.is_empty() {
                text.all(&prompt[..prompt.len().min(most)])
            } else {
                let tokens: Vec<u32> = prompt.iter().chain(generated).take(most).copied().collect();
                text.all(&tokens)
            };
            names = all.iter().map(domain::BlockHash::short).collect();
        }
        let tokens = (prompt.len() + generated.len()) as u64;
        let names = names.into();
        Prompt { block_tokens, names, policy: self.settings().policy_of(wanted.model), tokens }
    }

    /// A choice for a sequence that has so many tokens, now.
    fn asked_for(&self, wanted: &Wanted<'_>, tokens: u64) -> Asked {
        let Wanted { start, session, .. } = wanted;
        let asked = self.asked((&start.model, tokens), start.share, *session);
        Asked { room: Room::of(start), ..asked }
    }

    /// A choice for so many tokens, wherever they fit, now.
    pub(crate) fn asked(
        &self,
        (model, tokens): (&ModelDigest, u64),
        share: Share,
        session: u64,
    ) -> Asked {
        let settings = self.settings();
        Asked {
            model: model.clone(),
            tokens,
            priority: share.priority,
            session,
            room: Room::default(),
            due_in: settings.due.of(share.priority),
            draw: self.draw(),
            max_load_percent: settings.max_load_percent,
            slow_start: settings.slow_start,
            now: Instant::now(),
        }
    }

    /// Asks those who may take it, the best first.
    async fn try_members(
        &self,
        wanted: &Wanted<'_>,
        prompt: &Prompt,
        gate: &Arc<Gate>,
    ) -> Result<Placed, Refusal> {
        let pool = self.pool(&wanted.start.model).ok_or(Refusal::Nobody)?;
        let matches = self.prefixes.find(&prompt.names);
        let mut except = wanted.avoid.to_vec();
        let mut preferred = wanted.preferred;
        let mut last = Refusal::Nobody;
        let mut asked_so_far = 0;
        while asked_so_far < MAX_ASKED {
            let chosen =
                self.choose(wanted, prompt, (&pool, &matches), (&except, preferred.take()));
            let Some((member, uncached)) = chosen else {
                if asked_so_far == 0 && except.len() == wanted.avoid.len() && !except.is_empty() {
                    // Better the one that failed once than nobody.
                    except.clear();
                    continue;
                }
                break;
            };
            except.push(member.slot());
            if asked_so_far > 0 && !self.retries.spend() {
                break;
            }
            asked_so_far += 1;
            match self.ask((&member, uncached), wanted, prompt, gate).await {
                Ok(placed) => return Ok(placed),
                Err(Refusal::Final(error)) => return Err(Refusal::Final(error)),
                Err(Refusal::Full(hint)) => {
                    last = Refusal::Full(match last {
                        Refusal::Full(other) => other.min(hint),
                        _ => hint,
                    });
                }
                Err(Refusal::Failed(error)) => {
                    if matches!(last, Refusal::Nobody) {
                        last = Refusal::Failed(error);
                    }
                }
                Err(Refusal::Nobody) => {}
            }
        }
        if matches!(last, Refusal::Nobody) {
            self.check_fits(wanted)?;
        }
        if matches!(last, Refusal::Nobody)
            && pool.iter().any(|member| member.is_full(&wanted.start.model, Instant::now()))
        {
            last = Refusal::Full(LOOK_AGAIN);
        }
        Err(last)
    }

    /// Refuses a sequence that no worker in the directory has a context for: one that cannot be reached may come back,
    /// but not with a larger cache than it had.
    fn check_fits(&self, wanted: &Wanted<'_>) -> Result<(), Refusal> {
        let Some(widest) = self.widest_context(&wanted.start.model) else { return Ok(()) };
        let least = Room::of(wanted.start).least;
        if least <= u64::from(widest) {
            return Ok(());
        }
        let message = format!(
            "prompt and output need {least} tokens at least, but this model's maximum context length is {widest} tokens now; shorten the prompt"
        );
        Err(Refusal::Final(WorkerError::TooLong(message)))
    }

    fn choose(
        &self,
        wanted: &Wanted<'_>,
        prompt: &Prompt,
        (pool, matches): (&[Arc<Member>], &Matches),
        (except, preferred): (&[u32], Option<u32>),
    ) -> Option<(Arc<Member>, u64)> {
        let asked = self.asked_for(wanted, prompt.tokens);
        let field = Field::new(&asked, pool, except, (matches, prompt.block_tokens));
        let ahead = preferred
            .and_then(|slot| pool.iter().position(|member| member.slot() == slot))
            .filter(|at| field.candidate(*at).is_some());
        let at = ahead.or_else(|| prompt.policy.choose(&field))?;
        Some((Arc::clone(&pool[at]), field.uncached(at)))
    }

    async fn ask(
        &self,
        (member, uncached): (&Arc<Member>, u64),
        wanted: &Wanted<'_>,
        prompt: &Prompt,
        gate: &Arc<Gate>,
    ) -> Result<Placed, Refusal> {
        let since = Instant::now();
        // Another one is the probe of a worker that failed.
        let mut in_flight = member.occupy(uncached, since).ok_or(Refusal::Nobody)?;
        let (price_per_hour, incarnation) = member.price_and_incarnation();
        let served = member.serves(&wanted.start.model).ok_or(Refusal::Nobody)?;
        let start = wanted.start;
        let room = u64::from(served.context_length).saturating_sub(start.prompt.len() as u64);
        let max_output = start.max_output.min(u32::try_from(room).unwrap_or(u32::MAX));
        // Before it is asked: others with this prompt may come while it answers.
        let sent = self.prefixes.expect(member.slot(), &prompt.names);
        let asked = member.worker().generate(Start { max_output, ..start.clone() });
        let answered = tokio::time::timeout(ASK_LIMIT, asked).await;
        let error = match answered {
            Ok(Ok(generation)) => {
                let vocabulary = served.vocabulary;
                let member = Arc::clone(member);
                let exit = Exit { gate: Arc::clone(gate), member: Arc::clone(&member) };
                let site =
                    Site { member, price_per_hour, incarnation, vocabulary, max_output, since };
                return Ok(Placed { generation, site, in_flight, _sent: sent, _exit: exit });
            }
            Ok(Err(error)) => error,
            Err(_) => WorkerError::Unreachable("it did not answer".to_owned()),
        };
        // What no worker can make sense of is not asked again.
        if !error.is_askers() {
            count(&self.counters.retried);
        }
        match error {
            WorkerError::Invalid(_) | WorkerError::Format(_) => Err(Refusal::Final(error)),
            WorkerError::Full { retry_in } => {
                let hint = retry_in.clamp(SOONEST, LOOK_AGAIN);
                member.fill_up(&wanted.start.model, Instant::now() + hint);
                Err(Refusal::Full(retry_in.min(LONGEST_HINT)))
            }
            WorkerError::Draining | WorkerError::ModelNotFound(_) => Err(Refusal::Nobody),
            WorkerError::Unreachable(_) => {
                in_flight.fail(&error);
                member.lose(&error);
                Err(Refusal::Nobody)
            }
            // It is not sick: its cache is smaller than it said, or than it was.
            WorkerError::TooLong(_) => Err(Refusal::Failed(error)),
            WorkerError::Failed(_) | WorkerError::NotLoaded { .. } => {
                in_flight.fail(&error);
                Err(Refusal::Failed(error))
            }
        }
    }
}

/// Workers asked in one go; more are full at once only where all are.
const MAX_ASKED: u32 = 8;
/// Blocks of a prompt that are named: what a prompt shares with others is mostly at its beginning.
const MAX_NAMES: usize = 2_048;
/// A worker that does not say within so long whether it takes a sequence cannot be reached.
const ASK_LIMIT: Duration = Duration::from_secs(5);
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
pub(crate) const SOONEST: Duration = Duration::from_millis(10);
const LONGEST_HINT: Duration = Duration::from_mins(1);
/// What an output is taken for in the queue, where it is not bounded closer: most end long before their bound.
const TYPICAL_OUTPUT: u64 = 256;
