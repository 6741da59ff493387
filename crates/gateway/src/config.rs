//! The gateway's configuration: what was written, then what it means.
//!
//! Unknown keys are errors, every default is here, and every problem is reported at once.

mod fleet;
mod issuers;
mod link;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use admission::SliceSettings;
use admission::bearer::Issuer;
use domain::{ModelName, NanoUsd, Price, PricePerMillion, Problems, Secret};
use proto::IdentityFiles;
use serde::Deserialize;
use store::{MemoryCacheSettings, StoreSettings};

use crate::gateway::FlowSettings;
pub use fleet::{DirectorySettings, Shares};
use fleet::{RawDirectory, RawRouting, RawTenant};
use issuers::RawIssuer;
use link::RawWorkerTls;
pub use link::WorkerTls;

/// The gateway's configuration as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGateway {
    /// Where clients connect.
    #[serde(default = "default_listen")]
    listen: SocketAddr,
    /// Where administrators connect.
    #[serde(default = "default_admin_listen")]
    admin_listen: SocketAddr,
    /// Directory of the ledger's journal, and of database and pepper if they are not elsewhere. One gateway each.
    data: PathBuf,
    /// A database that gateways share, `postgres://...`; absent means SQLite in `data`.
    database: Option<Secret<String>>,
    /// A Redis that gateways share; absent means memory.
    redis: Option<Secret<String>>,
    /// What keys are hashed with: the same file for all gateways.
    pepper_file: Option<PathBuf>,
    /// How many gateways share quotas: each has one part in so many of a rate while Redis is silent.
    #[serde(default = "default_gateways")]
    gateways: NonZero<u32>,
    /// Identity providers whose tokens are believed.
    #[serde(default)]
    issuers: Vec<RawIssuer>,
    /// Serve other machines without TLS.
    #[serde(default)]
    allow_plaintext: bool,
    /// Certificate and key; absent means plain HTTP.
    tls: Option<RawTls>,
    /// Workers to route to.
    workers: Vec<RawWorker>,
    /// Where workers are found beside those.
    #[serde(default)]
    directory: RawDirectory,
    /// Who runs what.
    #[serde(default)]
    routing: RawRouting,
    /// Projects that are not as everybody else.
    #[serde(default)]
    tenants: Vec<RawTenant>,
    /// File that holds the token shown to workers.
    worker_token_file: Option<PathBuf>,
    /// How workers are known, and what is shown to them; absent means no TLS.
    worker_tls: Option<RawWorkerTls>,
    /// Token prices; a model without one costs GPU time.
    #[serde(default)]
    prices: Vec<RawPrice>,
    /// What GPU time costs a tenant, in percent of what it costs us.
    #[serde(default = "default_markup")]
    gpu_time_markup_percent: u32,
    /// The response cache.
    #[serde(default)]
    cache: RawCache,
    /// Bounds.
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorker {
    /// `http://host:port`, or `https://host:port` with `worker_tls`.
    address: String,
}

/// The token price of one model, as written: dollars per million tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPrice {
    /// The model.
    pub model: String,
    /// Per million prompt tokens.
    pub input: String,
    /// Per million prompt tokens from a cache; the input price if absent.
    pub cached_input: Option<String>,
    /// Per million tokens delivered.
    pub output: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCache {
    /// Whether there is one.
    enabled: bool,
    /// Bytes of answers kept in memory.
    max_bytes: u64,
    /// How long an answer is kept in memory.
    #[serde(with = "humantime_serde")]
    time_to_live: Duration,
}

impl Default for RawCache {
    fn default() -> Self {
        let MemoryCacheSettings { max_bytes, time_to_live, .. } = MemoryCacheSettings::default();
        Self { enabled: true, max_bytes, time_to_live }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    /// Largest request body.
    max_body_bytes: usize,
    /// Largest request head.
    max_head_bytes: usize,
    /// Requests answered at a time.
    max_requests: usize,
    /// Longest time from a request's head to its last byte.
    #[serde(with = "humantime_serde")]
    request_timeout: Duration,
    /// Longest wait for a worker with room.
    #[serde(with = "humantime_serde")]
    queue_timeout: Duration,
    /// How long running requests may take after the gateway was told to stop.
    #[serde(with = "humantime_serde")]
    drain_timeout: Duration,
    /// How long the gateway accepts requests after it was told to stop, while it says that it is not ready.
    #[serde(with = "humantime_serde")]
    shutdown_delay: Duration,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 4 << 20,
            max_head_bytes: 32 << 10,
            max_requests: 4096,
            request_timeout: Duration::from_mins(10),
            queue_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            shutdown_delay: Duration::ZERO,
        }
    }
}

