//! One worker as the router sees it: what it last pushed, and what we have running on it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::{ModelDigest, NanoUsd};
use futures_util::StreamExt;
use proto::{Worker, WorkerError, WorkerState};
use tokio::sync::watch;

/// A worker and what is known of it.
pub(crate) struct Member {
    name: String,
    worker: Arc<dyn Worker>,
    /// `None` while the worker cannot be reached.
    state: RwLock<Option<Arc<WorkerState>>>,
    in_flight: AtomicU32,
}

impl Member {
    pub(crate) fn new(name: String, worker: Arc<dyn Worker>) -> Self {
        Self { name, worker, state: RwLock::new(None), in_flight: AtomicU32::new(0) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn worker(&self) -> &dyn Worker {
        self.worker.as_ref()
    }

    /// What it last pushed; `None` while it cannot be reached.
    pub(crate) fn state(&self) -> Option<Arc<WorkerState>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How busy it is, if it may be given a sequence of `model`.
    ///
    /// Our own count is exact and immediate, the pushed one includes other gateways: the larger
    /// one is nearer to the truth.
    pub(crate) fn load(&self, model: &ModelDigest) -> Option<u32> {
        let state = self.state()?;
        let serves = state.models.iter().any(|info| info.digest == *model);
        let pushed = state.running.saturating_add(state.waiting);
        let own = self.in_flight.load(Ordering::SeqCst);
        (serves && state.takes_work()).then(|| pushed.max(own))
    }

    /// What an hour of it costs, and which life of its process this is, if it can be reached.
    pub(crate) fn price_and_incarnation(&self) -> (NanoUsd, String) {
        let known = self.state();
        known.map(|state| (state.price_per_hour, state.incarnation.to_string())).unwrap_or_default()
    }

    /// Counts a sequence on this worker until the guard is dropped, after the last byte.
    pub(crate) fn occupy(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(Arc::clone(self))
    }

    /// Takes it out of routing until it pushes a state again; whether it was in.
    pub(crate) fn lose(&self, error: &WorkerError) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let known = state.take().is_some();
        if known {
            tracing::warn!(worker = %self.name, error = %error, "worker lost");
        }
        known
    }

    /// Follows the worker's state for ever, reconnecting as often as it takes.
    pub(crate) async fn follow(&self, changed: &watch::Sender<()>) {
        // A worker that was never reached is reported once for each reason, not five times a second.
        let mut reported = None;
        loop {
            let lost = match self.worker.watch().await {
                Ok(mut states) => {
                    reported = None;
                    while let Some(state) = states.next().await {
                        self.learn(state);
                        changed.send_replace(());
                    }
                    WorkerError::Unreachable("it stopped pushing its state".to_owned())
                }
                Err(error) => error,
            };
            let known = self.lose(&lost);
            if !known && reported.as_ref() != Some(&lost) {
                tracing::warn!(worker = %self.name, error = %lost, "worker not reached");
            }
            reported = Some(lost);
            changed.send_replace(());
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    fn learn(&self, state: WorkerState) {
        let mut known = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            tracing::info!(worker = %self.name, models = state.models.len(), "worker found");
        }
        *known = Some(Arc::new(state));
    }
}

/// A sequence on a worker, as the router counts it.
pub(crate) struct InFlight(Arc<Member>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
