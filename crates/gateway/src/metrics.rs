//! What is counted about requests, in Prometheus's text form. Labels are bounded: endpoints,
//! outcomes, never tenants or models of a stranger's choosing.

pub(crate) mod fleet;

use std::time::Duration;

use admission::Receipt;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

/// The gateway's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    tokens: IntCounterVec,
    money: IntCounterVec,
    gpu: IntCounter,
    redone: IntCounter,
    wasted: Histogram,
    cache: IntCounterVec,
    duration: Histogram,
    first_token: Histogram,
    pub(crate) in_flight: IntGauge,
    pub(crate) open_holds: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let histogram = Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            requests: counters("tollgate_requests_total", "Requests by outcome.", "outcome")?,
            tokens: counters("tollgate_tokens_total", "Tokens metered, by kind.", "kind")?,
            money: counters("tollgate_nano_usd_total", "Nano-dollars, by account.", "account")?,
            gpu: counter("tollgate_gpu_nanoseconds_total", "GPU time of answered requests.")?,
            redone: counter(
                "tollgate_migration_gpu_nanoseconds_total",
                "GPU time spent on computing again what a lost worker had computed.",
            )?,
            wasted: histogram(
                "tollgate_wasted_gpu_seconds",
                "GPU time that a worker spent on an answer before it knew that the client had left, for each that did.",
            )?,
            cache: counters("tollgate_cache_total", "Look-ups in the response cache.", "result")?,
            duration: histogram("tollgate_request_seconds", "Time from head to last byte.")?,
            first_token: histogram(
                "tollgate_first_token_seconds",
                "Time from head to first token.",
            )?,
            in_flight: gauge("tollgate_requests_in_flight", "Requests being answered.")?,
            open_holds: gauge("tollgate_open_holds", "Holds on quota not settled yet.")?,
            registry,
        })
    }

    pub(crate) fn request(&self, outcome: &str, took: Duration) {
        self.requests.with_label_values(&[outcome]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    pub(crate) fn cache(&self, result: &str) {
        self.cache.with_label_values(&[result]).inc();
    }

    pub(crate) fn redone(&self, nanos: u64) {
        self.redone.inc_by(nanos);
    }

    pub(crate) fn wasted(&self, nanos: u64) {
        self.wasted.observe(Duration::from_nanos(nanos).as_secs_f64());
    }

    pub(crate) fn receipt(&self, receipt: &Receipt) {
        let entry = &receipt.entry;
        let tokens = |kind, count: u32| self.tokens.with_label_values(&[kind]).inc_by(count.into());
        tokens("prompt", entry.usage.prompt_tokens);
        tokens("cached", entry.usage.cached_tokens);
        tokens("completion", entry.usage.completion_tokens);
        let money = |account, amount: domain::NanoUsd| {
            self.money.with_label_values(&[account]).inc_by(amount.nanos().unsigned_abs());
        };
        money("charge", entry.charge.charge);
        money("cost", entry.charge.cost);
        money("platform.overrun", entry.overrun);
        self.gpu.inc_by(entry.usage.gpu.nanos());
    }

    /// Everything, in Prometheus's text form.
    pub(crate) fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory fails for no reason that a scrape could be told.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8(text).unwrap_or_default()
    }
}

const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
