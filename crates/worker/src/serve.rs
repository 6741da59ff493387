//! A worker as a process: on the network until told to stop, then drained.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::Secret;
use proto::{ServeError, Worker, WorkerServer};
use tokio::net::TcpListener;

use crate::local::LocalWorker;

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
    /// The network failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Serves `worker` on `listener` until `stop` resolves; then takes nothing new, and waits for
/// accepted sequences up to `drain_timeout`.
pub async fn serve(
    worker: Arc<LocalWorker>,
    listener: TcpListener,
    token_file: Option<PathBuf>,
    drain_timeout: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let token = token_file.map(read_token).transpose()?;
    let served = Arc::clone(&worker);
    let drained = async {
        stop.await;
        // Draining by itself cannot fail: the engine is in this process.
        let _ = worker.drain(Some(drain_timeout)).await;
        tracing::info!("draining");
        if tokio::time::timeout(drain_timeout, worker.idle()).await.is_err() {
            tracing::warn!("sequences cut off at the drain timeout");
        }
    };
    tokio::pin!(drained);
    let (told, telling) = tokio::sync::oneshot::channel::<()>();
    let serving = WorkerServer::new(served, token).serve(listener, async {
        let _ = telling.await;
    });
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        () = &mut drained => {}
    }
    let _ = told.send(());
    // Calls that only watch never end by themselves; their peers learn it from the connection.
    let _ = tokio::time::timeout(GOODBYE, serving).await;
    Ok(())
}

fn read_token(path: PathBuf) -> Result<Secret<String>, RunError> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Secret::new(text.trim().to_owned())),
        Err(source) => Err(RunError::Token { path, source }),
    }
}

const GOODBYE: Duration = Duration::from_millis(500);
