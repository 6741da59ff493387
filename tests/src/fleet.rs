//! A gateway and its workers, each a process of its own, over gRPC with a token.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;

use crate::{Admin, Api, Gateway, Left, Process, Serve, Worker, free_address};

/// A ready gateway with workers. Killed, and its folder removed, when dropped.
#[derive(Debug)]
pub struct Fleet {
    /// The gateway.
    pub gateway: Gateway,
    /// The workers, in the order of the status.
    pub workers: Vec<Worker>,
    admin_endpoint: String,
    left: Left,
}

/// What is written into the configurations beyond addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// Lines of the gateway's file, tables included.
    pub gateway: &'a str,
    /// Lines of each worker's file, tables included.
    pub worker: &'a str,
}

impl Fleet {
    /// Starts a gateway and `workers` workers, and waits until it is ready.
    pub async fn start(workers: usize, wishes: Wishes<'_>) -> anyhow::Result<Self> {
        Self::start_each(&vec![wishes.worker.to_owned(); workers], wishes.gateway).await
    }

    /// Starts a gateway and a worker for each of `workers`, which are lines of its file, and waits until it is
    /// ready; `gateway` are lines of the gateway's file.
    pub async fn start_each(workers: &[String], gateway: &str) -> anyhow::Result<Self> {
        // The first run of `serve` makes the key and the admin token that a gateway goes on with.
        let left = Serve::start().await?.leave().await?;
        let folder = left.data.path();
        let token = folder.join("worker.token");
        std::fs::write(&token, "a token for these tests\n").context("write the worker token")?;

        let mut started = Vec::new();
        for (at, lines) in workers.iter().enumerate() {
            let listen = free_address()?;
            let config = folder.join(format!("worker-{at}.toml"));
            let text = worker_config(listen, &token, lines);
            std::fs::write(&config, text).context("write a worker's configuration")?;
            started.push(Worker::spawn(&config, listen)?);
        }
        for worker in &mut started {
            worker.accepts().await?;
        }

        let (listen, admin_listen) = (free_address()?, free_address()?);
        let addresses: Vec<SocketAddr> = started.iter().map(Worker::address).collect();
        let mut text = gateway_config(listen, admin_listen, folder, &token);
        text.push_str(gateway);
        text.push_str(PRICES);
        for address in addresses {
            let _ = write!(text, "\n[[workers]]\naddress = \"http://{address}\"\n");
        }
        let config = folder.join("gateway.toml");
        std::fs::write(&config, text).context("write the gateway's configuration")?;
        let mut gateway = Gateway::start(&config, listen).await?;
        gateway.ready().await?;
        let admin_endpoint = format!("http://{admin_listen}");
        Ok(Self { gateway, workers: started, admin_endpoint, left })
    }

    /// The gateway as the owner of the first key sees it.
    pub fn api(&self) -> Api {
        Api::new(&self.gateway.endpoint(), &self.left.api_key)
    }

    /// The gateway as its administrator sees it.
    pub fn admin(&self) -> Admin {
        Admin::new(&self.admin_endpoint, &self.left.admin_token)
    }

    /// The key of the first run.
    pub fn key(&self) -> String {
        self.left.api_key.clone()
    }

    /// The folder that holds all of the gateway's state and every configuration.
    pub fn data(&self) -> &Path {
        self.left.data.path()
    }

    /// A worker's process.
    pub fn worker(&mut self, at: usize) -> &mut Process {
        self.workers[at].process()
    }

    /// Waits until some worker runs a sequence, and returns its place.
    pub async fn busy_worker(&self) -> anyhow::Result<usize> {
        let look = |status: &serde_json::Value| {
            let workers = status["workers"].as_array()?;
            workers.iter().position(|worker| worker["running"].as_u64() > Some(0))
        };
        self.admin().until("a worker is busy", look).await
    }

    /// Waits until the gateway reaches every worker.
    pub async fn whole(&self) -> anyhow::Result<()> {
        let look = |status: &serde_json::Value| {
            let workers = status["workers"].as_array()?;
            workers.iter().all(|worker| worker["reachable"] == true).then_some(())
        };
        self.admin().until("every worker is reachable", look).await
    }
}

/// The beginning of a gateway's configuration, up to its first table.
pub fn gateway_config(
    listen: SocketAddr,
    admin_listen: SocketAddr,
    data: &Path,
    token: &Path,
) -> String {
    let (data, token) = (data.display(), token.display());
    format!(
        "listen = \"{listen}\"\nadmin_listen = \"{admin_listen}\"\ndata = \"{data}\"\nworker_token_file = \"{token}\"\n"
    )
}

/// A worker's configuration.
pub(crate) fn worker_config(listen: SocketAddr, token: &Path, wishes: &str) -> String {
    let token = token.display();
    format!("listen = \"{listen}\"\ntoken_file = \"{token}\"\n{wishes}\n")
}

/// What `tollgate serve` charges for the demo model.
pub(crate) const PRICES: &str = "
[[prices]]
model = \"tollgate-demo\"
input = \"0.10\"
cached_input = \"0.05\"
output = \"0.40\"
";
