//! One worker as the router sees it: what it last pushed, what we have running on it, and how it did lately.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use domain::{IncarnationId, ModelDigest, ModelInfo, NanoUsd, Stage};
use futures_util::StreamExt;
use proto::{Worker, WorkerError, WorkerState};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::breaker::{Breaker, BreakerSettings, BreakerState};
use crate::latest::{Follower, Latest};
use crate::prefixes::Prefixes;

/// A worker and what is known of it.
pub(crate) struct Member {
    /// Its number here; no other member ever has it.
    slot: u32,
    /// Its name as a number: the same on every gateway.
    key: u64,
    name: String,
    worker: Arc<dyn Worker>,
    /// `None` while the worker cannot be reached.
    state: ArcSwapOption<WorkerState>,
    stage: Latest<Leaving>,
    /// It is in the directory.
    listed: AtomicBool,
    in_flight: AtomicU32,
    /// Sequences that chose it for later.
    promised: AtomicU32,
    /// Prompt tokens sent since it last pushed its state.
    unseen_tokens: AtomicU64,
    health: Mutex<Health>,
    /// Somebody lost a sequence there.
    doubted: Notify,
}

/// How far a worker is on its way out, as its sequences need to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) stage: Stage,
    pub(crate) at: Option<Instant>,
}

struct Health {
    breaker: Breaker,
    /// When it came, or came back.
    since: Option<Instant>,
    /// When its accounts last showed that it had computed something.
    worked: Option<Instant>,
    /// It said that it has no room for a model before this.
    full: Vec<(ModelDigest, Instant)>,
    /// What it served when it last said so, in which life of its process.
    served: (IncarnationId, Vec<ModelInfo>),
}

/// What a change of a member's state means to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Learned {
    /// Nothing: its figures moved.
    Figures,
    /// It was full, and seems to have room.
    Room,
    /// Which models it serves, at what price, or whether it takes work at all. It says itself that it gave these up.
    Terms(Vec<ModelInfo>),
}

impl Member {
    pub(crate) fn new(
        slot: u32,
        name: String,
        worker: Arc<dyn Worker>,
        breaker: BreakerSettings,
    ) -> Self {
        let breaker = Breaker::new(breaker, Instant::now());
        Self {
            slot,
            key: hash(&name),
            name,
            worker,
            state: ArcSwapOption::empty(),
            stage: Latest::default(),
            listed: AtomicBool::new(true),
            in_flight: AtomicU32::new(0),
            doubted: Notify::new(),
            promised: AtomicU32::new(0),
            unseen_tokens: AtomicU64::new(0),
            health: Mutex::new(Health {
                breaker,
                since: None,
                worked: None,
                full: Vec::new(),
                served: (IncarnationId::from_u128(0), Vec::new()),
            }),
        }
    }

    pub(crate) const fn slot(&self) -> u32 {
        self.slot
    }

    pub(crate) const fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn worker(&self) -> &Arc<dyn Worker> {
        &self.worker
    }

    /// What it last pushed; `None` while it cannot be reached.
    pub(crate) fn state(&self) -> Option<Arc<WorkerState>> {
        self.state.load_full()
    }

    /// Looks at what it last pushed, without taking part in its ownership.
    pub(crate) fn with_state<T>(&self, read: impl FnOnce(&WorkerState) -> T) -> Option<T> {
        self.state.load().as_deref().map(read)
    }

    /// How far it is on its way out, now and whenever that changes.
    pub(crate) fn leaving(&self) -> Follower<Leaving> {
        self.stage.follow()
    }