/// What a gateway serves, checked.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where administrators connect.
    pub admin_listen: SocketAddr,
    /// Where state is kept.
    pub store: StoreSettings,
    /// Certificate and key.
    pub tls: Option<IdentityFiles>,
    /// Identity providers whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// Workers elsewhere.
    pub workers: Vec<WorkerAddress>,
    /// File that holds the token shown to workers.
    pub worker_token_file: Option<PathBuf>,
    /// How workers are known, and what is shown to them.
    pub worker_tls: Option<WorkerTls>,
    /// Token prices by model.
    pub prices: HashMap<ModelName, Price>,
    /// What GPU time costs a tenant, in percent of what it costs us.
    pub gpu_time_markup_percent: u32,
    /// Where workers are found beside those written down.
    pub directory: DirectorySettings,
    /// Who runs what.
    pub routing: routing::RouterSettings,
    /// How much of contended workers projects get.
    pub shares: Shares,
    /// How long running requests may take after the gateway was told to stop.
    pub drain_timeout: Duration,
    /// How long the gateway accepts requests after it was told to stop, while it says that it is not ready.
    pub shutdown_delay: Duration,
    pub(crate) flow: FlowSettings,
}

/// Where a worker is, as `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerAddress(pub String);

impl RawGateway {
    /// The configuration of a gateway that keeps everything in `data` and has no workers
    /// elsewhere; `listen` and `admin_listen` as given.
    pub fn embedded(data: PathBuf, listen: SocketAddr, admin_listen: SocketAddr) -> Self {
        Self {
            listen,
            admin_listen,
            data,
            database: None,
            redis: None,
            pepper_file: None,
            gateways: default_gateways(),
            issuers: Vec::new(),
            allow_plaintext: false,
            tls: None,
            workers: Vec::new(),
            directory: RawDirectory::default(),
            routing: RawRouting::default(),
            tenants: Vec::new(),
            worker_token_file: None,
            worker_tls: None,
            prices: Vec::new(),
            gpu_time_markup_percent: default_markup(),
            cache: RawCache::default(),
            limits: RawLimits::default(),
        }
    }

    /// The same, with token prices.
    #[must_use]
    pub fn priced(self, prices: Vec<RawPrice>) -> Self {
        Self { prices, ..self }
    }

    /// What it means, or everything that is wrong with it.
    pub fn check(self) -> Result<GatewaySettings, Problems> {
        let mut problems = Problems::default();
        let Self {
            listen,
            admin_listen,
            data,
            database,
            redis,
            pepper_file,
            gateways,
            issuers,
            allow_plaintext,
            tls,
            workers,
            directory,
            routing,
            tenants,
            worker_token_file,
            worker_tls,
            prices,
            gpu_time_markup_percent,
            cache,
            limits,
        } = self;
        let listeners = Listeners { listen, admin_listen, allow_plaintext };
        listeners.check(tls.is_some(), &mut problems);
        for (at, worker) in workers.iter().enumerate() {
            let at = format!("workers[{at}].address");
            link::check_address(at, &worker.address, worker_tls.is_some(), &mut problems);
        }
        check_database(database.as_ref(), pepper_file.is_some(), &mut problems);
        if gpu_time_markup_percent == 0 {
            problems.add("gpu_time_markup_percent", "must be at least 1; 100 charges what it cost");
        }
        let directory = directory.check(redis.is_some(), worker_tls.is_some(), &mut problems);
        let routing = routing.check(limits.queue_timeout, &mut problems);
        let shares = Shares::check(tenants, &mut problems);
        let RawLimits { drain_timeout, shutdown_delay, .. } = limits;
        let settings = GatewaySettings {
            listen,
            admin_listen,
            store: StoreSettings {
                data,
                postgres: database,
                redis,
                pepper_file,
                cache: cache.check(),
                slices: SliceSettings {
                    gateways: gateways.get(),
                    request_timeout: limits.request_timeout,
                },
            },
            issuers: issuers::check(issuers, &mut problems),
            tls: tls.map(|RawTls { certificate, key }| IdentityFiles { certificate, key }),
            workers: workers.into_iter().map(|worker| WorkerAddress(worker.address)).collect(),
            worker_token_file,
            worker_tls: worker_tls.map(|tls| tls.check(&mut problems)),
            prices: check_prices(&prices, &mut problems),
            gpu_time_markup_percent,
            directory,
            routing,
            shares,
            drain_timeout,
            shutdown_delay,
            flow: limits.check(&mut problems),
        };
        problems.into_result(settings)
    }
}

