//! Which workers there are.
//!
//! A [`Directory`] lists addresses; a [`Roster`] asks its directories again and again, and tells the router who came and
//! who left. A directory that does not answer keeps what it last listed: whether a worker can be reached is for its
//! own stream of states to tell, and a name server that is down takes nobody out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::Worker;

use crate::router::Router;

/// A list of workers.
#[async_trait]
pub trait Directory: Send + Sync {
    /// What it is called in logs.
    fn name(&self) -> &str;

    /// The addresses of all workers there are now, as `http://host:port`.
    async fn members(&self) -> Result<Vec<String>, DirectoryError>;
}

/// Where workers say that they are there, again and again: who stops saying so is forgotten.
#[async_trait]
pub trait Announce: Send + Sync {
    /// A worker at `address` is there, for `time_to_live` unless it says so again.
    async fn announce(&self, address: &str, time_to_live: Duration) -> Result<(), DirectoryError>;

    /// It is there no longer.
    async fn withdraw(&self, address: &str) -> Result<(), DirectoryError>;
}

/// A directory does not answer.
#[derive(Debug, thiserror::Error)]
#[error("ask directory")]
pub struct DirectoryError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl DirectoryError {
    /// For this reason.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Turns a name into addresses.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All addresses of `host`, with this port.
    async fn resolve(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>>;
}

/// The machine's own way of resolving names.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }
}

/// One worker behind each address of a name: a headless service of Kubernetes, say.
pub struct DnsDirectory<R = SystemResolver> {
    scheme: String,
    host: String,
    port: u16,
    resolver: R,
}

impl<R: Resolve> DnsDirectory<R> {
    /// Workers behind `name`, written `http://host:port`; `None` if it is not.
    pub fn new(name: &str, resolver: R) -> Option<Self> {
        let (scheme, rest) = name.split_once("://")?;
        let (host, port) = rest.rsplit_once(':')?;
        let known = ["http", "https"].contains(&scheme) && !host.is_empty() && !rest.contains('/');
        let (scheme, host) = (scheme.to_owned(), host.to_owned());
        known.then_some(Self { scheme, host, port: port.parse().ok()?, resolver })
    }
}

#[async_trait]
impl<R: Resolve> Directory for DnsDirectory<R> {
    fn name(&self) -> &str {
        &self.host
    }

    async fn members(&self) -> Result<Vec<String>, DirectoryError> {
        let found = self.resolver.resolve(&self.host, self.port).await;
        let found = found.map_err(DirectoryError::new)?;
        Ok(found.iter().map(|address| format!("{}://{address}", self.scheme)).collect())
    }
}

/// How an address becomes a worker; `None` if it is no address.
pub type Connect = Box<dyn Fn(&str) -> Option<Arc<dyn Worker>> + Send + Sync>;

/// Keeps a router's workers as directories list them.
pub struct Roster {
    directories: Vec<(Arc<dyn Directory>, BTreeSet<String>)>,
    connect: Connect,
    interval: Duration,
    joined: BTreeSet<String>,
}

impl Roster {
    /// Workers that `directories` list, asked every `interval`, reached by `connect`.
    pub fn new(
        directories: impl IntoIterator<Item = Arc<dyn Directory>>,
        connect: Connect,
        interval: Duration,
    ) -> Self {
        let directories = directories.into_iter().map(|directory| (directory, BTreeSet::new()));
        let directories = directories.collect();
        Self { directories, connect, interval, joined: BTreeSet::new() }
    }

    /// Asks for ever.
    pub async fn run(mut self, router: &Router) {
        let mut silent: BTreeSet<String> = BTreeSet::new();
        loop {
            self.ask(router, &mut silent).await;
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn ask(&mut self, router: &Router, silent: &mut BTreeSet<String>) {
        for (directory, listed) in &mut self.directories {
            let asked = tokio::time::timeout(ASK_LIMIT, directory.members()).await;
            let answered = asked.unwrap_or_else(|_| Err(DirectoryError::new("no answer in time")));
            match answered {
                Ok(members) => {
                    silent.remove(directory.name());
                    *listed = members.into_iter().take(MAX_MEMBERS).collect();
                }
                Err(error) => {
                    // Told once, not every few seconds.
                    if silent.insert(directory.name().to_owned()) {
                        let directory = directory.name();
                        tracing::warn!(directory, error = ?error, "directory does not answer");
                    }
                }
            }
        }
        let all: BTreeSet<String> =
            self.directories.iter().flat_map(|(_, listed)| listed.iter().cloned()).collect();
        for address in self.joined.difference(&all) {
            router.leave(address);
        }
        for address in all.difference(&self.joined) {
            if let Some(worker) = (self.connect)(address) {
                router.join(address.clone(), worker);
            } else {
                tracing::warn!(worker = %address, "directory lists what is no address");
            }
        }
        self.joined = all;
    }
}

/// Says that a worker is there, until dropped; every third of `time_to_live`.
pub async fn keep_announced(place: &dyn Announce, address: &str, time_to_live: Duration) {
    let mut silent = false;
    loop {
        let told = tokio::time::timeout(ASK_LIMIT, place.announce(address, time_to_live)).await;
        let told = told.unwrap_or_else(|_| Err(DirectoryError::new("no answer in time")));
        if let Err(error) = &told
            && !silent
        {
            tracing::warn!(error = ?error, "worker not announced");
        }
        silent = told.is_err();
        tokio::time::sleep(time_to_live / 3).await;
    }
}

const ASK_LIMIT: Duration = Duration::from_secs(5);
/// A directory that lists more is not a directory of ours.
const MAX_MEMBERS: usize = 10_000;
