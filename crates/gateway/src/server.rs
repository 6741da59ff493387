//! Starts a gateway from its settings, and ends it without losing anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use admission::bearer::{BearerTokens, KeySetError};
use admission::tenancy::Registry;
use admission::{Admission, AdmissionParts, Directory, StoreError};
use arc_swap::ArcSwap;
use cache::Cache;
use domain::{Clock, Secret, SystemClock};
use proto::{ConnectError, CredentialsError, ServerIdentity, Worker};
use routing::{
    Connect, Directory as WorkerDirectory, DnsDirectory, Roster, Router, SystemResolver,
};
use store::{RedisDirectory, Stores};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::accounts::Accounts;
use crate::admin::AdminApi;
use crate::alerts::Alerts;
use crate::catalog::{Catalog, Tariff};
use crate::config::{GatewaySettings, WorkerAddress};
use crate::doors::Doors;
use crate::gateway::{Gateway, Parts};
use crate::handover::{HandoverError, Predecessor};
use crate::link::WorkerLink;
use crate::listener::Listener;
use crate::metrics::Metrics;
use crate::outside::Outside;
use crate::reload::{Configuration, Reloads};

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
    /// The certificate of the listener, or its key, cannot be used.
    #[error("use [tls]")]
    Certificate(#[from] CredentialsError),
    /// Metrics cannot be registered.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// A listener cannot be used.
    #[error("use listener")]
    Listener(#[source] std::io::Error),
    /// The place of a running gateway cannot be taken, or nobody could take this one's.
    #[error("take over")]
    Handover(#[from] HandoverError),
    /// A successor does not serve what its predecessor does.
    #[error(
        "no model was ready within {limit:?}, so the gateway that runs goes on; look at `workers`"
    )]
    NotReady {
        /// How long it was waited for.
        limit: Duration,
    },
}

/// What a gateway is started with.
pub struct Launch {
    /// What to serve.
    pub settings: GatewaySettings,
    /// Where clients and administrators connect, bound before.
    pub listeners: [Listener; 2],
    /// Workers in this process, beside configured ones.
    pub in_process: Vec<InProcessWorker>,
    /// The process that these listeners come from, if this one takes its place.
    pub predecessor: Option<Predecessor>,
    /// Where the settings came from, if they can be read again.
    pub configuration: Option<Configuration>,
}

/// Serves until `stop` resolves or a successor has taken the listeners; then lets running requests end within the
/// drain timeout.
///
/// `ready` is called once, when the first model can be asked for.
pub async fn run(
    launch: Launch,
    ready: impl FnOnce() + Send,
    stop: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let Launch { settings, listeners, in_process, mut predecessor, configuration } = launch;
    if let Some(predecessor) = &mut predecessor
        && !settings.store.shares_quotas()
    {
        // Two processes would count budgets apart. Connections wait in the listeners meanwhile.
        predecessor.relieve().await?;
        predecessor.gone().await;
    }
    // Who has gone already cannot be waited for.
    let predecessor = predecessor.filter(|_| settings.store.shares_quotas());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let stores = Arc::new(store::open(&settings.store, Arc::clone(&clock)).await?);
    let outside = Outside::new()?;
    let tokens = Arc::new(BearerTokens::new(settings.issuers.clone(), Arc::clone(&clock))?);
    tokens.refresh(&outside).await;
    let directory = Directory::open(Arc::clone(&stores.tenants), stores.pepper.clone()).await?;
    let directory = Arc::new(directory.believing(Arc::clone(&tokens)));
    let identity = settings.tls.clone().map(ServerIdentity::open).transpose()?;
    let link = Arc::new(WorkerLink::open(&settings)?);
    let router = router(&settings, in_process, &link)?;
    let gateway = assemble(&settings, &stores, &directory, &router, &clock)?;
    let accounts =
        Arc::new(Accounts { router, database: stores.database.clone(), clock: Arc::clone(&clock) });
    let reloads = Arc::new(Reloads {
        configuration,
        settings: Mutex::new(settings.clone()),
        gateway: Arc::clone(&gateway),
        tokens: Arc::clone(&tokens),
        outside: outside.clone(),
        link: Arc::clone(&link),
        identity: identity.map(Arc::new),
    });
    let registry =
        Registry::new(Arc::clone(&stores.tenants), stores.pepper.clone(), Arc::clone(&clock));
    let admin =
        AdminApi::new(Arc::clone(&reloads), registry, stores.database.clone(), Arc::clone(&clock));
    let beside = Beside {
        directory,
        stores: Arc::clone(&stores),
        tokens,
        outside,
        accounts: Arc::clone(&accounts),
        clock,
    };
    let mut background = beside.start(&gateway);
    let reloading = Arc::clone(&reloads);
    background.push(spawn(async move { reloading.run().await }));
    if let Some(roster) = roster(&settings, link)? {
        let gateway = Arc::clone(&gateway);
        background.push(spawn(async move { roster.run(gateway.router()).await }));
    }
    let doors = Doors { settings: &settings, reloads: &reloads, listeners, admin, predecessor };
    if let Some(successor) = doors.serve(ready, stop).await? {
        // It waits for the end of this connection, and then for nothing: only the process's own end may close it, which
        // frees the journal too.
        std::mem::forget(successor);
    }
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
    Ok(Arc::new(Gateway::new(Parts {
        admission: Admission::new(parts),
        catalog: Catalog::new(Arc::clone(router), Arc::clone(directory), Tariff::of(settings)),
        router: Arc::clone(router),
        cache,
        metrics: Metrics::new()?,
        clock: Arc::clone(clock),
        settings: ArcSwap::from_pointee(settings.flow),
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
    link: &WorkerLink,
) -> Result<Arc<Router>, GatewayError> {
    let mut workers: Vec<(String, Arc<dyn Worker>)> = Vec::new();
    workers.extend(in_process.into_iter().map(|InProcessWorker { name, worker }| (name, worker)));
    for WorkerAddress(address) in &settings.workers {
        workers.push((address.clone(), link.worker(address)?));
    }
    Ok(Router::new(workers, settings.routing.clone()))
}

/// Whoever looks for workers beside those that are written down, if anybody does.
fn roster(
    settings: &GatewaySettings,
    link: Arc<WorkerLink>,
) -> Result<Option<Roster>, GatewayError> {
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
        let found = link.found(address);
        found.inspect_err(|error| tracing::warn!(error = %error, "worker left out")).ok()
    });
    Ok(Some(Roster::new(directories, connect, settings.directory.interval)))
}

pub(crate) fn read_token(path: &Path) -> Result<Secret<String>, GatewayError> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|source| GatewayError::File { path: path.to_owned(), source })?;
    Ok(Secret::new(text.trim().to_owned()))
}

pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(task))
}
