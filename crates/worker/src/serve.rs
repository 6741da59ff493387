//! A worker as a process: on the network until it is told to end, then emptied.
//!
//! A notice that the machine goes empties the worker, and so does `Drain`; the process stays. Only the order to
//! end (SIGTERM) ends it: whoever started it would start it anew otherwise, on a machine that is about to go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::Secret;
use proto::{ServeError, WorkerServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::hosted::Hosted;
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
    /// File that holds the token gateways must show.
    pub token_file: Option<PathBuf>,
    /// How long it may take to end.
    pub drain_timeout: Duration,
    /// Where to listen for notices.
    pub notices: Vec<NoticeSettings>,
}

/// Serves `worker` on `listener` until `stop` resolves; then takes nothing new, and ends once everything that
/// ran is finished or handed over, within `drain_timeout`.
pub async fn serve(
    worker: Arc<dyn Hosted>,
    listener: TcpListener,
    serving: Serving,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RunError> {
    let Serving { token_file, drain_timeout, notices } = serving;
    let token = token_file.map(read_token).transpose()?;
    let (heard, hearing) = mpsc::channel(MAX_HEARD);
    let stop = Box::new(Stop::new(stop, drain_timeout));
    let mut listening = vec![listen(stop, Arc::clone(&worker), heard.clone())];
    for settings in notices {
        listening.push(listen(settings.open()?, Arc::clone(&worker), heard.clone()));
    }
    let (told, telling) = tokio::sync::oneshot::channel::<()>();
    let served = WorkerServer::new(Arc::clone(&worker) as _, token).serve(listener, async {
        let _ = telling.await;
    });
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => return Ok(ended?),
        () = obey(&*worker, hearing) => {}
    }
    let _ = told.send(());
    // Calls that only watch never end by themselves; their peers learn it from the connection.
    let _ = tokio::time::timeout(GOODBYE, served).await;
    Ok(())
}

/// Acts on notices until the process may end: it was ordered to, the worker is empty, and everybody knows who
/// wanted to know that.
async fn obey(worker: &dyn Hosted, mut hearing: mpsc::Receiver<Heard>) {
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

async fn drain(worker: &dyn Hosted, leaves_in: Option<Duration>) {
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
