//! The workers that a configuration names, as an administrator asks them from a shell: directly, without a
//! gateway between.

use std::sync::Arc;
use std::time::Duration;

use domain::{LoadOrder, ModelInfo, ModelName, Rent};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use proto::{Worker, WorkerError, WorkerState};

use crate::config::GatewaySettings;
use crate::link::WorkerLink;
use crate::server::GatewayError;

/// The workers that a configuration names.
pub struct Workers(Vec<(String, Arc<dyn Worker>)>);

/// A worker was not asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum AskWorkerError {
    /// There is none of this name.
    #[error("no worker is called `{name}`; there are: {known}")]
    Unknown {
        /// What it was called.
        name: String,
        /// What there is.
        known: String,
    },
    /// It said no, or nothing.
    #[error("ask worker {name}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: WorkerError,
    },
}

impl Workers {
    /// Those that `settings` name, shown what gateways show.
    pub fn of(settings: &GatewaySettings) -> Result<Self, GatewayError> {
        let link = WorkerLink::open(settings)?;
        let mut workers: Vec<(String, Arc<dyn Worker>)> = Vec::new();
        for address in &settings.workers {
            workers.push((address.0.clone(), link.worker(&address.0)?));
        }
        Ok(Self(workers))
    }

    /// What each says of itself; `None` for one that does not answer.
    pub async fn states(&self) -> Vec<(&str, Option<WorkerState>)> {
        let state = |(name, worker): &'_ (String, Arc<dyn Worker>)| {
            let worker = Arc::clone(worker);
            let name = name.clone();
            async move {
                let asked = async { worker.watch().await?.next().await.ok_or_else(silent) };
                let state: Result<WorkerState, WorkerError> = within(asked).await;
                state
                    .inspect_err(
                        |error| tracing::warn!(worker = name, error = %error, "worker not reached"),
                    )
                    .ok()
            }
        };
        let states = join_all(self.0.iter().map(state)).await;
        self.0.iter().map(|(name, _)| name.as_str()).zip(states).collect()
    }

    /// Takes nothing new from now on, and is empty in `leaves_in`, or at leisure.
    pub async fn drain(
        &self,
        name: &str,
        leaves_in: Option<Duration>,
    ) -> Result<(), AskWorkerError> {
        let worker = self.worker(name)?;
        told(name, within(worker.drain(leaves_in)).await)
    }

    /// Costs this much from now on.
    pub async fn set_price(&self, name: &str, rent: Rent) -> Result<(), AskWorkerError> {
        let worker = self.worker(name)?;
        told(name, within(worker.set_price(rent)).await)
    }

    /// Serves one model more; returns when it does. `progress` hears how many parts of how many are loaded.
    pub async fn load(
        &self,
        name: &str,
        order: LoadOrder,
        progress: impl FnMut(u32, u32) + Send,
    ) -> Result<ModelInfo, AskWorkerError> {
        let worker = self.worker(name)?;
        told(name, proto::load_whole(worker, order, progress).await)
    }

    /// Serves a model to nobody new; how many sequences and orders go on, within `within` if that is given.
    pub async fn unload(
        &self,
        name: &str,
        model: &ModelName,
        within: Option<Duration>,
    ) -> Result<u32, AskWorkerError> {
        let worker = self.worker(name)?;
        told(name, self::within(worker.unload(model, within)).await)
    }

    fn worker(&self, name: &str) -> Result<&dyn Worker, AskWorkerError> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, worker)| worker.as_ref()).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            AskWorkerError::Unknown { name: name.to_owned(), known: names.join(", ") }
        })
    }
}

async fn within<T>(asked: impl Future<Output = Result<T, WorkerError>>) -> Result<T, WorkerError> {
    tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| Err(silent()))
}

fn silent() -> WorkerError {
    WorkerError::Unreachable(format!("it did not answer within {LIMIT:?}"))
}

fn told<T>(name: &str, told: Result<T, WorkerError>) -> Result<T, AskWorkerError> {
    told.map_err(|source| AskWorkerError::Refused { name: name.to_owned(), source })
}

const LIMIT: Duration = Duration::from_secs(5);
