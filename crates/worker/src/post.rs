//! What a worker is whatever it makes of a prompt: which life of its process, where, at what price, and how it leaves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{IncarnationId, ModelInfo, Rent, Stage};
use engine::EngineState;
use futures_util::{Stream, StreamExt, stream};
use proto::WorkerState;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::drain::{Drain, Leaving};

/// A worker's place in its fleet.
pub(crate) struct Post {
    incarnation: IncarnationId,
    rent: watch::Sender<Rent>,
    zone: String,
    pub(crate) drain: Arc<Drain>,
    drain_timeout: Duration,
    evacuating: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Post {
    /// A new life, at this price, on a machine that has not said where it is.
    pub(crate) fn new(rent: Rent) -> Self {
        Self {
            incarnation: IncarnationId::generate(),
            rent: watch::Sender::new(rent),
            zone: String::new(),
            drain: Drain::new(),
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            evacuating: Mutex::default(),
        }
    }

    /// The same on a machine in `zone`, which has `drain_timeout` for what it has when it is told to leave and not when.
    pub(crate) fn placed(self, zone: String, drain_timeout: Duration) -> Self {
        Self { zone, drain_timeout, ..self }
    }

    /// What it tells of itself, with the states and models of what computes there: now, and whenever that changes.
    pub(crate) fn states(
        &self,
        states: watch::Receiver<EngineState>,
        models: watch::Receiver<Arc<[ModelInfo]>>,
    ) -> impl Stream<Item = WorkerState> + Send + use<> {
        let watching = Watching {
            states,
            rents: self.rent.subscribe(),
            leaving: self.drain.watch(),
            zone: self.zone.clone(),
            models,
            incarnation: self.incarnation,
        };
        watching.states()
    }

    /// Leaves within `leaves_in`, or as long as it has for that. Whatever computes there is told by the caller.
    pub(crate) fn leave(&self, leaves_in: Option<Duration>) {
        tracing::info!(leaves_in = ?leaves_in, "draining");
        self.drain.leave(leaves_in, self.drain_timeout);
        let mut evacuating = self.evacuating.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || AbortOnDropHandle::new(tokio::spawn(Arc::clone(&self.drain).evacuate()));
        evacuating.get_or_insert_with(begin);
    }

    /// Costs this much from now on.
    pub(crate) fn set_price(&self, rent: Rent) {
        tracing::info!(
            price_per_hour_usd = %rent.per_hour(),
            capacity = rent.capacity().name(),
            "price changed"
        );
        self.rent.send_replace(rent);
    }

    /// Resolves when it takes nothing new.
    pub(crate) async fn draining(&self) {
        // The sender is this worker's, so waiting cannot fail.
        let _ = self.drain.watch().wait_for(|leaving| leaving.stage > Stage::Serving).await;
    }
}

/// What a watcher is told of.
struct Watching {
    states: watch::Receiver<EngineState>,
    rents: watch::Receiver<Rent>,
    leaving: watch::Receiver<Leaving>,
    zone: String,
    models: watch::Receiver<Arc<[ModelInfo]>>,
    incarnation: IncarnationId,
}

impl Watching {
    /// The state now, and again whenever it changes.
    fn states(mut self) -> impl Stream<Item = WorkerState> + Send {
        let first = stream::iter([self.described()]);
        let changes = stream::unfold(self, |mut watching| async move {
            watching.changed().await?;
            Some((watching.described(), watching))
        });
        first.chain(changes)
    }

    /// Waits for a change; `None` once the engine is gone.
    async fn changed(&mut self) -> Option<()> {
        let changed = tokio::select! {
            changed = self.states.changed() => changed,
            changed = self.rents.changed() => changed,
            changed = self.leaving.changed() => changed,
            changed = self.models.changed() => changed,
        };
        changed.ok()
    }

    fn described(&mut self) -> WorkerState {
        let (state, rent) = (*self.states.borrow_and_update(), *self.rents.borrow_and_update());
        let leaving = *self.leaving.borrow_and_update();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        WorkerState {
            incarnation: self.incarnation,
            models: self.models.borrow_and_update().to_vec(),
            free_blocks: state.free_blocks,
            total_blocks: state.total_blocks,
            running: state.running,
            waiting: state.waiting,
            stage: leaving.stage,
            leaves_in: leaving.leaves_at.map(left),
            at_risk: leaving.at_risk,
            zone: self.zone.clone(),
            block_tokens: state.block_tokens,
            block_bytes: state.block_bytes,
            running_tokens: state.running_tokens,
            waiting_tokens: state.waiting_tokens,
            first_token_in: state.first_token_in(),
            prompt_token_time: state.prompt_token_time,
            step_time: state.step_time,
            price_per_hour: rent.per_hour(),
            capacity: rent.capacity(),
            accounts: state.accounts,
            attribution_error_ppm: state.attribution_error_ppm,
            drafted_tokens: state.drafted_tokens,
            accepted_tokens: state.accepted_tokens,
        }
    }
}

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
