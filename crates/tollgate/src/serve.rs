//! `tollgate serve`: everything in one process, with nothing to configure.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use admission::tenancy::{
    Actor, Amount, BudgetDraft, Enforcement, Established, NewKey, Terms, Window,
};
use anyhow::Context;
use clap::Args;
use domain::{ModelInfo, ModelKind, NanoUsd};
use gateway::{
    GatewaySettings, InProcessWorker, Installation, Launch, Listener, RawGateway, RawPrice,
};
use serde_json::json;
use worker::{LocalWorker, Progress, RawWorker};

use crate::{files, models, signal, size, worker_command};

/// Run everything in one process
#[derive(Args)]
pub(crate) struct Serve {
    /// Directory for the database, the ledger and secrets; made if it does not exist
    #[arg(long, default_value = "tollgate-data", value_name = "DIR")]
    data: PathBuf,
    /// Where clients connect; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// Where administrators connect; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDR")]
    admin_listen: SocketAddr,
    /// The model to serve: a folder, a GGUF file, or an address such as `hf://organization/name`; the built-in one if
    /// absent
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// What clients call it; the name of its folder or file if absent
    #[arg(long, value_name = "NAME", requires = "model")]
    model_name: Option<String>,
    /// Memory for the KV cache, such as `2GiB`; without it, as much as some full contexts of the model need and the machine
    /// can spare
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    kv_cache: Option<u64>,
}

/// What the first run tells, once.
struct FirstRun {
    endpoint: String,
    admin_endpoint: String,
    api_key: String,
    admin_token: String,
}

impl Serve {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut stop = Box::pin(signal::stop()?);
        let raw = RawGateway::embedded(self.data.clone(), self.listen, self.admin_listen);
        let settings = raw.priced(vec![demo_price()]).check()?;
        let worker = raw_worker(self.model, self.model_name)?.with_kv_bytes(self.kv_cache);
        worker.clone().check()?;
        let listeners = [Listener::bind(settings.listen)?, Listener::bind(settings.admin_listen)?];
        let [endpoint, admin_endpoint] =
            [&listeners[0], &listeners[1]].map(|listener| format!("http://{}", listener.address()));
        let fetching = models::fetch(worker, self.data.join("models"));
        let Some(worker) = models::unless(&mut stop, fetching).await? else { return Ok(()) };
        let worker = worker.check()?;
        let first_run = first_run(&self.data, &endpoint, &admin_endpoint).await?;
        let worker = tokio::task::spawn_blocking(move || worker_command::load(&worker)).await??;
        let model = (worker.info().clone(), worker.own_context());
        let greet = move || greet(&endpoint, &admin_endpoint, &model, first_run.as_ref());
        serve(settings, listeners, worker, greet, stop).await
    }
}

fn raw_worker(model: Option<PathBuf>, name: Option<String>) -> anyhow::Result<RawWorker> {
    let Some(path) = model else { return Ok(RawWorker::demo()) };
    let address = models::address(&path)?;
    let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let called = || address.map(|address| address.name()).or_else(stem).unwrap_or_default();
    Ok(RawWorker::of(name.unwrap_or_else(called), path))
}

async fn serve(
    settings: GatewaySettings,
    listeners: [Listener; 2],
    worker: Arc<LocalWorker>,
    greet: impl FnOnce() + Send,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let worker = worker.over_pipes();
    let worker = InProcessWorker { name: "in-process".to_owned(), worker };
    let launch = Launch {
        settings,
        listeners,
        in_process: vec![worker],
        predecessor: None,
        configuration: None,
    };
    gateway::run(launch, greet, stop).await?;
    say("stopped; every request is in the ledger\n");
    Ok(())
}

/// Shows how far a model is loaded, on one line of a terminal.
pub(crate) fn show_progress(model: &str, progress: Progress) {
    let mut terminal = std::io::stderr();
    if !terminal.is_terminal() {
        return;
    }
    let Progress { loaded, total } = progress;
    let end = if loaded >= total { "\n" } else { "" };
    // A terminal that went away is no reason to stop.
    let _ = write!(terminal, "\rloading {model}: {loaded}/{total} parts{end}");
}

