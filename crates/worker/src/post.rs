//! What a worker is whatever it makes of a prompt: which life of its process, where, at what price, and how it leaves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::{IncarnationId, Rent, Stage};
use futures_util::Stream;
use proto::WorkerState;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::drain::Drain;
use crate::stock::Stock;
use crate::watching::Watching;

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

    /// What it tells of itself and of the engines of `stock`: now, and whenever that changes.
    pub(crate) fn states(&self, stock: &Stock) -> impl Stream<Item = WorkerState> + Send + use<> {
        let watching = Watching {
            roster: stock.watch(),
            shifts: stock.shifts.clone(),
            rents: self.rent.subscribe(),
            leaving: self.drain.watch(),
            zone: self.zone.clone(),
            incarnation: self.incarnation,
            engines: Vec::new(),
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

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
