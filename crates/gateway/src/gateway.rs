//! What one gateway is made of, and how much runs in it at a time.

use std::sync::Arc;
use std::time::Duration;

use admission::Admission;
use cache::Cache;
use domain::{Clock, Timestamp};
use prometheus::IntGauge;
use routing::Router;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::catalog::Catalog;
use crate::failure::Failure;
use crate::metrics::Metrics;

/// The parts that answer requests.
pub(crate) struct Gateway {
    parts: Parts,
    places: Semaphore,
}

/// What a [`Gateway`] is made of.
pub(crate) struct Parts {
    pub(crate) admission: Admission,
    pub(crate) catalog: Catalog,
    pub(crate) router: Arc<Router>,
    pub(crate) cache: Option<Cache>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: FlowSettings,
}

/// Bounds on one request and on all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowSettings {
    pub(crate) max_head_bytes: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_requests: usize,
    pub(crate) request_timeout: Duration,
}

impl Gateway {
    pub(crate) fn new(parts: Parts) -> Self {
        let places = Semaphore::new(parts.settings.max_requests);
        Self { parts, places }
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

    pub(crate) const fn settings(&self) -> &FlowSettings {
        &self.parts.settings
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// A place among the requests that may run here at a time; it is free again when dropped.
    pub(crate) fn place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.places.try_acquire().map_err(|_| Failure::crowded())
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
        if self.catalog().is_ready() { Ok(()) } else { Err("no worker serves a model yet") }
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
