//! A worker's configuration: what was written, then what it means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use domain::{Capacity, NanoUsd, Problems, Rent, Secret};
use engine::{EngineConfig, ModelSource, Quantization};
use proto::ServerFiles;
use serde::Deserialize;

use crate::notice::NoticeSettings;

mod adapters;
mod hub;
mod link;
mod loading;
mod notices;

pub use self::adapters::AdapterSettings;
use self::adapters::RawAdapter;
pub use self::hub::{Place, RawHub};
pub use self::link::Others;
use self::link::{Link, RawTls};
pub use self::loading::ModelSettings;
pub(crate) use self::loading::source;
use self::loading::{RawBeside, RawLoading};
use self::notices::RawNotices;

/// A worker's configuration as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWorker {
    /// Where gateways connect.
    #[serde(default = "default_listen")]
    listen: SocketAddr,
    /// The network encrypts: serve other machines without TLS, and without a warning.
    #[serde(default)]
    allow_plaintext: bool,
    /// File that holds the token gateways must show.
    token_file: Option<PathBuf>,
    /// What it shows to gateways, and which it serves; absent means no TLS.
    tls: Option<RawTls>,
    /// What an hour of this machine costs, in dollars, as text: `"1.25"`.
    #[serde(default = "default_price")]
    price_per_hour_usd: String,
    /// On what terms this machine is rented: `"on-demand"`, or `"spot"` if it may be taken away.
    #[serde(default)]
    capacity: Capacity,
    /// Where this machine is, in the words of whoever rents it out.
    #[serde(default)]
    zone: String,
    /// How long accepted sequences may take after the worker was told to stop.
    #[serde(default = "default_drain_timeout", with = "humantime_serde")]
    drain_timeout: Duration,
    /// What tells that this machine is about to go, beside SIGTERM.
    #[serde(default)]
    notices: Vec<RawNotices>,
    /// Where it says that it is there; absent means nowhere.
    announce: Option<RawAnnounce>,
    /// Where models are kept that are pulled, and from whom.
    #[serde(default)]
    hub: RawHub,
    /// What to serve.
    #[serde(default)]
    model: RawModel,
    /// What to serve beside it.
    #[serde(default)]
    models: Vec<RawBeside>,
    /// What may be loaded while it runs.
    #[serde(default)]
    loading: RawLoading,
    /// Adapters of these models.
    #[serde(default)]
    adapters: Vec<RawAdapter>,
    /// How much to hold and compute at a time.
    #[serde(default)]
    engine: EngineSettings,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAnnounce {
    /// The Redis of the gateways.
    redis: Secret<String>,
    /// Where gateways and other workers reach this one, as `http://host:port`, or with `https` under TLS.
    address: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawModel {
    /// What clients ask for.
    name: String,
    /// A folder in the Hugging Face layout, or a GGUF file, or the address of one; absent means the demo model.
    path: Option<PathBuf>,
    /// Store the weights of a folder (or of the demo model) in fewer bits while they are loaded: `"q8_0"`,
    /// `"q6_k"`, `"q5_k_m"`, `"q5_k"`, `"q4_k_m"`, `"q4_k"` or `"q4_0"`.
    quantize: Option<Quantization>,
    /// For a GGUF file: a `tokenizer.json`, or a folder with one; its own folder if absent, and what the file itself
    /// holds where there is none.
    tokenizer: Option<PathBuf>,
}

impl Default for RawModel {
    fn default() -> Self {
        Self { name: DEMO_MODEL.to_owned(), path: None, quantize: None, tokenizer: None }
    }
}

/// Bounds of the engine. Absent means the engine's own default.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// Memory for the KV cache of each model, in bytes; absent means by the model and by what the machine has left.
    pub kv_bytes: Option<u64>,
    /// Sequences that run at a time.
    pub max_sequences: Option<u32>,
    /// Sequences that wait; more are refused.
    pub max_waiting: Option<u32>,
    /// Tokens that one step computes at most.
    pub step_tokens: Option<u32>,
    /// Prompt tokens of one sequence that one step computes at most.
    pub prefill_chunk: Option<u32>,
    /// Threads that compute.
    pub compute_threads: Option<u32>,
    /// Whether tokens that can be looked up in a sequence's own text are computed before they are known.
    pub lookup: Option<bool>,
    /// Memory for keeping outputs in their formats, in bytes.
    pub format_bytes: Option<u64>,
}

/// What a worker serves, checked.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Where gateways connect.
    pub listen: SocketAddr,
    /// Nobody needs a warning that other machines are served without TLS.
    pub allow_plaintext: bool,
    /// File that holds the token gateways must show.
    pub token_file: Option<PathBuf>,
    /// What it shows to gateways, and which it serves.
    pub tls: Option<ServerFiles>,
    /// How other workers are known, and what is shown to them.
    pub others: Option<Others>,
    /// What this machine costs, until it is told otherwise.
    pub rent: Rent,
    /// Where this machine is.
    pub zone: String,
    /// Where to listen for notices.
    pub notices: Vec<NoticeSettings>,
    /// How long accepted sequences may take after the worker was told to stop.
    pub drain_timeout: Duration,
    /// The Redis where it says that it is there, and at which address.
    pub announce: Option<(Secret<String>, String)>,
    /// What clients ask for.
    pub model_name: String,
    /// Where the model is.
    pub model: ModelSource,
    /// Models beside it.
    pub beside: Vec<ModelSettings>,
    /// The only folder below which files are read while it runs; absent means that nothing is loaded then.
    pub load_folder: Option<PathBuf>,
    /// Adapters of the models, which are served as models of their own.
    pub adapters: Vec<AdapterSettings>,
    /// How much to hold and compute at a time.
    pub engine: EngineConfig,
}

