//! `tollgate admin workers load` and `unload`: models of workers that run.

use std::time::Duration;

use clap::Args;
use domain::{LoadKind, LoadOrder, ModelName};
use gateway::Workers;
use serde_json::json;
use worker::Progress;

use super::desk::Desk;
use super::workers::{conclude, duration};
use crate::serve::show_progress;

#[derive(Args)]
pub(super) struct Load {
    /// Its address, as the configuration has it
    worker: String,
    /// What clients are to ask for
    #[arg(long, value_name = "NAME")]
    name: String,
    /// A folder or a GGUF file there, below the folder that the worker's configuration names
    #[arg(long, value_name = "PATH")]
    path: String,
    /// Store the weights of a folder in fewer bits, such as `q8_0` or `q4_k_m`
    #[arg(long, value_name = "BLOCKS", conflicts_with = "adapter_of")]
    quantize: Option<String>,
    /// For a GGUF file: a `tokenizer.json` there, or a folder with one
    #[arg(long, value_name = "PATH", conflicts_with = "adapter_of")]
    tokenizer: Option<String>,
    /// The path is that of an adapter of this model, which the worker serves
    #[arg(long, value_name = "NAME")]
    adapter_of: Option<String>,
}

#[derive(Args)]
pub(super) struct Unload {
    /// Its address, as the configuration has it
    worker: String,
    /// What clients ask for
    #[arg(long, value_name = "NAME")]
    name: String,
    /// How long what runs on it may take to end here, such as 90s; without it, as long as it takes
    #[arg(long, value_name = "TIME", value_parser = duration)]
    within: Option<Duration>,
}

impl Load {
    pub(super) async fn run(self, desk: &Desk, workers: &Workers) -> anyhow::Result<()> {
        let Self { worker, name, path, quantize, tokenizer, adapter_of } = self;
        let mut done = json!({
            "load": name, "path": path, "quantize": quantize, "adapter_of": adapter_of,
        });
        let kind = match adapter_of {
            Some(of) => LoadKind::Adapter { of: ModelName::new(of) },
            None => LoadKind::Model { quantize, tokenizer },
        };
        if !desk.is_dry_run() {
            let order = LoadOrder { name: ModelName::new(name.as_str()), path, kind };
            let show = |loaded, total| show_progress(&name, Progress { loaded, total });
            let info = workers.load(&worker, order, show).await?;
            done["digest"] = json!(info.digest);
        }
        conclude(desk, &worker, done).await
    }
}

impl Unload {
    pub(super) async fn run(self, desk: &Desk, workers: &Workers) -> anyhow::Result<()> {
        let Self { worker, name, within } = self;
        let seconds = within.map(|time| time.as_secs());
        let mut done = json!({ "unload": name, "within_seconds": seconds });
        if !desk.is_dry_run() {
            let name = ModelName::new(name);
            done["running"] = workers.unload(&worker, &name, within).await?.into();
        }
        conclude(desk, &worker, done).await
    }
}
