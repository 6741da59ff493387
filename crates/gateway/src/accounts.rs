//! Keeps what workers say of their time, so that the ledger can be held against it.

use std::sync::Arc;
use std::time::Duration;

use domain::Clock;
use routing::Router;
use store::{Database, WorkerAccounts};

/// Writes down where workers' time went.
pub(crate) struct Accounts {
    pub(crate) router: Arc<Router>,
    pub(crate) database: Database,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Accounts {
    /// Writes every few seconds, until dropped.
    pub(crate) async fn run(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.keep().await;
        }
    }

    /// Writes down what every worker said last.
    pub(crate) async fn keep(&self) {
        let at = self.clock.now();
        let states = self.router.workers();
        let known = states.iter().filter_map(|(name, state)| {
            let state = state.as_ref()?;
            let accounts = state.accounts;
            Some(WorkerAccounts {
                worker: name.clone(),
                incarnation: state.incarnation.to_string(),
                at,
                sequences: u64::from(state.running) + u64::from(state.waiting),
                requests: accounts.requests,
                idle: accounts.idle,
                overhead: accounts.overhead,
                preemption: accounts.preemption,
                migration: accounts.migration,
                abandoned: accounts.abandoned,
                hedge: accounts.hedge,
                wall: accounts.wall,
            })
        });
        let known: Vec<WorkerAccounts> = known.collect();
        if known.is_empty() {
            return;
        }
        if let Err(error) = self.database.keep_accounts(&known).await {
            tracing::debug!(error = ?error, "worker accounts not kept");
        }
    }
}

const INTERVAL: Duration = Duration::from_secs(5);
