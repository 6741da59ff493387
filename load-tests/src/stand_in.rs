//! A worker without an engine, over gRPC: what remains of a request's time is the gateway's.
//!
//! It is the product's scripted worker with the demo model's tokenizer and template, on a thread of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use domain::{ModelDigest, ModelFiles, ModelInfo, ModelName};
use proto::{ScriptedWorker, WorkerServer};
use serde_json::Value;
use tokio::sync::oneshot;

/// A worker that serves [`StandIn::MODEL`] at once. Ends when dropped.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl StandIn {
    /// What clients ask for.
    pub const MODEL: &str = "scripted";

    /// Starts it.
    pub fn start() -> anyhow::Result<Self> {
        let worker = Arc::new(ScriptedWorker::new(info(), files()?, CAPACITY));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        let address = listener.local_addr().context("find a free port")?;
        listener.set_nonblocking(true).context("share a port with tokio")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start a runtime")?;
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                let serving =
                    WorkerServer::new(worker, None).serve(listener, std::future::pending());
                tokio::select! {
                    // A server that failed shows as requests without answers.
                    _ = serving => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, _stop: stop })
    }

    /// Where gateways find it.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

fn info() -> ModelInfo {
    ModelInfo {
        name: ModelName::new(StandIn::MODEL),
        digest: ModelDigest::new("5c819ed0"),
        context_length: 2048,
        vocabulary: 4096,
        stop_tokens: vec![4089, 4087],
        weights: "none".to_owned(),
        kind: domain::ModelKind::Text,
    }
}

fn files() -> anyhow::Result<ModelFiles> {
    let config: Value = serde_json::from_str(TOKENIZER_CONFIG).context("read the demo model")?;
    let template = config["chat_template"].as_str().context("the demo model has no template")?;
    Ok(ModelFiles { tokenizer: TOKENIZER.into(), chat_template: Some(template.into()) })
}

const TOKENIZER: &[u8] = include_bytes!("../../crates/engine/demo-model/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("../../crates/engine/demo-model/tokenizer_config.json");
/// More than any burst has clients.
const CAPACITY: u32 = 4096;
