//! The commands, and where they find a server.

mod drain;
mod governed;
mod memory;
mod neighbour;
mod prefix;
mod scenario;
mod soak;
mod startup;
mod trace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use load_tests::{Client, Product, Serve, Target};

pub(crate) use drain::Drain;
pub(crate) use governed::Governed;
pub(crate) use memory::memory;
pub(crate) use neighbour::{Neighbour, spin};
pub(crate) use prefix::prefix;
pub(crate) use scenario::scenario;
pub(crate) use soak::Soak;
pub(crate) use startup::startup;
pub(crate) use trace::Trace;

/// Which server is measured; without options, one that is started for it
#[derive(Args)]
pub(crate) struct Place {
    /// The binary to start; by default the one that cargo built beside this program
    #[arg(long, global = true, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// A running server instead, http://host:port
    #[arg(long, global = true, value_name = "URL", requires = "keys")]
    endpoint: Option<String>,
    /// A key of the running server; repeat for more tenants, which otherwise share it
    #[arg(long = "key", global = true, value_name = "KEY", requires = "endpoint")]
    keys: Vec<String>,
}

impl Place {
    /// A client with a key for each of `tenants`, and the server it talks to if it was started here.
    async fn open(&self, tenants: &[String]) -> anyhow::Result<(Client, Option<Serve>)> {
        if let Some(endpoint) = &self.endpoint {
            let endpoint = endpoint.trim_end_matches('/').to_owned();
            let client = Client::new(Target { endpoint, keys: self.keys.clone() })?;
            return Ok((client, None));
        }
        let product = self.product()?;
        let serve = product.serve().await?;
        let mut keys = Vec::new();
        for tenant in tenants {
            keys.push(product.key(serve.data(), tenant).await?);
        }
        // Gateways learn of new keys within a second.
        tokio::time::sleep(KEY_DELAY).await;
        let client = Client::new(Target { endpoint: serve.endpoint.clone(), keys })?;
        Ok((client, Some(serve)))
    }

    fn product(&self) -> anyhow::Result<Product> {
        Product::find(self.binary.as_deref())
    }
}

/// One stream against sixteen.
pub(crate) async fn streams(place: &Place) -> anyhow::Result<bool> {
    scenario(place, &scenarios().join("streams.toml")).await
}

/// Everything that is judged.
pub(crate) async fn all(place: &Place) -> anyhow::Result<bool> {
    let mut passed = startup(place).await? & memory(place).await?;
    let mut files: Vec<PathBuf> = Vec::new();
    for file in std::fs::read_dir(scenarios())? {
        files.push(file?.path());
    }
    files.sort();
    for file in files {
        passed &= scenario(place, &file).await?;
    }
    Ok(passed)
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// Warns when figures taken now would say little.
pub(crate) async fn look_around() {
    if cfg!(debug_assertions) {
        say("warning: this program was built without --release; its figures say nothing");
    }
    let before = processor_ticks();
    tokio::time::sleep(LOOK_FOR).await;
    let (Some(before), Some(after)) = (before, processor_ticks()) else { return };
    let idle = after.1.saturating_sub(before.1);
    let busy = 100 - 100 * idle / after.0.saturating_sub(before.0).max(1);
    say(&format!("processors busy with other work before the start: {busy} %"));
    if busy > MAX_BUSY_PERCENT {
        say("warning: the machine is busy; figures taken beside other work are worthless");
    }
}

/// All ticks of all processors and the idle ones among them, as Linux tells.
fn processor_ticks() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let fields = text.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what follows is counted in user already.
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().take(8).sum(), idle))
}

#[expect(clippy::print_stdout, reason = "the terminal is this program's interface")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

const KEY_DELAY: Duration = Duration::from_secs(2);
const LOOK_FOR: Duration = Duration::from_secs(1);
const MAX_BUSY_PERCENT: u64 = 10;
