//! `tollgate gateway`: the endpoint alone, routing to workers elsewhere.

use std::path::PathBuf;

use clap::Args;
use gateway::{Configuration, Launch, Listener, Predecessor, RawGateway, check_listeners};

use crate::{files, signal};

/// Run a gateway that routes to workers elsewhere
#[derive(Args)]
pub(crate) struct Gateway {
    /// The configuration; config/gateway.toml is an example with every setting
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Take over from the gateway that runs with the same `data`: no connection is refused, and it ends what it
    /// has begun
    #[arg(long)]
    upgrade: bool,
}

impl Gateway {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (stop, changed) = (signal::stop()?, signal::changed()?);
        let settings = files::read_config::<RawGateway>(&self.config)?.check()?;
        let (predecessor, listeners) = if self.upgrade {
            let (predecessor, listeners) = Predecessor::find(&settings.store.data).await?;
            check_listeners(&listeners, settings.listen, settings.admin_listen)?;
            (Some(predecessor), listeners)
        } else {
            let listeners = [settings.listen, settings.admin_listen].map(Listener::bind);
            let [endpoint, admin] = listeners;
            (None, [endpoint?, admin?])
        };
        let (endpoint, admin) = (listeners[0].address(), listeners[1].address());
        tracing::info!(%endpoint, %admin, workers = settings.workers.len(), "gateway started");
        let config = self.config;
        let read =
            move || files::read_config::<RawGateway>(&config).map_err(|error| format!("{error:#}"));
        let configuration = Some(Configuration { read: Box::new(read), changed });
        let in_process = Vec::new();
        let launch = Launch { settings, listeners, in_process, predecessor, configuration };
        let ready = || tracing::info!("gateway ready");
        gateway::run(launch, ready, stop).await?;
        tracing::info!("gateway stopped");
        Ok(())
    }
}
