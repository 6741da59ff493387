//! Who tells a worker that its machine is about to go.
//!
//! A [`NoticeSource`] is one way to be told; each is a file here, and a line in [`NoticeSettings`] where it is
//! configured. They yield [`Notice`]s and decide nothing: what a notice leads to is decided where the worker is
//! served. The contract's `Drain` is none of them: it is what a notice comes to.
//!
//! Promises: every request to a metadata service has a deadline and goes to that machine alone, through no
//! proxy; a service that fails is asked ever more seldom, and told of once in the log, until it answers again.

mod aws;
mod azure;
mod file;
mod gcp;
mod metadata;
mod rounds;
mod stop;

#[cfg(test)]
mod fake;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::SystemClock;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use self::metadata::Metadata;
use crate::local::LocalWorker;

pub use self::metadata::AddressError;
pub(crate) use self::stop::Stop;

/// What a source was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The machine may go some day; nobody said that it will.
    Advice,
    /// The machine goes: when, if that is known.
    Leave(Option<Duration>),
    /// The process is to end, within this time.
    Exit(Duration),
}

/// One way to be told that a machine is about to go.
#[async_trait]
pub(crate) trait NoticeSource: Send {
    /// Its name in the log.
    fn name(&self) -> &'static str;

    /// The next notice; waits as long as there is none. Safe to drop and call again.
    async fn next(&mut self) -> Notice;

    /// The worker is empty: the machine may go now. Whoever wants to know is told.
    async fn release(&mut self) {}
}

/// Where to listen for notices, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeSettings {
    /// The instance metadata service of AWS.
    Aws {
        /// Its address.
        address: String,
        /// How often it is asked.
        every: Duration,
    },
    /// The metadata server of Google Cloud.
    Gcp {
        /// Its address.
        address: String,
    },
    /// Scheduled Events of Azure.
    Azure {
        /// The metadata service's address.
        address: String,
        /// How often it is asked.
        every: Duration,
        /// What events call this machine; the metadata service knows, if this is absent.
        machine: Option<String>,
    },
    /// A file that appears.
    File {
        /// Which one.
        path: PathBuf,
        /// How often it is looked for.
        every: Duration,
    },
}

impl NoticeSettings {
    /// The source itself.
    pub(crate) fn open(self) -> Result<Box<dyn NoticeSource>, AddressError> {
        let clock = Arc::new(SystemClock);
        Ok(match self {
            Self::Aws { address, every } => {
                Box::new(aws::Aws::new(Metadata::at(&address)?, every, clock))
            }
            Self::Gcp { address } => Box::new(gcp::Gcp::new(Metadata::at(&address)?)),
            Self::Azure { address, every, machine } => {
                Box::new(azure::Azure::new(Metadata::at(&address)?, every, machine, clock))
            }
            Self::File { path, every } => Box::new(file::File::new(path, every)),
        })
    }
}

/// What came of listening.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A notice, and from where. If it says that the machine goes, `Released` follows once the worker is empty.
    Notice(&'static str, Notice),
    /// Whoever gave notice there knows that the machine may go.
    Released(&'static str),
}

/// Listens to one source until the handle is dropped, and tells it when the worker is out.
pub(crate) fn listen(
    mut source: Box<dyn NoticeSource>,
    worker: Arc<LocalWorker>,
    heard: mpsc::Sender<Heard>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let (mut leaving, mut released) = (false, false);
        loop {
            tokio::select! {
                notice = source.next() => {
                    if heard.send(Heard::Notice(source.name(), notice)).await.is_err() {
                        return;
                    }
                    if notice != Notice::Advice {
                        (leaving, released) = (true, false);
                        // Before that it is not out, however empty.
                        worker.draining().await;
                    }
                }
                () = worker.out(), if leaving && !released => {
                    source.release().await;
                    released = true;
                    if heard.send(Heard::Released(source.name())).await.is_err() {
                        return;
                    }
                }
            }
        }
    }))
}

/// A notice waits here until the one before it was acted on.
pub(crate) const MAX_HEARD: usize = 4;
