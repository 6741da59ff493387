//! Starts a gateway from its settings, and ends it without losing anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use admission::bearer::{BearerTokens, KeySetError};
use admission::tenancy::Registry;
use admission::{Admission, AdmissionParts, Directory, StoreError};
use cache::Cache;
use domain::{Clock, Secret, SystemClock};
use pingora_core::listeners::tls::TlsSettings as PingoraTls;
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use proto::{ConnectError, GrpcWorker, Worker};
use routing::{
    Connect, Directory as WorkerDirectory, DnsDirectory, Roster, Router, SystemResolver,
};
use store::{RedisDirectory, Stores};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::accounts::Accounts;
use crate::admin::{self, AdminApi};
use crate::alerts::Alerts;
use crate::catalog::Catalog;
use crate::config::{GatewaySettings, TlsSettings};
use crate::flow::App;
use crate::gateway::{Gateway, Parts};
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::outside::Outside;

/// A worker in this process.
pub struct InProcessWorker {
    /// Its name in logs.
    pub name: String,
    /// The worker.
    pub worker: Arc<dyn Worker>,
}

/// A gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// State cannot be opened.
    #[error("open stores")]
    Store(#[from] StoreError),
    /// A worker's address cannot be used.
    #[error("reach workers")]
    Worker(#[from] ConnectError),
    /// The keys of an identity provider cannot be used.
    #[error("use key set")]
    Keys(#[from] KeySetError),
    /// A file cannot be used.
    #[error("read {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("use certificate {certificate} and its key: {reason}")]
    Certificate {
        /// The chain's file.
        certificate: PathBuf,
        /// Why.
        reason: String,
    },
    /// Metrics cannot be registered.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// A listener cannot be used.
    #[error("use listener")]
    Listener(#[source] std::io::Error),
}

/// Serves `settings` on listeners bound before, with workers in this process beside configured
/// ones, until `stop` resolves; then lets running requests end within the drain timeout.
///
/// `ready` is called once, when the first model can be asked for.
pub async fn run(
    settings: GatewaySettings,
    listeners: [Listener; 2],
    in_process: Vec<InProcessWorker>,
    ready: impl FnOnce() + Send,
    stop: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let [listener, admin_listener] = listeners;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let stores = Arc::new(store::open(&settings.store, Arc::clone(&clock)).await?);
    let outside = Outside::new()?;
    let tokens = Arc::new(BearerTokens::new(settings.issuers.clone(), Arc::clone(&clock))?);
    tokens.refresh(&outside).await;
    let directory = Directory::open(Arc::clone(&stores.tenants), stores.pepper.clone()).await?;
    let directory = Arc::new(directory.believing(Arc::clone(&tokens)));
    let router = router(&settings, in_process)?;
    let gateway = assemble(&settings, &stores, &directory, &router, &clock)?;
    let tenants = Arc::clone(&stores.tenants);
    let registry = Registry::new(tenants, stores.pepper.clone(), Arc::clone(&clock));
    let database = stores.database.clone();
    let admin = AdminApi::new(Arc::clone(&gateway), registry, database, Arc::clone(&clock));
    let (stopping, stopped) = watch::channel(false);
    let accounts =
        Accounts { router, database: stores.database.clone(), clock: Arc::clone(&clock) };
    let accounts = Arc::new(accounts);
    let beside = Beside {
        directory,
        stores: Arc::clone(&stores),
        tokens,
        outside,
        accounts: Arc::clone(&accounts),
        clock,
    };
    let mut background = beside.start(&gateway);
    if let Some(roster) = roster(&settings)? {
        let gateway = Arc::clone(&gateway);
        background.push(spawn(async move { roster.run(gateway.router()).await }));
    }
    background.push(serve_admin(admin_listener, admin)?);
    let serving = serve(listener, &settings, &gateway, stopped)?;

    tokio::pin!(stop);
    tokio::select! {
        () = until_ready(&gateway) => {
            ready();
            (&mut stop).await;
        }
        () = &mut stop => {}
    }
    let _ = stopping.send(true);
    drain(&gateway, settings.drain_timeout).await;
    drop(serving);
    gateway.admission().close().await;
    accounts.keep().await;
    stores.ledger.flush().await?;
    stores.quota.give_back().await;
    drop(background);
    Ok(())
}

/// The part that answers requests.
fn assemble(
    settings: &GatewaySettings,
    stores: &Stores,
    directory: &Arc<Directory>,
    router: &Arc<Router>,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<Gateway>, GatewayError> {
    let cache = (!stores.cache.is_empty()).then(|| Cache::new(stores.cache.clone()));
    let parts = AdmissionParts {
        gateway: stores.gateway,
        directory: Arc::clone(directory),
        quota: Arc::clone(&stores.quota) as _,
        ledger: Arc::clone(&stores.ledger) as _,
        clock: Arc::clone(clock),
    };
    let prices = settings.prices.clone();
    Ok(Arc::new(Gateway::new(Parts {
        admission: Admission::new(parts),
        catalog: Catalog::new(
            Arc::clone(router),
            Arc::clone(directory),
            prices,
            settings.gpu_time_markup_percent,
        )
        .sharing(settings.shares.clone()),
        router: Arc::clone(router),
        cache,
        metrics: Metrics::new()?,
        clock: Arc::clone(clock),
        settings: settings.flow,
    })))
}

/// What goes on beside the answering of requests.
struct Beside {
    directory: Arc<Directory>,
    stores: Arc<Stores>,
    tokens: Arc<BearerTokens>,
    outside: Outside,
    accounts: Arc<Accounts>,
    clock: Arc<dyn Clock>,
}

impl Beside {
    /// Starts everything; each goes on until it is dropped.
    fn start(self, gateway: &Arc<Gateway>) -> Vec<AbortOnDropHandle<()>> {
        let Self { directory, stores, tokens, outside, accounts, clock } = self;
        let alerts = Alerts {
            directory: Arc::clone(&directory),
            database: stores.database.clone(),
            outside: outside.clone(),
            clock,
        };
        let catalog = Arc::clone(gateway);
        let mut background = gateway.router().follow();
        background.push(spawn(async move { directory.follow().await }));
        background.push(spawn(async move { catalog.catalog().follow().await }));
        background.push(spawn(async move { stores.run().await }));
        background.push(spawn(async move { tokens.follow(&outside).await }));
        background.push(spawn(async move { alerts.run().await }));
        background.push(spawn(async move { accounts.run().await }));
        background
    }
}

fn router(
    settings: &GatewaySettings,
    in_process: Vec<InProcessWorker>,
) -> Result<Arc<Router>, GatewayError> {
    let token = settings.worker_token_file.as_deref().map(read_token).transpose()?;
    let mut workers: Vec<(String, Arc<dyn Worker>)> = Vec::new();
    workers.extend(in_process.into_iter().map(|InProcessWorker { name, worker }| (name, worker)));
    for address in &settings.workers {
        let worker = GrpcWorker::new(&address.0, token.as_ref())?;
        workers.push((address.0.clone(), Arc::new(worker)));
    }
    Ok(Router::new(workers, settings.routing.clone()))
}

/// Whoever looks for workers beside those that are written down, if anybody does.
fn roster(settings: &GatewaySettings) -> Result<Option<Roster>, GatewayError> {
    let token = settings.worker_token_file.as_deref().map(read_token).transpose()?;
    let mut directories: Vec<Arc<dyn WorkerDirectory>> = Vec::new();
    if let Some(name) = &settings.directory.dns
        && let Some(dns) = DnsDirectory::new(name, SystemResolver)
    {
        directories.push(Arc::new(dns));
    }
    if settings.directory.announced
        && let Some(address) = &settings.store.redis
    {
        let redis = RedisDirectory::new(address.expose());
        let redis = redis.map_err(|error| StoreError::new("open worker directory", error))?;
        directories.push(Arc::new(redis));
    }
    if directories.is_empty() {
        return Ok(None);
    }
    let connect: Connect = Box::new(move |address| {
        let worker = GrpcWorker::new(address, token.as_ref()).ok()?;
        Some(Arc::new(worker) as Arc<dyn Worker>)
    });
    Ok(Some(Roster::new(directories, connect, settings.directory.interval)))
}

pub(crate) fn read_token(path: &Path) -> Result<Secret<String>, GatewayError> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| GatewayError::File { path: path.to_owned(), source })?;
    Ok(Secret::new(text.trim().to_owned()))
}

fn serve_admin(listener: Listener, admin: AdminApi) -> Result<AbortOnDropHandle<()>, GatewayError> {
    let listener = listener.into_tokio().map_err(GatewayError::Listener)?;
    Ok(spawn(async move {
        // axum's accept loop does not end by itself.
        let _ = axum::serve(listener, admin::routes(admin)).await;
    }))
}

fn serve(
    listener: Listener,
    settings: &GatewaySettings,
    gateway: &Arc<Gateway>,
    stopped: watch::Receiver<bool>,
) -> Result<AbortOnDropHandle<()>, GatewayError> {
    let mut service = Service::new("gateway".to_owned(), App::new(Arc::clone(gateway)));
    let address = listener.address().to_string();
    match &settings.tls {
        None => service.add_tcp(&address),
        Some(files) => service.add_tls_with_settings(&address, None, tls(files)?),
    }
    let sockets = listener.into_pingora();
    Ok(spawn(async move { service.start_service(Some(sockets), stopped, 1).await }))
}

fn tls(files: &TlsSettings) -> Result<PingoraTls, GatewayError> {
    let unusable = |reason: String| GatewayError::Certificate {
        certificate: files.certificate.clone(),
        reason,
    };
    for path in [&files.certificate, &files.key] {
        std::fs::read(path).map_err(|source| GatewayError::File { path: path.clone(), source })?;
    }
    let path = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| unusable("its path is not UTF-8".to_owned()))
    };
    let (certificate, key) = (path(&files.certificate)?, path(&files.key)?);
    let mut tls = PingoraTls::intermediate(&certificate, &key)
        .map_err(|error| unusable(error.to_string()))?;
    tls.enable_h2();
    Ok(tls)
}

async fn until_ready(gateway: &Gateway) {
    while gateway.readiness().is_err() {
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// Waits for running requests, and no longer than `timeout`.
async fn drain(gateway: &Gateway, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    while gateway.in_flight() > 0 {
        if Instant::now() >= deadline {
            tracing::warn!(requests = gateway.in_flight(), "requests cut off at the drain timeout");
            return;
        }
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
}

fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

const READY_INTERVAL: Duration = Duration::from_millis(5);
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
