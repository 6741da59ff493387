//! A worker as a process: on the network until it is told to end, then emptied.
//!
//! A notice that the machine goes empties the worker, and so does `Drain`; the process stays. Only the order to
//! end (SIGTERM) ends it: whoever started it would start it anew otherwise, on a machine that is about to go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::Secret;
use proto::{
    ClientCredentials, CredentialsError, GrpcWorker, ServeError, ServerCredentials, Worker as _,
    WorkerError, WorkerServer,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::{Others, WorkerSettings};
use crate::local::LocalWorker;
use crate::notice::{AddressError, Heard, MAX_HEARD, Notice, NoticeSettings, Stop, listen};

/// A worker cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The token cannot be read.
    #[error("read {path}")]
    Token {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Certificates and keys cannot be used.
    #[error("use [tls]")]
    Credentials(#[from] CredentialsError),
    /// Nobody can be asked for notices.
    #[error("listen for notices")]
    Notices(#[from] AddressError),
    /// The network failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// How a worker is served.
#[derive(Clone, Debug, Default)]
pub struct Serving {
    /// The token gateways must show.
    pub token: Option<Secret<String>>,
    /// What it shows to gateways, and which it serves; no TLS if absent.
    pub tls: Option<Arc<ServerCredentials>>,
    /// What it shows to other workers, and how it knows them; none is reached over TLS if absent.
    pub others: Option<Arc<ClientCredentials>>,
    /// Nobody needs a warning that other machines are served without TLS.
    pub allow_plaintext: bool,
    /// How long it may take to end.
    pub drain_timeout: Duration,
    /// Where to listen for notices.
    pub notices: Vec<NoticeSettings>,
}

impl Serving {
    /// As `settings` say; reads the files they name.
    pub fn of(settings: &WorkerSettings) -> Result<Self, RunError> {
        let WorkerSettings { token_file, tls, allow_plaintext, drain_timeout, notices, .. } =
            settings;
        let open = |others: &Others| {
            ClientCredentials::open(others.files.clone(), others.server_name.as_deref())
        };
        let others = settings.others.as_ref().map(open).transpose()?;
        let tls = tls.clone().map(ServerCredentials::open).transpose()?;
        Ok(Self {
            others: others.map(Arc::new),
            token: token_file.clone().map(read_token).transpose()?,
            tls: tls.map(Arc::new),
            allow_plaintext: *allow_plaintext,
            drain_timeout: *drain_timeout,
            notices: notices.clone(),
        })
    }

    /// Says it if others could read along.
    fn warn(&self, listener: &TcpListener) {
        let others = listener.local_addr().is_ok_and(|address| !address.ip().is_loopback());
        if others && self.tls.is_none() && !self.allow_plaintext {
            tracing::warn!(
                "other machines are served without TLS: who can read the network reads prompts and the token; configure [tls], or set `allow_plaintext = true` inside a network that encrypts"
            );
        }
    }
}

/// Serves `worker` on `listener` until `stop` resolves; then takes nothing new, and ends once everything that
/// ran is finished or handed over, within `drain_timeout`.
pub async fn serve(
    worker: Arc<LocalWorker>,
    listener: TcpListener,
    serving: Serving,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    serving.warn(&listener);
    let Serving { token, tls, others, drain_timeout, notices, .. } = serving;
    reach_others(worker.as_ref(), token.clone(), others);
    let (heard, hearing) = mpsc::channel(MAX_HEARD);
    let stop = Box::new(Stop::new(stop, drain_timeout));
    let mut listening = vec![listen(stop, Arc::clone(&worker), heard.clone())];
    for settings in notices {
        listening.push(listen(settings.open()?, Arc::clone(&worker), heard.clone()));
    }
    let (told, telling) = tokio::sync::oneshot::channel::<()>();
    let mut server = WorkerServer::new(Arc::clone(&worker) as _, token);
    if let Some(credentials) = tls {
        server = server.secured(credentials);
    }
    let served = server.serve(listener, async {
        let _ = telling.await;
    });
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => return Ok(ended?),
        () = obey(&worker, hearing) => {}
    }
    let _ = told.send(());
    // Calls that only watch never end by themselves; their peers learn it from the connection.
    let _ = tokio::time::timeout(GOODBYE, served).await;
    Ok(())
}

/// Acts on notices until the process may end: it was ordered to, the worker is empty, and everybody knows who
/// wanted to know that.
async fn obey(worker: &LocalWorker, mut hearing: mpsc::Receiver<Heard>) {
    let mut end_by = None;
    let mut owed = BTreeSet::new();
    loop {
        let limit = end_by.unwrap_or_else(Instant::now);
        let heard = tokio::select! {
            heard = hearing.recv() => heard,
            () = tokio::time::sleep_until(limit), if end_by.is_some() => {
                // What was handed over may still be copied until then; that alone is no loss.
                if tokio::time::timeout(Duration::ZERO, worker.out()).await.is_err() {
                    tracing::warn!("sequences cut off at the drain timeout");
                }
                return;
            }
        };
        // It never ends before the process does.
        let Some(heard) = heard else { return };
        match heard {
            Heard::Notice(source, Notice::Advice) => {
                tracing::warn!(source, "the machine may go some day");
                worker.warn();
            }
            Heard::Notice(source, Notice::Leave(leaves_in)) => {
                tracing::warn!(source, leaves_in = ?leaves_in, "the machine goes");
                owed.insert(source);
                drain(worker, leaves_in).await;
            }
            Heard::Notice(source, Notice::Exit(within)) => {
                owed.insert(source);
                end_by = Some(Instant::now() + within);
                drain(worker, Some(within)).await;
            }
            Heard::Released(source) => {
                owed.remove(source);
            }
        }
        if end_by.is_some() && owed.is_empty() {
            return;
        }
    }
}

/// Lets the worker fetch blocks from others, which ask for the same token.
fn reach_others(
    worker: &LocalWorker,
    token: Option<Secret<String>>,
    credentials: Option<Arc<ClientCredentials>>,
) {
    worker.reach(Box::new(move |address| {
        let other = GrpcWorker::reached(address, token.as_ref(), credentials.as_ref());
        let other = other.map_err(|error| WorkerError::Unreachable(error.to_string()))?;
        Ok(Arc::new(other))
    }));
}

async fn drain(worker: &LocalWorker, leaves_in: Option<Duration>) {
    // Draining by itself cannot fail: the engine is in this process.
    let _ = worker.drain(leaves_in).await;
}

fn read_token(path: PathBuf) -> Result<Secret<String>, RunError> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Secret::new(text.trim().to_owned())),
        Err(source) => Err(RunError::Token { path, source }),
    }
}

const GOODBYE: Duration = Duration::from_millis(500);
