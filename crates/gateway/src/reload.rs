//! Reads the configuration again while the gateway runs, and does what it says now, or nothing of it.
//!
//! Promises: a configuration with a problem changes nothing, and the problem is told with its field. One that is good
//! holds as a whole before the reload is answered; what runs already goes on under what it began with. What cannot
//! change in a running process (addresses, stores, where certificates are) is refused by name: a restart, or an upgrade in
//! place, takes it. What the files of the listener's certificate hold is part of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use admission::bearer::{BearerTokens, KeySetError};
use domain::{Problems, with_causes};
use proto::{CredentialsError, ServerIdentity};
use tokio::sync::{Mutex, Notify};

use crate::catalog::Tariff;
use crate::config::{GatewaySettings, RawGateway};
use crate::gateway::Gateway;
use crate::link::WorkerLink;
use crate::outside::Outside;

/// Where a configuration came from, and when it is to be read again.
pub struct Configuration {
    /// Reads what is written now.
    pub read: Box<dyn Fn() -> Result<RawGateway, String> + Send + Sync>,
    /// Notified when it is to be read again.
    pub changed: Arc<Notify>,
}

/// The configuration was not reloaded, and nothing changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// There is no file.
    #[error("this gateway was started without a configuration file")]
    NoFile,
    /// The file cannot be read, or is not a configuration.
    #[error("{0}")]
    Unreadable(String),
    /// Settings are wrong, or cannot change while it runs.
    #[error("{0}")]
    Wrong(#[from] Problems),
}

impl From<CredentialsError> for ReloadError {
    fn from(error: CredentialsError) -> Self {
        let mut problems = Problems::default();
        problems.add("tls", with_causes(&error));
        Self::Wrong(problems)
    }
}

impl From<KeySetError> for ReloadError {
    fn from(error: KeySetError) -> Self {
        let mut problems = Problems::default();
        problems.add("issuers", error.to_string());
        Self::Wrong(problems)
    }
}

/// Everything that a new configuration is told to.
pub(crate) struct Reloads {
    pub(crate) configuration: Option<Configuration>,
    /// What holds now. Kept while it changes, so that reloads come one after the other.
    pub(crate) settings: Mutex<GatewaySettings>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) tokens: Arc<BearerTokens>,
    pub(crate) outside: Outside,
    pub(crate) link: Arc<WorkerLink>,
    /// What clients are shown, if they are served over TLS.
    pub(crate) identity: Option<Arc<ServerIdentity>>,
}

impl Reloads {
    /// Reloads whenever that is asked for from outside, until dropped.
    pub(crate) async fn run(&self) {
        let Some(configuration) = &self.configuration else { return };
        loop {
            configuration.changed.notified().await;
            if let Err(error) = self.reload().await {
                tracing::error!(%error, "configuration not reloaded; what held before holds");
            }
        }
    }

    /// Reads the configuration again, and does what it says.
    pub(crate) async fn reload(&self) -> Result<(), ReloadError> {
        let mut settings = self.settings.lock().await;
        let next = self.read(&settings)?;
        // What can fail is done first. A certificate that is read by this counts whatever becomes of the rest, as it
        // would some seconds later by itself.
        self.look_at_certificate().await?;
        self.tokens.replace(next.issuers.clone())?;
        self.tokens.refresh(&self.outside).await;
        self.route(&settings, &next);
        self.gateway.bound_by(next.flow);
        self.gateway.catalog().adopt(Tariff::of(&next)).await;
        *settings = next;
        tracing::info!(workers = settings.workers.len(), "configuration reloaded");
        Ok(())
    }

    /// What holds now.
    pub(crate) async fn settings(&self) -> GatewaySettings {
        self.settings.lock().await.clone()
    }

    /// What a reload would say now; nothing changes.
    pub(crate) async fn check(&self) -> Result<(), ReloadError> {
        self.read(&*self.settings.lock().await).map(drop)
    }

    fn read(&self, now: &GatewaySettings) -> Result<GatewaySettings, ReloadError> {
        let configuration = self.configuration.as_ref().ok_or(ReloadError::NoFile)?;
        let next = (configuration.read)().map_err(ReloadError::Unreadable)?.check()?;
        same_process(now, &next)?;
        Ok(next)
    }

    async fn look_at_certificate(&self) -> Result<(), ReloadError> {
        let Some(identity) = self.identity.clone() else { return Ok(()) };
        let looked = tokio::task::spawn_blocking(move || identity.look()).await;
        // It ends early only with the process.
        looked.map_or(Ok(()), |looked| Ok(looked?))
    }

    /// Workers come and go as they are listed.
    fn route(&self, before: &GatewaySettings, next: &GatewaySettings) {
        let router = self.gateway.router();
        router.reconfigure(next.routing.clone());
        let addresses = |settings: &GatewaySettings| -> BTreeSet<String> {
            settings.workers.iter().map(|worker| worker.0.clone()).collect()
        };
        let (before, next) = (addresses(before), addresses(next));
        for address in before.difference(&next) {
            router.leave(address);
        }
        for address in next.difference(&before) {
            match self.link.worker(address) {
                Ok(worker) => router.join(address.clone(), worker),
                Err(error) => {
                    tracing::warn!(worker = %address, error = %error, "worker has no address");
                }
            }
        }
    }
}

/// Refuses, by name, what a process is told once.
fn same_process(now: &GatewaySettings, next: &GatewaySettings) -> Result<(), Problems> {
    let (store, next_store) = (&now.store, &next.store);
    let fixed = [
        ("listen", now.listen == next.listen),
        ("admin_listen", now.admin_listen == next.admin_listen),
        ("data", store.data == next_store.data),
        ("database", store.postgres == next_store.postgres),
        ("redis", store.redis == next_store.redis),
        ("pepper_file", store.pepper_file == next_store.pepper_file),
        ("gateways", store.slices.gateways == next_store.slices.gateways),
        (
            "limits.request_timeout",
            store.slices.request_timeout == next_store.slices.request_timeout,
        ),
        ("cache", store.cache == next_store.cache),
        ("tls", now.tls == next.tls),
        ("worker_token_file", now.worker_token_file == next.worker_token_file),
        ("worker_tls", now.worker_tls == next.worker_tls),
        ("directory", now.directory == next.directory),
    ];
    let mut problems = Problems::default();
    for (at, _) in fixed.iter().filter(|(_, same)| !same) {
        problems.add(*at, "cannot change while the gateway runs; restart it, or start the next one with --upgrade");
    }
    problems.into_result(())
}
