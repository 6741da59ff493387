//! Knows the workers, picks one for a sequence, and lets it wait a bounded time for one to have room.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use domain::{Job, LoadOrder, ModelDigest, ModelFiles, ModelInfo, ModelName, NanoUsd, Rent};
use proto::{Worker, WorkerError, WorkerState};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::answer::Answer;
use crate::error::RouteError;
use crate::figures::Counters;
use crate::gate::Gate;
use crate::member::{Learned, Member};
use crate::prefixes::Prefixes;
use crate::retries::Retries;
use crate::settings::RouterSettings;

/// Routes jobs to workers.
pub struct Router {
    settings: ArcSwap<RouterSettings>,
    members: ArcSwap<Vec<Arc<Member>>>,
    /// Members by what they serve, made anew when one of them changes that.
    pools: ArcSwap<HashMap<ModelDigest, Arc<[Arc<Member>]>>>,
    /// One change of members or pools at a time.
    changing: Mutex<()>,
    next_slot: AtomicU32,
    gates: Mutex<HashMap<ModelDigest, Arc<Gate>>>,
    pub(crate) prefixes: Arc<Prefixes>,
    pub(crate) retries: Retries,
    pub(crate) counters: Counters,
    /// Copies of KV blocks that are under way.
    pub(crate) fetches: Arc<Semaphore>,
    draws: AtomicU64,
    changed: watch::Sender<()>,
    roster: watch::Sender<()>,
    /// Models seen since the start, by name: a worker that restarts does not unlist its model.
    seen: Mutex<BTreeMap<ModelName, Served>>,
}

/// A model that some worker serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The model.
    pub info: ModelInfo,
    /// The highest price per hour of the workers that serve it.
    pub price_per_hour: NanoUsd,
}

