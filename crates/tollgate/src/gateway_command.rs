//! `tollgate gateway`: the endpoint alone, routing to workers elsewhere.

use std::path::PathBuf;

use clap::Args;
use gateway::{Listener, RawGateway};

use crate::{files, signal};

/// Run a gateway that routes to workers elsewhere
#[derive(Args)]
pub(crate) struct Gateway {
    /// The configuration; config/gateway.toml is an example with every setting
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Gateway {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let stop = signal::stop()?;
        let settings = files::read_config::<RawGateway>(&self.config)?.check()?;
        let listeners = [Listener::bind(settings.listen)?, Listener::bind(settings.admin_listen)?];
        let (endpoint, admin) = (listeners[0].address(), listeners[1].address());
        tracing::info!(%endpoint, %admin, workers = settings.workers.len(), "gateway started");
        let ready = || tracing::info!("gateway ready");
        gateway::run(settings, listeners, Vec::new(), ready, stop).await?;
        tracing::info!("gateway stopped");
        Ok(())
    }
}
