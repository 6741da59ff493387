//! What one gateway is made of, and how much runs in it at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use admission::Admission;
use arc_swap::ArcSwap;
use cache::Cache;
use domain::{Clock, Timestamp};
use prometheus::IntGauge;
use routing::Router;

use crate::catalog::Catalog;
use crate::failure::Failure;
use crate::metrics::Metrics;

/// The parts that answer requests.
pub(crate) struct Gateway {
    parts: Parts,
    /// Requests that hold a place.
    placed: AtomicUsize,
    /// Whether balancers are to send their requests elsewhere.
    leaving: AtomicBool,
}

/// What a [`Gateway`] is made of.
pub(crate) struct Parts {
    pub(crate) admission: Admission,
    pub(crate) catalog: Catalog,
    pub(crate) router: Arc<Router>,
    pub(crate) cache: Option<Cache>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    /// The bounds that hold now.
    pub(crate) settings: ArcSwap<FlowSettings>,
}

/// Bounds on one request and on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowSettings {
    pub(crate) max_head_bytes: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_requests: usize,
    pub(crate) request_timeout: Duration,
}

impl Gateway {
    pub(crate) fn new(parts: Parts) -> Self {
        let (placed, leaving) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { parts, placed, leaving }
    }

    pub(crate) const fn admission(&self) -> &Admission {
        &self.parts.admission
    }

    pub(crate) const fn catalog(&self) -> &Catalog {
        &self.parts.catalog
    }

    pub(crate) const fn router(&self) -> &Arc<Router> {
        &self.parts.router
    }

    pub(crate) const fn cache(&self) -> Option<&Cache> {
        self.parts.cache.as_ref()
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.parts.metrics
    }

    /// The bounds that hold now.
    pub(crate) fn settings(&self) -> FlowSettings {
        **self.parts.settings.load()
    }

    /// From now on these bounds hold for whatever comes.
    pub(crate) fn bound_by(&self, settings: FlowSettings) {
        self.parts.settings.store(Arc::new(settings));
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// A place among the requests that may run here at a time; it is free again when dropped.
    pub(crate) fn place(&self) -> Result<Place<'_>, Failure> {
        let most = self.settings().max_requests;
        let before = self.placed.fetch_add(1, Ordering::SeqCst);
        let place = Place(&self.placed);
        if before < most { Ok(place) } else { Err(Failure::crowded()) }
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn count_in_flight(&self) -> InFlight {
        InFlight::new(self.metrics().in_flight.clone())
    }

    /// Requests being answered now.
    pub(crate) fn in_flight(&self) -> i64 {
        self.metrics().in_flight.get()
    }

    /// Whether a request sent now would find a model; if not, why.
    pub(crate) fn readiness(&self) -> Result<(), &'static str> {
        if self.leaving.load(Ordering::SeqCst) {
            return Err("it is shutting down");
        }
        if self.catalog().is_ready() { Ok(()) } else { Err("no worker serves a model yet") }
    }

    /// From now on it is not ready, so that balancers look elsewhere; it still answers.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }
}

/// A request's place. Dropping it makes it free.
pub(crate) struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request being answered. Dropping it counts it out.
pub(crate) struct InFlight(IntGauge);

impl InFlight {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