/// Makes the first key and the admin token, if this directory has none yet.
async fn first_run(
    data: &Path,
    endpoint: &str,
    admin_endpoint: &str,
) -> anyhow::Result<Option<FirstRun>> {
    let installation = Installation::embedded(data.to_owned()).await?;
    let registry = installation.registry();
    let Established { project, admin, .. } = registry.establish().await?;
    let Some((_, admin_token)) = admin else { return Ok(None) };
    let mut key = NewKey::called("first key", project.id);
    key.policy.budgets = Some(vec![first_budget()]);
    let made = registry.change(Actor::Local, &key, &Terms::default()).await?;
    let api_key = made.secret.context("make the first key")?;
    let first_run = FirstRun {
        endpoint: endpoint.to_owned(),
        admin_endpoint: admin_endpoint.to_owned(),
        api_key: api_key.expose().to_owned(),
        admin_token: admin_token.expose().to_owned(),
    };
    files::write_secret(&data.join("first-run.json"), &first_run.json())?;
    Ok(Some(first_run))
}

impl FirstRun {
    fn json(&self) -> String {
        let Self { endpoint, admin_endpoint, api_key, admin_token } = self;
        let content = json!({
            "endpoint": endpoint,
            "admin_endpoint": admin_endpoint,
            "api_key": api_key,
            "admin_token": admin_token,
        });
        format!("{content:#}\n")
    }
}

fn greet(
    endpoint: &str,
    admin_endpoint: &str,
    (model, own_context): &(ModelInfo, u32),
    first_run: Option<&FirstRun>,
) {
    let (secrets, key) = if let Some(FirstRun { api_key, admin_token, .. }) = first_run {
        let budget = FIRST_BUDGET.dollars();
        let shown = format!(
            "  API key   {api_key}   (shown once; budget ${budget})\n  admin     {admin_token}   (token, shown once)\n"
        );
        (shown, api_key.as_str())
    } else {
        let lost = "\nThe API key was shown at the first run; `tollgate admin keys create` makes another.\n";
        (lost.to_owned(), "$TOLLGATE_KEY")
    };
    let context = context(model.context_length, *own_context);
    let name = &model.name;
    let (path, body) = match model.kind {
        ModelKind::Text => (
            "chat/completions",
            format!(
                r#"{{"model": "{name}", "stream": true, "messages": [{{"role": "user", "content": "Who are you?"}}]}}"#
            ),
        ),
        ModelKind::Embedding { .. } => {
            ("embeddings", format!(r#"{{"model": "{name}", "input": "Who are you?"}}"#))
        }
    };
    say(&format!(
        r#"
Tollgate is ready.

  endpoint  {endpoint}/v1
  admin     {admin_endpoint}
  model     {name}
{context}{secrets}
Try it:

  curl -N {endpoint}/v1/{path} \
    -H "Authorization: Bearer {key}" \
    -H "Content-Type: application/json" \
    -d '{body}'

Ctrl-C stops; running requests are finished first.
"#
    ));
}

/// What is said of the context where the cache bounds it.
fn context(served: u32, own: u32) -> String {
    if served >= own {
        return String::new();
    }
    format!("  context   {served} of the model's {own} tokens (a larger --kv-cache serves more)\n")
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    // Whoever started us may not listen; that is no reason to stop.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The built-in model is free to run, but a price makes budgets visible.
fn demo_price() -> RawPrice {
    RawPrice {
        model: "tollgate-demo".to_owned(),
        input: "0.10".to_owned(),
        cached_input: Some("0.05".to_owned()),
        output: "0.40".to_owned(),
    }
}

/// What the first key may spend.
fn first_budget() -> BudgetDraft {
    BudgetDraft {
        id: None,
        amount: Amount::Money(FIRST_BUDGET),
        window: Window::Total,
        enforcement: Enforcement::Hard,
        alert_percent: Vec::new(),
        model: None,
    }
}

const FIRST_BUDGET: NanoUsd = NanoUsd::from_nanos(10_000_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_told_where_it_is_less_than_the_model_has() {
        assert_eq!(context(2048, 2048), "");
        assert!(context(2336, 40_960).contains("2336 of the model's 40960 tokens"));
    }
}
