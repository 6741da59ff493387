//! When to stop: Ctrl-C, or SIGTERM from whoever started us. When to read the configuration again: SIGHUP.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Resolves at the first Ctrl-C or SIGTERM. A second one ends the process at once.
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(INTERRUPTED);
        });
    })
}

/// Notified at each SIGHUP.
pub(crate) fn changed() -> anyhow::Result<Arc<Notify>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let changed = Arc::new(Notify::new());
    let notified = Arc::clone(&changed);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            notified.notify_one();
        }
    });
    Ok(changed)
}

/// What shells report for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
