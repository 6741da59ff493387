//! How much memory a gateway takes that has nothing to do.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use load_tests::{Client, Product, Question, Role, Target, free_address};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{Place, say};

/// `true` if the idle gateway stays below the target.
pub(crate) async fn memory(place: &Place) -> anyhow::Result<bool> {
    say("\nmemory: resident memory of `tollgate gateway`");
    let product = place.product()?;
    let folder = TempDir::with_prefix("tollgate-load-").context("create a folder")?;
    let without = idle(&product, folder.path(), None).await?;
    let worker_address = free_address()?;
    let worker_config = folder.path().join("worker.toml");
    std::fs::write(&worker_config, format!("listen = \"{worker_address}\"\n"))?;
    let worker = product.role("worker", &worker_config, worker_address).await?;
    let with = idle(&product, folder.path(), Some(worker_address)).await?;
    worker.end().await?;
    let passed = without.max(with) < TARGET_KIBIBYTES;
    let word = if passed { "pass" } else { "FAIL" };
    let [without, with] = [without, with].map(|kibibytes| kibibytes as f64 / 1024.0);
    let target = TARGET_KIBIBYTES / 1024;
    say(&format!(
        "{word}  idle below {target} MiB: {without:.1} MiB without a worker, {with:.1} MiB with one"
    ));
    Ok(passed)
}

/// The resident kibibytes of a gateway that has answered nothing yet. With a worker it then answers,
/// and says what that took.
async fn idle(product: &Product, folder: &Path, worker: Option<SocketAddr>) -> anyhow::Result<u64> {
    let data = folder.join(if worker.is_some() { "with-worker" } else { "without-worker" });
    std::fs::create_dir(&data)?;
    let key = product.key(&data, "memory").await?;
    let (listen, admin_listen) = (free_address()?, free_address()?);
    let workers = worker.map(|worker| format!("{{ address = \"http://{worker}\" }}"));
    let text = format!(
        "listen = \"{listen}\"\nadmin_listen = \"{admin_listen}\"\ndata = \"{}\"\nworkers = [{}]\n",
        data.display(),
        workers.unwrap_or_default()
    );
    let config = data.join("gateway.toml");
    std::fs::write(&config, text)?;
    let gateway = product.role("gateway", &config, listen).await?;
    let endpoint = format!("http://{listen}");
    let client = Client::new(Target { endpoint, keys: vec![key] })?;
    if worker.is_none() {
        tokio::time::sleep(SETTLE).await;
        let idle = measure(&gateway, "idle, no worker")?;
        gateway.end().await?;
        return Ok(idle);
    }
    ready(listen).await?;
    tokio::time::sleep(SETTLE).await;
    let idle = measure(&gateway, "idle, one worker")?;
    for (requests, name) in [(1, "after 1 request"), (99, "after 100 requests")] {
        for _ in 0..requests {
            ask(&client).await?;
        }
        tokio::time::sleep(SETTLE).await;
        measure(&gateway, name)?;
    }
    gateway.end().await?;
    Ok(idle)
}

fn measure(gateway: &Role, when: &str) -> anyhow::Result<u64> {
    let resident = gateway.kibibytes("VmRSS")?;
    let [own, files, peak] = ["RssAnon", "RssFile", "VmHWM"].map(|field| gateway.kibibytes(field));
    say(&format!(
        "{when:<20} resident {resident} KiB (own {}, files {}), peak {}",
        own?, files?, peak?
    ));
    Ok(resident)
}

/// Waits until the gateway knows the worker's model.
async fn ready(listen: SocketAddr) -> anyhow::Result<()> {
    let http = load_tests::http().build().context("build a client")?;
    let deadline = Instant::now() + LIMIT;
    let url = format!("http://{listen}/readyz");
    while !http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) {
        if Instant::now() > deadline {
            bail!("the gateway is not ready within {LIMIT:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn ask(client: &Client) -> anyhow::Result<()> {
    let body = json!({
        "model": "tollgate-demo",
        "messages": [{ "role": "user", "content": "Who are you?" }],
        "max_tokens": 32,
        "temperature": 1.0,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let path = "/v1/chat/completions";
    let question = Question { tenant: 0, path, body: body.to_string() };
    match client.ask(&question, Instant::now()).await.failure {
        None => Ok(()),
        Some(failure) => bail!("a request failed: {}", failure.0),
    }
}

const TARGET_KIBIBYTES: u64 = 40 * 1024;
/// Long enough for what starts in the background to be over.
const SETTLE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_mins(1);
