//! Several gateways that share a PostgreSQL and a Redis, in front of one worker.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{PRICES, worker_config};
use crate::{Admin, Api, Gateway, Redis, Worker, attempt, free_address, gateway_config, run};

/// Ready gateways and their worker. Killed, and their folder removed, when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// What they share quotas in.
    pub redis: Redis,
    /// The gateways.
    pub gateways: Vec<Gateway>,
    /// The worker.
    pub worker: Worker,
    folder: TempDir,
    admin_addresses: Vec<SocketAddr>,
    admin_token: String,
}

impl Cluster {
    /// Starts `gateways` gateways on an empty `database`, and a worker with further lines `engine`.
    pub async fn start(gateways: usize, database: &str, engine: &str) -> anyhow::Result<Self> {
        let redis = Redis::start().await?;
        let folder = TempDir::with_prefix("tollgate-cluster-").context("create a folder")?;
        let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
            let path = folder.path().join(name);
            std::fs::write(&path, text).with_context(|| format!("write {name}"))?;
            Ok(path)
        };
        let token = write("worker.token", "a token for these tests\n")?;
        let pepper = write("pepper", "a pepper for these tests, long enough to be one\n")?;
        let listen = free_address()?;
        let config = write("worker.toml", &worker_config(listen, &token, engine))?;
        let mut worker = Worker::spawn(&config, listen)?;
        let mut addresses = Vec::new();
        for at in 0..gateways {
            let (listen, admin_listen) = (free_address()?, free_address()?);
            let data = folder.path().join(format!("gateway-{at}"));
            let mut text = gateway_config(listen, admin_listen, &data, &token);
            let _ = write!(
                text,
                "database = \"{database}\"\nredis = \"{}\"\npepper_file = \"{}\"\n\
                 gateways = {gateways}\n{PRICES}\n[[workers]]\naddress = \"http://{}\"\n\
                 [limits]\nqueue_timeout = \"2m\"\ndrain_timeout = \"3m\"\n",
                redis.url(),
                pepper.display(),
                worker.address(),
            );
            write(&format!("gateway-{at}.toml"), &text)?;
            addresses.push((listen, admin_listen));
        }
        worker.accepts().await?;
        let mut started = Vec::new();
        for (at, (listen, _)) in addresses.iter().enumerate() {
            let config = folder.path().join(format!("gateway-{at}.toml"));
            let mut gateway = Gateway::start(&config, *listen).await?;
            gateway.ready().await?;
            started.push(gateway);
        }
        let admin_addresses = addresses.into_iter().map(|(_, admin)| admin).collect();
        let (gateways, admin_token) = (started, String::new());
        let mut cluster = Self { redis, gateways, worker, folder, admin_addresses, admin_token };
        let arguments = ["admins", "create", "--name", "tests", "--role", "platform-admin"];
        let made = cluster.administer(&arguments).await?;
        made["token"].as_str().context("it has a token")?.clone_into(&mut cluster.admin_token);
        Ok(cluster)
    }

    /// What `tollgate admin` with `arguments` answers, as JSON.
    pub async fn administer(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let config = self.config(0);
        let mut all = vec!["admin", "--json", "--config", &config];
        all.extend(arguments);
        serde_json::from_str(&run(&all).await?).context("read what `tollgate admin` printed")
    }

    /// What `tollgate ledger verify` says, whether it is content or not.
    pub async fn verify(&self) -> anyhow::Result<String> {
        let said = attempt(&["ledger", "verify", "--config", &self.config(0)]).await?;
        let text = [said.stdout, said.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// A gateway as the owner of `key` sees it.
    pub fn api(&self, gateway: usize, key: &str) -> Api {
        Api::new(&self.gateways[gateway].endpoint(), key)
    }

    /// A gateway as its administrator sees it.
    pub fn admin(&self, gateway: usize) -> Admin {
        Admin::new(&format!("http://{}", self.admin_addresses[gateway]), &self.admin_token)
    }

    fn config(&self, gateway: usize) -> String {
        self.folder.path().join(format!("gateway-{gateway}.toml")).display().to_string()
    }
}
