//! Picks a worker for a sequence, and waits a bounded time for one to have room.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{Job, ModelDigest, ModelFiles, ModelInfo, ModelName, NanoUsd, Rent};
use proto::{Generation, Start, Worker, WorkerError, WorkerState};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::answer::Answer;
use crate::error::RouteError;
use crate::member::{InFlight, Member};

/// Routes jobs to workers.
pub struct Router {
    members: Vec<Arc<Member>>,
    settings: RouterSettings,
    changed: watch::Sender<()>,
    /// Models seen since the start, by name: a worker that restarts does not unlist its model.
    seen: Mutex<BTreeMap<ModelName, Served>>,
}

/// How patient a router is.
#[derive(Clone, Copy, Debug)]
pub struct RouterSettings {
    /// Longest wait of one sequence for a worker with room, counted anew for each continuation.
    pub patience: Duration,
    /// How often one sequence may be started, continuations included.
    pub max_attempts: u32,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self { patience: DEFAULT_PATIENCE, max_attempts: DEFAULT_MAX_ATTEMPTS }
    }
}

/// A model that some worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The model.
    pub info: ModelInfo,
    /// The highest price per hour of the workers that serve it.
    pub price_per_hour: NanoUsd,
}

/// A sequence that runs somewhere.
pub(crate) struct Placed {
    pub(crate) generation: Generation,
    pub(crate) price_per_hour: NanoUsd,
    /// Which life of the worker's process.
    pub(crate) incarnation: String,
    pub(crate) member: Arc<Member>,
    pub(crate) _in_flight: InFlight,
}

impl Router {
    /// A router over `workers`, each with a name for logs. It knows nothing of them until
    /// [`Router::follow`] runs.
    pub fn new(
        workers: impl IntoIterator<Item = (String, Arc<dyn Worker>)>,
        settings: RouterSettings,
    ) -> Arc<Self> {
        let members = workers.into_iter().map(|(name, worker)| Arc::new(Member::new(name, worker)));
        Arc::new(Self {
            members: members.collect(),
            settings,
            changed: watch::Sender::new(()),
            seen: Mutex::default(),
        })
    }

    /// Follows the state of every worker until the handles are dropped.
    #[must_use = "dropping the handles stops following"]
    pub fn follow(self: &Arc<Self>) -> Vec<AbortOnDropHandle<()>> {
        let follow = |member: &Arc<Member>| {
            let (router, member) = (Arc::clone(self), Arc::clone(member));
            let task = async move { member.follow(&router.changed).await };
            AbortOnDropHandle::new(tokio::spawn(task))
        };
        self.members.iter().map(follow).collect()
    }