impl RawWorker {
    /// The demo model, with every default.
    pub fn demo() -> Self {
        Self {
            listen: default_listen(),
            allow_plaintext: false,
            token_file: None,
            tls: None,
            price_per_hour_usd: default_price(),
            capacity: Capacity::default(),
            zone: String::new(),
            drain_timeout: default_drain_timeout(),
            notices: Vec::new(),
            announce: None,
            hub: RawHub::default(),
            model: RawModel::default(),
            models: Vec::new(),
            loading: RawLoading::default(),
            adapters: Vec::new(),
            engine: EngineSettings::default(),
        }
    }

    /// The model at `path`, a folder or a GGUF file, called `name`, with every other default.
    pub fn of(name: String, path: PathBuf) -> Self {
        let model = RawModel { name, path: Some(path), ..RawModel::default() };
        Self { model, ..Self::demo() }
    }

    /// The same with a KV cache of so many bytes, if that is said.
    #[must_use]
    pub fn with_kv_bytes(self, kv_bytes: Option<u64>) -> Self {
        let engine = EngineSettings { kv_bytes: kv_bytes.or(self.engine.kv_bytes), ..self.engine };
        Self { engine, ..self }
    }

    /// What it means, or everything that is wrong with it.
    pub fn check(self) -> Result<WorkerSettings, Problems> {
        let mut problems = Problems::default();
        let Self { listen, allow_plaintext, token_file, price_per_hour_usd, capacity, .. } = self;
        let others = self.tls.as_ref().and_then(RawTls::others);
        let tls = self.tls.map(RawTls::files);
        let has_token = token_file.is_some();
        let announced = self.announce.as_ref().map(|announce| announce.address.as_str());
        Link { listen, has_token, tls: tls.as_ref(), announced }.check(&mut problems);
        let price = NanoUsd::parse_dollars(&price_per_hour_usd);
        let rent = price.and_then(|price| Rent::new(price, capacity)).unwrap_or_else(|| {
            let message = format!("`{price_per_hour_usd}` must be an amount such as \"1.25\"");
            problems.add("price_per_hour_usd", message);
            Rent::default()
        });
        let RawModel { name, path, quantize, tokenizer } = self.model;
        let (quantized, has_tokenizer) = (quantize.is_some(), tokenizer.is_some());
        let at = ("model", name.as_str());
        loading::check_model(at, path.as_deref(), quantized, has_tokenizer, &mut problems);
        let beside = loading::check(self.models, &name, &mut problems);
        let more = beside.iter().map(|model| model.name.as_str());
        let names: Vec<&str> = [name.as_str()].into_iter().chain(more).collect();
        let adapters = adapters::check(self.adapters, &names, &mut problems);
        let settings = WorkerSettings {
            listen,
            allow_plaintext,
            token_file,
            tls,
            others,
            rent,
            zone: self.zone,
            notices: notices::check(self.notices, &mut problems),
            drain_timeout: self.drain_timeout,
            announce: self.announce.map(|RawAnnounce { redis, address }| (redis, address)),
            model_name: name,
            model: source(path, quantize, tokenizer),
            beside,
            load_folder: self.loading.folder,
            adapters,
            engine: self.engine.fill(),
        };
        problems.into_result(settings)
    }
}

impl EngineSettings {
    fn fill(self) -> EngineConfig {
        let default = EngineConfig::default();
        let Self {
            kv_bytes,
            max_sequences,
            max_waiting,
            step_tokens,
            prefill_chunk,
            compute_threads,
            lookup,
            format_bytes,
        } = self;
        EngineConfig {
            kv_bytes,
            max_sequences: max_sequences.unwrap_or(default.max_sequences),
            max_waiting: max_waiting.unwrap_or(default.max_waiting),
            step_tokens: step_tokens.unwrap_or(default.step_tokens),
            prefill_chunk: prefill_chunk.unwrap_or(default.prefill_chunk),
            compute_threads: compute_threads.unwrap_or(default.compute_threads),
            lookup: lookup.unwrap_or(default.lookup),
            format_bytes: format_bytes.unwrap_or(default.format_bytes),
            ..default
        }
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 50051))
}

fn default_price() -> String {
    "1.00".to_owned()
}

const fn default_drain_timeout() -> Duration {
    Duration::from_secs(30)
}

const DEMO_MODEL: &str = "tollgate-demo";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_model_needs_no_configuration() {
        assert_eq!(RawWorker::demo().check().unwrap().model, ModelSource::Demo);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let raw = RawWorker {
            listen: "0.0.0.0:1".parse().unwrap(),
            price_per_hour_usd: "free".to_owned(),
            ..RawWorker::demo()
        };
        let problems = raw.check().unwrap_err().to_string();
        for at in ["token_file", "price_per_hour_usd"] {
            assert!(problems.contains(at), "{at} is missing in: {problems}");
        }
    }
}
