//! Opens a gateway's listeners, and closes them without refusing anybody.
//!
//! A gateway that takes another's place opens them when it can serve what the other one serves, and only then tells
//! it to go. One that leaves is told so by a signal or by its successor: after a signal it first says that it is not
//! ready, so that balancers look elsewhere, and accepts for a while longer; after its successor's word it accepts
//! nothing more at once, as somebody else does. Then it ends what runs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::listeners::tls::TlsSettings as PingoraTls;
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use proto::ServerIdentity;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::{self, AdminApi};
use crate::config::GatewaySettings;
use crate::door::{App, Connections, Door};
use crate::gateway::Gateway;
use crate::handover::{Place, Predecessor};
use crate::listener::Listener;
use crate::reload::Reloads;
use crate::server::{GatewayError, spawn};

/// Where clients and administrators come in.
pub(crate) struct Doors<'a> {
    pub(crate) settings: &'a GatewaySettings,
    /// The gateway, and what holds of its settings when it leaves.
    pub(crate) reloads: &'a Reloads,
    pub(crate) listeners: [Listener; 2],
    pub(crate) admin: AdminApi,
    /// Who serves until this gateway does.
    pub(crate) predecessor: Option<Predecessor>,
}

/// Why the gateway leaves.
enum Leaving {
    /// It was told to.
    Stopped,
    /// Another one serves; it notices the end of this connection.
    Succeeded(UnixStream),
}

impl Doors<'_> {
    /// Lets clients in until the gateway is to leave, and out again. Returns the connection to its successor, if there
    /// is one, who waits for its end: it is not to be closed while this process has its stores.
    pub(crate) async fn serve(
        self,
        ready: impl FnOnce() + Send,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<UnixStream>, GatewayError> {
        let Self { settings, reloads, listeners, admin, mut predecessor } = self;
        let gateway = &reloads.gateway;
        tokio::pin!(stop);
        if let Some(predecessor) = &predecessor {
            tokio::select! {
                able = able(gateway, predecessor) => able?,
                () = &mut stop => return Ok(None),
            }
        }
        let [listener, admin_listener] = listeners;
        let place = Place::open(&settings.store.data, [&listener, &admin_listener]);
        let place = place.map_err(GatewayError::Listener)?;
        let (admin_stop, admin_stopped) = watch::channel(false);
        let _admin = serve_admin(admin_listener, admin, admin_stopped)?;
        let (stopping, stopped) = watch::channel(false);
        let connections = Connections::default();
        let door = Door::new(App::new(Arc::clone(gateway)), connections.clone());
        let serving = serve(listener, reloads.identity.clone(), door, stopped)?;
        if let Some(predecessor) = &mut predecessor {
            predecessor.relieve().await?;
        }

        let offered = || {
            let models = gateway.catalog().names();
            models.iter().map(ToString::to_string).collect()
        };
        let leaving = async {
            tokio::select! {
                () = &mut stop => Leaving::Stopped,
                successor = place.taken(offered) => Leaving::Succeeded(successor),
            }
        };
        tokio::pin!(leaving);
        let leaving = tokio::select! {
            () = until_ready(gateway) => {
                ready();
                leaving.await
            }
            leaving = &mut leaving => leaving,
        };
        let GatewaySettings { shutdown_delay, drain_timeout, .. } = reloads.settings().await;
        let successor = match leaving {
            Leaving::Stopped => {
                gateway.leave();
                tokio::time::sleep(shutdown_delay).await;
                None
            }
            Leaving::Succeeded(successor) => {
                tracing::info!("another process serves now; requests that run are finished here");
                let _ = admin_stop.send(true);
                Some(successor)
            }
        };
        let _ = stopping.send(true);
        drain(gateway, &connections, drain_timeout).await;
        drop(serving);
        Ok(successor)
    }
}

/// Waits until this gateway offers what its predecessor does; some of it, if not all of it comes in time.
async fn able(gateway: &Gateway, predecessor: &Predecessor) -> Result<(), GatewayError> {
    let wanted: HashSet<&str> = predecessor.models().iter().map(String::as_str).collect();
    let deadline = Instant::now() + ABLE_LIMIT;
    loop {
        let names = gateway.catalog().names();
        let missing =
            wanted.len() - names.iter().filter(|name| wanted.contains(name.as_str())).count();
        let ready = gateway.readiness().is_ok();
        let late = Instant::now() >= deadline;
        if ready && (missing == 0 || late) {
            if missing > 0 {
                tracing::warn!(missing, "models that the predecessor offers are not there yet");
            }
            return Ok(());
        }
        if late && !wanted.is_empty() {
            return Err(GatewayError::NotReady { limit: ABLE_LIMIT });
        }
        if late {
            // The predecessor cannot serve either.
            return Ok(());
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

fn serve_admin(
    listener: Listener,
    admin: AdminApi,
    mut stopped: watch::Receiver<bool>,
) -> Result<AbortOnDropHandle<()>, GatewayError> {
    let listener = listener.into_tokio().map_err(GatewayError::Listener)?;
    Ok(spawn(async move {
        let stop = async move {
            // Nobody who could tell a stop is left only when the process ends.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let served = axum::serve(listener, admin::routes(admin)).with_graceful_shutdown(stop);
        if let Err(error) = served.await {
            tracing::error!(error = ?error, "admin listener failed");
        }
    }))
}

fn serve(
    listener: Listener,
    identity: Option<Arc<ServerIdentity>>,
    door: Door,
    stopped: watch::Receiver<bool>,
) -> Result<AbortOnDropHandle<()>, GatewayError> {
    let mut service = Service::new("gateway".to_owned(), door);
    let address = listener.address().to_string();
    match identity {
        None => service.add_tcp(&address),
        Some(identity) => service.add_tls_with_settings(&address, None, tls(identity)?),
    }
    let sockets = listener.into_pingora();
    Ok(spawn(async move { service.start_service(Some(sockets), stopped, 1).await }))
}

/// TLS 1.2 and 1.3, and HTTP/2 for those that speak it.
fn tls(identity: Arc<ServerIdentity>) -> Result<PingoraTls, GatewayError> {
    // The resolver goes before files.
    let mut tls = PingoraTls::intermediate("", "")
        .map_err(|error| GatewayError::Listener(std::io::Error::other(error)))?;
    tls.set_cert_resolver(identity);
    tls.enable_h2();
    Ok(tls)
}

async fn until_ready(gateway: &Gateway) {
    while gateway.readiness().is_err() {
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// Waits for running requests, no longer than `timeout`, and a moment for connections to be closed.
async fn drain(gateway: &Gateway, connections: &Connections, timeout: Duration) {
    let began = Instant::now();
    loop {
        let requests = gateway.in_flight();
        let lingering = connections.open() > 0 && began.elapsed() < LINGER.min(timeout);
        if requests <= 0 && !lingering {
            return;
        }
        if began.elapsed() >= timeout {
            tracing::warn!(requests, "requests cut off at the drain timeout");
            return;
        }
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
}

const READY_INTERVAL: Duration = Duration::from_millis(5);
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
/// How long a successor waits for its workers, at most.
const ABLE_LIMIT: Duration = Duration::from_secs(30);
/// Idle connections are closed after a second; some time more for whoever is slow to hang up.
const LINGER: Duration = Duration::from_secs(2);