    /// Every model that was served since the start, by name.
    pub fn models(&self) -> Vec<Served> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let states: Vec<_> = self.members.iter().filter_map(|member| member.state()).collect();
        for served in states.iter().flat_map(served_by) {
            let known = seen.get_mut(&served.info.name);
            if let Some(known) = known.filter(|known| known.info == served.info) {
                known.price_per_hour = known.price_per_hour.max(served.price_per_hour);
            } else if seen.len() < MAX_MODELS || seen.contains_key(&served.info.name) {
                seen.insert(served.info.name.clone(), served);
            }
        }
        seen.values().cloned().collect()
    }

    /// Every worker's name and last known state; `None` while it cannot be reached.
    pub fn workers(&self) -> Vec<(String, Option<Arc<WorkerState>>)> {
        self.members.iter().map(|member| (member.name().to_owned(), member.state())).collect()
    }

    /// From now on the worker of this name costs this much. `None` if there is no such worker.
    pub async fn set_price(&self, name: &str, rent: Rent) -> Option<Result<(), WorkerError>> {
        let member = self.members.iter().find(|member| member.name() == name)?;
        Some(member.worker().set_price(rent).await)
    }

    /// Whether at least one worker can be given work.
    pub fn is_ready(&self) -> bool {
        let takes_work = |member: &Arc<Member>| {
            member.state().is_some_and(|state| state.takes_work() && !state.models.is_empty())
        };
        self.members.iter().any(takes_work)
    }

    /// Resolves when anything about any worker has changed.
    pub async fn changed(&self) {
        // The sender lives as long as the router, so this only ends by a change.
        let _ = self.changed.subscribe().changed().await;
    }

    /// The tokenizer and template of a model, from any worker that serves it.
    pub async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        let mut last = WorkerError::ModelNotFound(model.clone());
        for member in self.members.iter().filter(|member| member.load(model).is_some()) {
            match member.worker().model_files(model).await {
                Ok(files) => return Ok(files),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Starts `job` on a worker. `allowance` tokens are paid for so far.
    pub async fn dispatch(
        self: &Arc<Self>,
        job: &Job,
        allowance: u32,
    ) -> Result<Answer, RouteError> {
        Answer::begin(Arc::clone(self), job, allowance).await
    }

    pub(crate) const fn max_attempts(&self) -> u32 {
        self.settings.max_attempts
    }

    /// Finds a worker for `start`, asking one after the other and waiting for room.
    pub(crate) async fn place(
        &self,
        start: &Start,
        name: &ModelName,
    ) -> Result<Placed, RouteError> {
        let deadline = Instant::now() + self.settings.patience;
        let mut changes = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            let full = match self.try_all(start).await {
                Ok(placed) => return Ok(placed),
                Err(WorkerError::Full { retry_in }) => Some(retry_in),
                Err(error) if error.is_passing() => None,
                Err(error) => return Err(RouteError::Worker(error)),
            };
            let pause = full.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
            if Instant::now() + pause > deadline {
                return Err(gave_up(name, full));
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// Asks every worker that may take it, least loaded first. `Full` if one of them was.
    async fn try_all(&self, start: &Start) -> Result<Placed, WorkerError> {
        let mut asked = HashSet::new();
        let mut last = WorkerError::ModelNotFound(start.model.clone());
        while let Some((at, member)) = self.least_loaded(&start.model, &asked) {
            asked.insert(at);
            let in_flight = member.occupy();
            match member.worker().generate(start.clone()).await {
                Ok(generation) => {
                    let (price_per_hour, incarnation) = member.price_and_incarnation();
                    return Ok(Placed {
                        generation,
                        price_per_hour,
                        incarnation,
                        member,
                        _in_flight: in_flight,
                    });
                }
                Err(error @ (WorkerError::Invalid(_) | WorkerError::Format(_))) => {
                    return Err(error);
                }
                Err(error @ WorkerError::Full { .. }) => last = error,
                Err(error) => {
                    if matches!(error, WorkerError::Unreachable(_)) {
                        member.lose(&error);
                    }
                    if !matches!(last, WorkerError::Full { .. }) {
                        last = error;
                    }
                }
            }
        }
        Err(last)
    }

    fn least_loaded(
        &self,
        model: &ModelDigest,
        except: &HashSet<usize>,
    ) -> Option<(usize, Arc<Member>)> {
        let members = self.members.iter().enumerate().filter(|(at, _)| !except.contains(at));
        let loads = members.filter_map(|(at, member)| Some((member.load(model)?, at, member)));
        let (_, at, member) = loads.min_by_key(|(load, at, _)| (*load, *at))?;
        Some((at, Arc::clone(member)))
    }
}

fn served_by(state: &Arc<WorkerState>) -> Vec<Served> {
    let price_per_hour = state.price_per_hour;
    state.models.iter().map(|info| Served { info: info.clone(), price_per_hour }).collect()
}

fn gave_up(model: &ModelName, full: Option<Duration>) -> RouteError {
    let model = model.clone();
    match full {
        Some(retry_in) => RouteError::Full { model, retry_in },
        None => RouteError::NoWorker { model, retry_in: LOOK_AGAIN },
    }
}

const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);
const DEFAULT_MAX_ATTEMPTS: u32 = 4;
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const MAX_MODELS: usize = 1024;
