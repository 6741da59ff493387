//! The engines of a worker: which there are, which of them are offered, and how one that is not goes.
//!
//! Promise: nobody begins on an engine that is no longer offered, and an engine ends only when the last call on it is over,
//! written-off time included; so the books know of everything that was done. Whoever begins is counted before the engine can
//! be withdrawn.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::{ModelDigest, ModelInfo, ModelName};
use engine::Shifts;
use proto::{NotLoaded, WorkerError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::drain::Drain;
use crate::served::Served;

/// All engines of a worker, in the order in which they came.
pub(crate) type Roster = Arc<[Entry]>;

/// An engine, and whether it takes anything new.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) served: Arc<Served>,
    pub(crate) offered: bool,
}

/// The engines of a worker.
#[derive(Default)]
pub(crate) struct Stock {
    roster: watch::Sender<Roster>,
    /// What they did, and whose turn it is.
    pub(crate) shifts: Shifts,
    /// Names of what is being loaded.
    taken: Mutex<BTreeSet<ModelName>>,
    leaving: Mutex<JoinSet<()>>,
}

/// A name that nothing else is loaded under meanwhile. Dropping it gives the name up.
pub(crate) struct Reserved {
    stock: Arc<Stock>,
    name: ModelName,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        lock(&self.stock.taken).remove(&self.name);
    }
}