/// Where clients and administrators connect.
struct Listeners {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    allow_plaintext: bool,
}

impl Listeners {
    fn check(&self, has_tls: bool, problems: &mut Problems) {
        if !has_tls && !self.allow_plaintext && !self.listen.ip().is_loopback() {
            let message = "other machines would be served without TLS; configure [tls], listen on 127.0.0.1, or set `allow_plaintext = true` behind a proxy that ends TLS";
            problems.add("listen", message);
        }
        if !self.allow_plaintext && !self.admin_listen.ip().is_loopback() {
            let message = "the admin listener has no TLS; listen on 127.0.0.1, or set `allow_plaintext = true` behind a proxy that ends TLS";
            problems.add("admin_listen", message);
        }
    }
}

fn check_database(database: Option<&Secret<String>>, has_pepper: bool, problems: &mut Problems) {
    if let Some(url) = database {
        if !["postgres://", "postgresql://"].iter().any(|start| url.expose().starts_with(start)) {
            let message = "must be written as postgres://user:password@host:port/database";
            problems.add("database", message);
        }
        if !has_pepper {
            let message = "is needed with `database`: gateways must hash keys with the same pepper";
            problems.add("pepper_file", message);
        }
    }
}

impl RawCache {
    fn check(self) -> Option<MemoryCacheSettings> {
        let Self { enabled, max_bytes, time_to_live } = self;
        let memory =
            MemoryCacheSettings { max_bytes, time_to_live, ..MemoryCacheSettings::default() };
        enabled.then_some(memory)
    }
}

impl RawLimits {
    fn check(self, problems: &mut Problems) -> FlowSettings {
        let Self { max_body_bytes, max_head_bytes, max_requests, request_timeout, .. } = self;
        let positive = [
            ("limits.max_body_bytes", max_body_bytes == 0),
            ("limits.max_head_bytes", max_head_bytes == 0),
            ("limits.max_requests", max_requests == 0),
            ("limits.request_timeout", request_timeout.is_zero()),
        ];
        for (at, _) in positive.iter().filter(|(_, wrong)| *wrong) {
            problems.add(*at, "must be above zero");
        }
        FlowSettings { max_head_bytes, max_body_bytes, max_requests, request_timeout }
    }
}

fn check_prices(raw: &[RawPrice], problems: &mut Problems) -> HashMap<ModelName, Price> {
    let mut prices = HashMap::new();
    for (at, price) in raw.iter().enumerate() {
        let mut amount = |name: &str, text: &str| {
            let amount = NanoUsd::parse_dollars(text).and_then(PricePerMillion::new);
            if amount.is_none() {
                let message =
                    format!("`{text}` must be dollars per million tokens, such as \"0.25\"");
                problems.add(format!("prices[{at}].{name}"), message);
            }
            amount.unwrap_or_default()
        };
        let cached_input = price.cached_input.as_deref().unwrap_or(&price.input);
        let known = Price::Tokens {
            input: amount("input", &price.input),
            cached_input: amount("cached_input", cached_input),
            output: amount("output", &price.output),
        };
        if prices.insert(ModelName::new(price.model.as_str()), known).is_some() {
            let message = format!("model `{}` is priced twice", price.model);
            problems.add(format!("prices[{at}].model"), message);
        }
    }
    prices
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn default_admin_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8081))
}

const fn default_gateways() -> NonZero<u32> {
    NonZero::<u32>::MIN
}

const fn default_markup() -> u32 {
    100
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(listen: &str) -> RawGateway {
        let any = listen.parse().unwrap();
        RawGateway::embedded("data".into(), any, default_admin_listen())
    }

    #[test]
    fn other_machines_are_not_served_in_plaintext_by_accident() {
        assert!(embedded("127.0.0.1:0").check().is_ok());
        let problems = embedded("0.0.0.0:0").check().unwrap_err().to_string();
        assert!(problems.contains("listen") && problems.contains("TLS"), "{problems}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let price = RawPrice {
            model: "m".to_owned(),
            input: "1e3".to_owned(),
            cached_input: None,
            output: "-1".to_owned(),
        };
        let raw = embedded("0.0.0.0:0").priced(vec![price]);
        let problems = raw.check().unwrap_err().to_string();
        for at in ["listen", "prices[0].input", "prices[0].output"] {
            assert!(problems.contains(at), "{at} is missing in: {problems}");
        }
    }
}
