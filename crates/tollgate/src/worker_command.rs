//! `tollgate worker`: models behind gRPC.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use gateway::Announcement;
use tokio::net::TcpListener;
use worker::{LocalWorker, RawWorker, Serving, WorkerSettings};

use crate::{files, models, serve, signal};

/// Run a worker: models behind gRPC
#[derive(Args)]
pub(crate) struct Worker {
    /// The configuration; config/worker.toml is an example with every setting
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Worker {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut stop = Box::pin(signal::stop()?);
        let raw = files::read_config::<RawWorker>(&self.config)?;
        // What is wrong is told before anything is fetched.
        let settings = raw.clone().check()?;
        let listen = settings.listen;
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        let address = listener.local_addr()?;
        let serving = Serving::of(&settings)?;
        let announcement = settings.announce.clone();
        let announcement =
            announcement.map(|(redis, address)| Announcement::new(&redis, address)).transpose()?;
        let fetching = models::fetch(raw, models::default_folder());
        let Some(raw) = models::unless(&mut stop, fetching).await? else { return Ok(()) };
        let settings = raw.check()?;
        let worker = tokio::task::spawn_blocking(move || load(&settings)).await??;
        let info = worker.info();
        tracing::info!(%address, model = %info.name, digest = %info.digest, "worker ready");
        let serving = worker::serve(worker, listener, serving, stop);
        let Some(announcement) = announcement else {
            serving.await?;
            tracing::info!("worker stopped");
            return Ok(());
        };
        let served = tokio::select! {
            served = serving => served,
            () = announcement.keep() => Ok(()),
        };
        announcement.withdraw().await;
        served?;
        tracing::info!("worker stopped");
        Ok(())
    }
}

/// Loads the model and starts its engine, showing how far it is.
pub(crate) fn load(settings: &WorkerSettings) -> anyhow::Result<Arc<LocalWorker>> {
    let mut loading = settings.model_name.clone();
    let mut show = |model: &str, progress| {
        model.clone_into(&mut loading);
        serve::show_progress(model, progress);
    };
    let started = worker::start(settings, &mut show);
    started.with_context(|| format!("start model {loading}"))
}