impl Stock {
    /// The engines, now and whenever that changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Roster> {
        self.roster.subscribe()
    }

    /// The engines there are now.
    pub(crate) fn all(&self) -> Roster {
        Arc::clone(&self.roster.borrow())
    }

    /// The engine that serves this version, and a count of whoever begins on it.
    pub(crate) fn find(
        &self,
        model: &ModelDigest,
    ) -> Result<(Arc<Served>, TaskTrackerToken), WorkerError> {
        let roster = self.roster.borrow();
        let offered = roster.iter().filter(|entry| entry.offered);
        let served = offered.map(|entry| &entry.served).find(|served| served.serves(model));
        let served = served.ok_or_else(|| WorkerError::ModelNotFound(model.clone()))?;
        Ok((Arc::clone(served), served.calls.token()))
    }

    /// The engine that has this version, even if nobody new may begin on it.
    pub(crate) fn find_kept(&self, model: &ModelDigest) -> Result<Arc<Served>, WorkerError> {
        let roster = self.roster.borrow();
        let mut all = roster.iter().filter(|entry| entry.offered).chain(roster.iter());
        let found = all.find(|entry| entry.served.serves(model));
        let found = found.ok_or_else(|| WorkerError::ModelNotFound(model.clone()))?;
        Ok(Arc::clone(&found.served))
    }

    /// What is offered under this name, and by which engine.
    pub(crate) fn called(&self, name: &ModelName) -> Option<(Arc<Served>, ModelInfo)> {
        let roster = self.roster.borrow();
        let mut offered = roster.iter().filter(|entry| entry.offered);
        offered.find_map(|entry| Some((Arc::clone(&entry.served), entry.served.called(name)?)))
    }

    /// Keeps a name for what is to be loaded.
    pub(crate) fn reserve(self: &Arc<Self>, name: &ModelName) -> Result<Reserved, WorkerError> {
        if name.as_str().trim().is_empty() {
            return Err(
                NotLoaded::NameTaken.because("a model without a name cannot be asked for; name it")
            );
        }
        let mut taken = lock(&self.taken);
        if self.called(name).is_some() || !taken.insert(name.clone()) {
            let message = format!(
                "something is called `{name}` already; unload it first, or choose another name"
            );
            return Err(NotLoaded::NameTaken.because(message));
        }
        Ok(Reserved { stock: Arc::clone(self), name: name.clone() })
    }

    /// Refuses a version that is offered by another name: nobody could tell the two apart.
    pub(crate) fn check_new(&self, info: &ModelInfo) -> Result<(), WorkerError> {
        let all = self.all();
        let offered = all.iter().filter(|entry| entry.offered);
        for known in offered.flat_map(|entry| entry.served.models().borrow().to_vec()) {
            if known.digest == info.digest && known.name != info.name {
                let message = format!("the same model is served as `{}` already", known.name);
                return Err(NotLoaded::NameTaken.because(message));
            }
        }
        Ok(())
    }

    /// Offers an engine.
    pub(crate) fn offer(&self, served: Served) {
        let entry = Entry { served: Arc::new(served), offered: true };
        self.roster.send_modify(|roster| {
            *roster = roster.iter().cloned().chain([entry]).collect();
        });
    }

    /// Bytes of KV caches that no block was written to yet.
    pub(crate) fn promised(&self) -> u64 {
        let unwritten = |entry: &Entry| {
            let state = *entry.served.states().borrow();
            let blocks = state.total_blocks.saturating_sub(state.cached_blocks);
            u64::from(blocks) * state.block_bytes
        };
        self.all().iter().map(unwritten).sum()
    }

    /// Takes nothing new on any engine.
    pub(crate) fn drain(&self) {
        self.all().iter().for_each(|entry| entry.served.drain());
    }

    /// Ends every engine at once.
    pub(crate) fn shut_down(&self) {
        self.all().iter().for_each(|entry| entry.served.shut_down());
    }

    /// Offers what goes by this name to nobody new from now on, and lets it go when the last call on it is over; what is
    /// left after `within` is handed over. Returns how many calls go on. Must be called inside a tokio runtime.
    pub(crate) fn withdraw(
        self: &Arc<Self>,
        name: &ModelName,
        within: Option<Duration>,
        drain: &Arc<Drain>,
    ) -> Result<u32, WorkerError> {
        let Some((served, info)) = self.called(name) else {
            let message =
                format!("no model is called `{name}`; the worker's state lists what it serves");
            return Err(NotLoaded::NoSuchModel.because(message));
        };
        let is_adapter = served.info().digest != info.digest;
        let models: Vec<ModelDigest> = if is_adapter {
            vec![info.digest]
        } else {
            served.models().borrow().iter().map(|info| info.digest.clone()).collect()
        };
        let running = drain.count(&models);
        tracing::info!(model = %name, running, within = ?within, "model unloads");
        let going = Going { stock: Arc::clone(self), served, models, drain: Arc::clone(drain) };
        if is_adapter {
            if let Some(engine) = going.served.engine() {
                engine.unload_adapter(name);
            }
            self.keep(going.send_off(within));
            return Ok(running);
        }
        self.roster.send_modify(|roster| {
            let withdrawn = |entry: &Entry| {
                let same = Arc::ptr_eq(&entry.served, &going.served);
                Entry { offered: entry.offered && !same, served: Arc::clone(&entry.served) }
            };
            *roster = roster.iter().map(withdrawn).collect();
        });
        self.keep(going.end(within));
        Ok(running)
    }

    /// Runs `task` to its end.
    fn keep(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut leaving = lock(&self.leaving);
        while leaving.try_join_next().is_some() {}
        leaving.spawn(task);
    }

    fn forget(&self, served: &Arc<Served>) {
        self.roster.send_modify(|roster| {
            let others = roster.iter().filter(|entry| !Arc::ptr_eq(&entry.served, served));
            *roster = others.cloned().collect();
        });
    }
}

/// Models that nobody new may begin on.
struct Going {
    stock: Arc<Stock>,
    served: Arc<Served>,
    models: Vec<ModelDigest>,
    drain: Arc<Drain>,
}

impl Going {
    /// Hands over what has not ended after `within`.
    async fn send_off(self, within: Option<Duration>) {
        let Some(within) = within else { return };
        tokio::time::sleep(within).await;
        while self.drain.count(&self.models) > 0 {
            self.drain.send_off(&self.models);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits for the last call, and gives the memory back.
    async fn end(self, within: Option<Duration>) {
        self.served.calls.close();
        let (served, stock) = (Arc::clone(&self.served), Arc::clone(&self.stock));
        let sends_off = within.is_some();
        tokio::select! {
            () = served.calls.wait() => {}
            () = async { self.send_off(within).await; std::future::pending().await }, if sends_off => {}
        }
        let name = served.info().name.clone();
        let ending = Arc::clone(&served);
        // It waits for the engine's thread, which frees what it has.
        let ended = tokio::task::spawn_blocking(move || ending.shut_down()).await;
        stock.forget(&served);
        tracing::info!(model = %name, clean = ended.is_ok(), "model unloaded, its memory is free");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often whoever came in at the last moment is told to go.
const AGAIN: Duration = Duration::from_millis(50);