    /// Whether it is on its way out.
    pub(crate) fn leaves(&self) -> bool {
        self.stage.value().stage != Stage::Serving
    }

    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::SeqCst)
    }

    /// Whether the directory has it. One it has not keeps its sequences and gets no more.
    pub(crate) fn list(&self, listed: bool) {
        self.listed.store(listed, Ordering::SeqCst);
    }

    /// Sequences of ours that run on it, or will soon.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst) + self.promised.load(Ordering::SeqCst)
    }

    /// Counts a sequence that is to go on here later, until the guard is dropped.
    pub(crate) fn promise(self: &Arc<Self>) -> Promise {
        self.promised.fetch_add(1, Ordering::SeqCst);
        Promise(Arc::clone(self))
    }

    pub(crate) fn unseen_tokens(&self) -> u64 {
        self.unseen_tokens.load(Ordering::Relaxed)
    }

    /// What it serves of this version.
    pub(crate) fn serves(&self, model: &ModelDigest) -> Option<ModelInfo> {
        self.with_state(|state| state.models.iter().find(|info| info.digest == *model).cloned())?
    }

    /// The context that it has for this version, or had when it could be reached last.
    pub(crate) fn context_of(&self, model: &ModelDigest) -> Option<u32> {
        let health = self.health();
        let served = health.served.1.iter().find(|info| info.digest == *model);
        served.map(|info| info.context_length)
    }

    /// What an hour of it costs, and which life of its process this is, if it can be reached.
    pub(crate) fn price_and_incarnation(&self) -> (NanoUsd, String) {
        let known = self.with_state(|state| (state.price_per_hour, state.incarnation.to_string()));
        known.unwrap_or_default()
    }

    /// When its accounts last showed that it had computed something.
    pub(crate) fn worked(&self) -> Option<Instant> {
        self.health().worked
    }

    /// Whether it may be given a sequence of this model now, as far as its health goes; if so, how much of its
    /// share it should get: less than 1 while it is new.
    pub(crate) fn readiness(
        &self,
        model: &ModelDigest,
        now: Instant,
        slow_start: Duration,
    ) -> Option<f64> {
        let health = self.health();
        if !health.breaker.admits(now) || health.is_full(model, now) {
            return None;
        }
        let age = now.saturating_duration_since(health.since?);
        if age >= slow_start {
            return Some(1.0);
        }
        Some((age.as_secs_f64() / slow_start.as_secs_f64()).max(SMALLEST_SHARE))
    }

    /// Whether it said that it has no room for this model now.
    pub(crate) fn is_full(&self, model: &ModelDigest, now: Instant) -> bool {
        self.health().is_full(model, now)
    }

    /// Whether it serves this version under this name, or did when it could be reached last.
    pub(crate) fn still_serves(&self, info: &ModelInfo) -> bool {
        self.health().served.1.iter().any(|served| served.is_same_version(info))
    }

    /// From now on its breaker keeps to these settings.
    pub(crate) fn reconfigure(&self, breaker: BreakerSettings) {
        self.health().breaker.reconfigure(breaker);
    }

    pub(crate) fn breaker(&self, now: Instant) -> BreakerState {
        self.health().breaker.state(now)
    }

    /// Counts a sequence on this worker until the guard is dropped, after the last byte. `None` if it may not be
    /// sent: another one is the probe already.
    pub(crate) fn occupy(self: &Arc<Self>, tokens: u64, now: Instant) -> Option<InFlight> {
        if !self.health().breaker.take(now) {
            return None;
        }
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.unseen_tokens.fetch_add(tokens, Ordering::Relaxed);
        Some(InFlight { member: Arc::clone(self), judged: false })
    }

    /// A sequence ended on it: it may have room again.
    pub(crate) fn has_room(&self) {
        self.health().full.clear();
    }

    /// It said that it has no room for this model for a while.
    pub(crate) fn fill_up(&self, model: &ModelDigest, until: Instant) {
        let full = &mut self.health().full;
        full.retain(|(other, _)| other != model);
        full.push((model.clone(), until));
    }

    /// Takes it out of routing until it was asked for its state again: whoever ran a sequence there lost it.
    pub(crate) fn lose(&self, error: &WorkerError) {
        if self.forget(error) {
            // Its states may come on a connection that works, and an idle worker has nothing to push.
            self.doubted.notify_one();
        }
    }

    /// Takes it out of routing until it pushes a state; whether it was in.
    fn forget(&self, error: &WorkerError) -> bool {
        let known = self.state.swap(None).is_some();
        if known {
            let mut health = self.health();
            (health.since, health.worked) = (None, None);
            drop(health);
            tracing::warn!(worker = %self.name, error = %error, "worker lost");
        }
        known
    }

    /// Follows the worker's state for ever, reconnecting as often as it takes.
    pub(crate) async fn follow(&self, learned: impl Fn(Learned)) {
        // A worker that was never reached is reported once for each reason, not five times a second.
        let mut reported = None;
        loop {
            let lost = match self.worker.watch().await {
                Ok(mut states) => {
                    reported = None;
                    loop {
                        let state = tokio::select! {
                            state = states.next() => state,
                            () = self.doubted.notified() => break,
                        };
                        let Some(state) = state else { break };
                        learned(self.learn(state));
                    }
                    WorkerError::Unreachable("it stopped pushing its state".to_owned())
                }
                Err(error) => error,
            };
            let known = self.forget(&lost);
            if !known && reported.as_ref() != Some(&lost) {
                tracing::warn!(worker = %self.name, error = %lost, "worker not reached");
            }
            reported = Some(lost);
            learned(Learned::Terms(Vec::new()));
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Follows what its cache holds for ever.
    pub(crate) async fn follow_prefixes(&self, prefixes: &Prefixes) {
        loop {
            if let Ok(mut changes) = self.worker.prefixes().await {
                while let Some(change) = changes.next().await {
                    prefixes.learn(self.slot, &change);
                }
            }
            prefixes.forget(self.slot);
            tokio::time::sleep(PREFIX_PAUSE).await;
        }
    }

    pub(crate) fn learn(&self, state: WorkerState) -> Learned {
        let now = Instant::now();
        let leaving =
            Leaving { stage: state.stage, at: state.leaves_in.map(|leaves_in| now + leaves_in) };
        self.unseen_tokens.store(0, Ordering::Relaxed);
        // What it says now is newer than that it was full, if it says that it has room.
        let (had_none, given_up) = {
            let mut health = self.health();
            health.since.get_or_insert(now);
            let before = health.full.len();
            health.full.retain(|(model, _)| {
                let load = state.load_of(model);
                load.waiting > 0 || load.free_blocks == 0
            });
            (health.full.len() < before, health.note(&state))
        };
        let state = Arc::new(state);
        let known = self.state.swap(Some(Arc::clone(&state)));
        let computed = |state: &WorkerState| state.accounts.requests;
        if known.as_ref().is_some_and(|known| computed(&state) > computed(known)) {
            self.health().worked = Some(now);
        }
        // The moment moves a little with every push; only a stage or a new deadline is news.
        self.stage.set(leaving, |known| {
            known.stage != leaving.stage || known.at.is_some() != leaving.at.is_some()
        });
        let terms = |state: &WorkerState| (state.price_per_hour, state.stage);
        match known {
            None => {
                tracing::info!(worker = %self.name, models = state.models.len(), "worker found");
                Learned::Terms(given_up)
            }
            Some(known) if terms(&known) != terms(&state) || known.models != state.models => {
                Learned::Terms(given_up)
            }
            Some(_) if had_none => Learned::Room,
            Some(_) => Learned::Figures,
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn is_full(&self, model: &ModelDigest, now: Instant) -> bool {
        self.full.iter().any(|(full, until)| full == model && now < *until)
    }

    /// Notes what it serves; which models the same life of its process served before and no longer does.
    fn note(&mut self, state: &WorkerState) -> Vec<ModelInfo> {
        let served = (state.incarnation, state.models.clone());
        let before = std::mem::replace(&mut self.served, served);
        if before.0 != state.incarnation {
            return Vec::new();
        }
        let is_kept =
            |info: &ModelInfo| state.models.iter().any(|served| served.is_same_version(info));
        before.1.into_iter().filter(|info| !is_kept(info)).collect()
    }
}

/// A sequence on a worker, as the router counts it. Dropping it counts it out; what was not judged before speaks
/// neither for nor against the worker.
pub(crate) struct InFlight {
    member: Arc<Member>,
    judged: bool,
}

impl InFlight {
    /// The worker did well.
    pub(crate) fn succeed(&mut self) {
        if !std::mem::replace(&mut self.judged, true) {
            self.member.health().breaker.succeed(Instant::now());
        }
    }

    /// The worker failed.
    pub(crate) fn fail(&mut self, why: &WorkerError) {
        if !std::mem::replace(&mut self.judged, true)
            && self.member.health().breaker.fail(Instant::now())
        {
            tracing::warn!(worker = %self.member.name, error = %why, "worker is left alone for a while");
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.member.in_flight.fetch_sub(1, Ordering::SeqCst);
        let mut health = self.member.health();
        if !self.judged {
            health.breaker.pass();
        }
    }
}

/// A sequence that will go on here. Dropping it takes the promise back.
pub(crate) struct Promise(Arc<Member>);

impl Promise {
    pub(crate) const fn member(&self) -> &Arc<Member> {
        &self.0
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.promised.fetch_sub(1, Ordering::SeqCst);
    }
}

/// FNV-1a: the same in every process and release.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
const PREFIX_PAUSE: Duration = Duration::from_secs(1);
/// What a worker that has just come gets of its share.
const SMALLEST_SHARE: f64 = 0.1;