impl Router {
    /// A router over `workers`, each with the address that other workers reach it at, which is its name. It knows
    /// nothing of them until [`Router::follow`] runs.
    pub fn new(
        workers: impl IntoIterator<Item = (String, Arc<dyn Worker>)>,
        settings: RouterSettings,
    ) -> Arc<Self> {
        let router = Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            members: ArcSwap::default(),
            pools: ArcSwap::default(),
            changing: Mutex::default(),
            next_slot: AtomicU32::new(0),
            gates: Mutex::default(),
            prefixes: Arc::default(),
            retries: Retries::default(),
            counters: Counters::default(),
            fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
            draws: AtomicU64::new(0),
            changed: watch::Sender::new(()),
            roster: watch::Sender::new(()),
            seen: Mutex::default(),
        });
        router.join_all(workers);
        router
    }

    /// The settings that hold now.
    pub(crate) fn settings(&self) -> Guard<Arc<RouterSettings>> {
        self.settings.load()
    }

    /// From now on these settings hold for whatever comes, and for what waits already.
    pub fn reconfigure(&self, settings: RouterSettings) {
        for member in self.members.load().iter() {
            member.reconfigure(settings.breaker);
        }
        for (_, gate) in self.gates() {
            gate.reconfigure(settings.max_queued, settings.aging);
        }
        self.settings.store(Arc::new(settings));
    }

    /// A worker came. One that is here already stays as it is; one that had left is listed again.
    pub fn join(&self, name: String, worker: Arc<dyn Worker>) {
        self.join_all([(name, worker)]);
    }

    fn join_all(&self, workers: impl IntoIterator<Item = (String, Arc<dyn Worker>)>) {
        {
            let _changing = lock(&self.changing);
            let mut members = self.members.load_full().as_ref().clone();
            for (name, worker) in workers {
                if let Some(member) = members.iter().find(|member| member.name() == name) {
                    member.list(true);
                    continue;
                }
                let slot = self.next_slot.fetch_add(1, Ordering::Relaxed);
                let breaker = self.settings().breaker;
                members.push(Arc::new(Member::new(slot, name, worker, breaker)));
            }
            self.members.store(Arc::new(members));
        }
        self.roster.send_replace(());
    }

    /// A worker is in no directory any more: it gets nothing new, and keeps what runs on it.
    pub fn leave(&self, name: &str) {
        if let Some(member) = self.member(name) {
            member.list(false);
            self.roster.send_replace(());
            self.changed.send_replace(());
        }
    }

    /// Follows the state of every worker, those that come later too, until the handles are dropped.
    #[must_use = "dropping the handles stops following"]
    pub fn follow(self: &Arc<Self>) -> Vec<AbortOnDropHandle<()>> {
        let router = Arc::clone(self);
        let task = async move { router.follow_members().await };
        vec![AbortOnDropHandle::new(tokio::spawn(task))]
    }

    async fn follow_members(self: Arc<Self>) {
        let mut roster = self.roster.subscribe();
        let mut followed = HashMap::new();
        loop {
            roster.borrow_and_update();
            self.forget_the_left();
            let members = self.members.load_full();
            followed.retain(|slot, _| members.iter().any(|member| member.slot() == *slot));
            for member in members.iter() {
                followed.entry(member.slot()).or_insert_with(|| self.follow_one(member));
            }
            tokio::select! {
                _ = roster.changed() => {}
                () = tokio::time::sleep(FORGET_INTERVAL), if members.iter().any(|member| !member.is_listed()) => {}
            }
        }
    }

    fn follow_one(self: &Arc<Self>, member: &Arc<Member>) -> [AbortOnDropHandle<()>; 2] {
        let (router, follower) = (Arc::clone(self), Arc::clone(member));
        let states = async move {
            follower.follow(|learned| router.hear(&follower, learned)).await;
        };
        let (router, follower) = (Arc::clone(self), Arc::clone(member));
        let prefixes = async move { follower.follow_prefixes(&router.prefixes).await };
        [
            AbortOnDropHandle::new(tokio::spawn(states)),
            AbortOnDropHandle::new(tokio::spawn(prefixes)),
        ]
    }

    fn hear(&self, member: &Member, learned: Learned) {
        match learned {
            Learned::Figures => return,
            Learned::Room => {}
            Learned::Terms(given_up) => {
                self.rebuild_pools();
                self.unlist(&given_up);
                self.changed.send_replace(());
            }
        }
        let models = member.with_state(|state| state.models.clone()).unwrap_or_default();
        for info in models {
            let gate = lock(&self.gates).get(&info.digest).cloned();
            if let Some(gate) = gate {
                gate.open();
            }
        }
    }

    /// Models that a worker gave up are listed no longer, unless others serve them. One that vanishes gives nothing up.
    fn unlist(&self, given_up: &[ModelInfo]) {
        let members = self.members.load();
        for info in given_up {
            if members.iter().any(|member| member.is_listed() && member.still_serves(info)) {
                continue;
            }
            let mut seen = lock(&self.seen);
            if seen.get(&info.name).is_some_and(|served| served.info.is_same_version(info)) {
                seen.remove(&info.name);
            }
        }
    }

    /// Members that left and have nothing running any more.
    fn forget_the_left(&self) {
        let gone = |member: &Arc<Member>| !member.is_listed() && member.in_flight() == 0;
        {
            let _changing = lock(&self.changing);
            let members = self.members.load_full();
            if !members.iter().any(gone) {
                return;
            }
            for member in members.iter().filter(|member| gone(member)) {
                self.prefixes.forget(member.slot());
                tracing::info!(worker = %member.name(), "worker left");
            }
            let kept = members.iter().filter(|member| !gone(member)).cloned().collect();
            self.members.store(Arc::new(kept));
        }
        self.rebuild_pools();
        self.changed.send_replace(());
    }

    fn rebuild_pools(&self) {
        let _changing = lock(&self.changing);
        let mut pools: HashMap<ModelDigest, Vec<Arc<Member>>> = HashMap::new();
        for member in self.members.load().iter() {
            let models = member.with_state(|state| state.models.clone()).unwrap_or_default();
            for info in models {
                pools.entry(info.digest).or_default().push(Arc::clone(member));
            }
        }
        let pools = pools.into_iter().map(|(digest, members)| (digest, members.into()));
        self.pools.store(Arc::new(pools.collect()));
    }

    /// Those that serve this version.
    pub(crate) fn pool(&self, model: &ModelDigest) -> Option<Arc<[Arc<Member>]>> {
        self.pools.load().get(model).cloned()
    }

    /// Where requests for this version wait.
    pub(crate) fn gate(&self, model: &ModelDigest) -> Arc<Gate> {
        let mut gates = lock(&self.gates);
        let RouterSettings { max_queued: max, aging, .. } = **self.settings();
        Arc::clone(gates.entry(model.clone()).or_insert_with(|| Gate::new(max, aging)))
    }

    pub(crate) fn gates(&self) -> Vec<(ModelDigest, Arc<Gate>)> {
        lock(&self.gates).iter().map(|(model, gate)| (model.clone(), Arc::clone(gate))).collect()
    }

    pub(crate) fn members(&self) -> Arc<Vec<Arc<Member>>> {
        self.members.load_full()
    }

    fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.members.load().iter().find(|member| member.name() == name).cloned()
    }

    /// A number for the next choice.
    pub(crate) fn draw(&self) -> u64 {
        let number = self.draws.fetch_add(1, Ordering::Relaxed);
        crate::policy::mix(self.settings().seed ^ crate::policy::mix(number))
    }

    /// The largest context that a worker in the directory has for this version, or had when it could be reached last.
    pub(crate) fn widest_context(&self, model: &ModelDigest) -> Option<u32> {
        let members = self.members.load();
        let listed = members.iter().filter(|member| member.is_listed());
        listed.filter_map(|member| member.context_of(model)).max()
    }

    /// Every model that was served since the start and not given up, by name. Its context is the largest that a worker
    /// has for it.
    pub fn models(&self) -> Vec<Served> {
        let mut seen = lock(&self.seen);
        let members = self.members.load();
        let states: Vec<_> = members.iter().filter_map(|member| member.state()).collect();
        for served in states.iter().flat_map(served_by) {
            let known = seen.get_mut(&served.info.name);
            if let Some(known) = known.filter(|known| known.info.is_same_version(&served.info)) {
                known.price_per_hour = known.price_per_hour.max(served.price_per_hour);
            } else if seen.len() < MAX_MODELS || seen.contains_key(&served.info.name) {
                seen.insert(served.info.name.clone(), served);
            }
        }
        for Served { info, .. } in seen.values_mut() {
            info.context_length = self.widest_context(&info.digest).unwrap_or(info.context_length);
        }
        seen.values().cloned().collect()
    }

    /// Every worker's name and last known state; `None` while it cannot be reached.
    pub fn workers(&self) -> Vec<(String, Option<Arc<WorkerState>>)> {
        let members = self.members.load();
        members.iter().map(|member| (member.name().to_owned(), member.state())).collect()
    }

    /// The worker of this name.
    pub fn worker(&self, name: &str) -> Option<Arc<dyn Worker>> {
        self.member(name).map(|member| Arc::clone(member.worker()))
    }

    /// From now on the worker of this name costs this much. `None` if there is no such worker.
    pub async fn set_price(&self, name: &str, rent: Rent) -> Option<Result<(), WorkerError>> {
        Some(self.worker(name)?.set_price(rent).await)
    }

    /// From now on the worker of this name takes nothing new, and leaves within `leaves_in` if that is known. `None` if
    /// there is no such worker.
    pub async fn drain(
        &self,
        name: &str,
        leaves_in: Option<Duration>,
    ) -> Option<Result<(), WorkerError>> {
        Some(self.worker(name)?.drain(leaves_in).await)
    }

    /// Has the worker of this name serve one model more, and waits until it does. `None` if there is no such worker.
    pub async fn load(
        &self,
        name: &str,
        order: LoadOrder,
    ) -> Option<Result<ModelInfo, WorkerError>> {
        Some(proto::load_whole(self.worker(name)?.as_ref(), order, |_, _| {}).await)
    }

    /// Has the worker of this name serve a model to nobody new; how many sequences and orders go on, within `within` if
    /// that is given. `None` if there is no such worker.
    pub async fn unload(
        &self,
        name: &str,
        model: &ModelName,
        within: Option<Duration>,
    ) -> Option<Result<u32, WorkerError>> {
        Some(self.worker(name)?.unload(model, within).await)
    }

    /// Whether at least one worker can be given work.
    pub fn is_ready(&self) -> bool {
        let takes_work = |state: &WorkerState| state.takes_work() && !state.models.is_empty();
        let members = self.members.load();
        members.iter().any(|member| member.with_state(takes_work).unwrap_or(false))
    }

    /// Resolves when a worker came or went, or changed what it serves, at what price, or whether it takes work.
    pub async fn changed(&self) {
        // The sender lives as long as the router, so this only ends by a change.
        let _ = self.changed.subscribe().changed().await;
    }

    /// The tokenizer and template of a model, from any worker that serves it.
    pub async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        let mut last = WorkerError::ModelNotFound(model.clone());
        for member in self.members.load_full().iter() {
            if member.serves(model).is_none() {
                continue;
            }
            let files = member.worker().model_files(model);
            match tokio::time::timeout(FILES_LIMIT, files).await {
                Ok(Ok(files)) => return Ok(files),
                Ok(Err(error)) => last = error,
                Err(_) => last = WorkerError::Unreachable("it did not answer".to_owned()),
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
}

fn served_by(state: &Arc<WorkerState>) -> Vec<Served> {
    let price_per_hour = state.price_per_hour;
    state.models.iter().map(|info| Served { info: info.clone(), price_per_hour }).collect()
}

/// Every change under these locks is whole, so a poisoned one is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MAX_MODELS: usize = 1024;
/// How often it is looked whether those that left have nothing running any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(1);
/// A large tokenizer over a slow link.
const FILES_LIMIT: Duration = Duration::from_secs(30);
/// Copies of KV blocks at a time; others' are computed again.
const MAX_FETCHES: usize = 32;
