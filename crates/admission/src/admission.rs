//! From a key to a permit.

use std::sync::Arc;
use std::time::Duration;

use domain::{Clock, GpuTime, HoldId, Job, ModelDigest, NanoUsd, Price, Usage};
use tokio_util::task::TaskTracker;

use crate::directory::{Caller, Directory};
use crate::estimate::Estimates;
use crate::ledger::{Admitted, Entry, Ledger};
use crate::permit::{Permit, SLICE_TOKENS};
use crate::quota::{Ask, Quota, Refusal, Spent};
use crate::{AdmitError, StoreError};

/// Decides whether a job may run, and holds its quota while it does.
pub struct Admission {
    directory: Arc<Directory>,
    shared: Arc<Shared>,
}

/// What an [`Admission`] stands on.
pub struct AdmissionParts {
    /// Who exists.
    pub directory: Arc<Directory>,
    /// Counters.
    pub quota: Arc<dyn Quota>,
    /// Rows.
    pub ledger: Arc<dyn Ledger>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What every permit needs to end itself.
pub(crate) struct Shared {
    pub(crate) quota: Arc<dyn Quota>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) estimates: Estimates,
    settlements: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Admission {
    /// An admission on top of `parts`. Must be called inside a tokio runtime, which settles
    /// dropped permits.
    pub fn new(parts: AdmissionParts) -> Self {
        let AdmissionParts { directory, quota, ledger, clock } = parts;
        let shared = Shared {
            quota,
            ledger,
            clock,
            estimates: Estimates::default(),
            settlements: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
        };
        Self { directory, shared: Arc::new(shared) }
    }

    /// Who presents `key`.
    pub fn identify(&self, key: Option<&str>) -> Result<Caller, AdmitError> {
        self.directory.identify(key.ok_or(AdmitError::NoKey)?)
    }

    /// Holds quota for `job` over every scope of `caller`, and notes durably that it was admitted.
    pub async fn reserve(&self, caller: &Caller, job: &Job) -> Result<Permit, AdmitError> {
        if !caller.may_use(job.model()) {
            return Err(AdmitError::ModelForbidden { model: job.model().clone() });
        }
        let ask = self.ask(caller, job);
        let held = self.shared.quota.reserve(&ask).await.map_err(AdmitError::Quota)?;
        let grant = held.map_err(|refusal| refused(refusal, &ask))?;
        let admitted = Admitted {
            hold: ask.hold,
            request: job.request(),
            scope: *caller.scope(),
            model: job.model().clone(),
            digest: job.digest().clone(),
            at: self.shared.clock.now(),
            prompt_tokens: job.prompt_tokens(),
        };
        if let Err(error) = self.shared.ledger.open(&admitted).await {
            self.shared.give_back(ask.hold).await;
            return Err(AdmitError::Ledger(error));
        }
        Ok(Permit::new(Arc::clone(&self.shared), admitted, job, grant.amount))
    }

    /// Waits until every dropped permit is settled. Call it last.
    pub async fn close(&self) {
        self.shared.settlements.close();
        self.shared.settlements.wait().await;
    }

    /// Holds that are not settled yet.
    pub async fn open_holds(&self) -> Result<usize, StoreError> {
        self.shared.quota.open_holds().await
    }

    fn ask(&self, caller: &Caller, job: &Job) -> Ask {
        let begun = Usage { prompt_tokens: job.prompt_tokens(), ..Usage::default() };
        let amount = |output| self.shared.amount(job.price(), job.digest(), &begun, output);
        let first_slice = job.max_output().min(SLICE_TOKENS);
        Ask {
            hold: HoldId::generate(),
            places: *caller.places(),
            tokens: job.prompt_tokens().saturating_add(first_slice),
            least: amount(1),
            most: amount(first_slice),
        }
    }
}

impl Shared {
    /// Money to hold for `usage` so far and `ahead` more tokens.
    pub(crate) fn amount(
        &self,
        price: &Price,
        model: &ModelDigest,
        usage: &Usage,
        ahead: u32,
    ) -> NanoUsd {
        let uncounted = if usage.gpu == GpuTime::ZERO { usage.prompt_tokens } else { 0 };
        let expected = self.estimates.time(model, ahead.saturating_add(uncounted));
        let completion_tokens = usage.completion_tokens.saturating_add(ahead);
        price.charge(&Usage { completion_tokens, gpu: usage.gpu + expected, ..*usage })
    }

    /// Writes a row and ends its hold; what fails is retried in the background.
    pub(crate) async fn write(self: Arc<Self>, entry: Entry, spent: Spent) {
        // Ledger first: a crash between these lines leaves a hold that expires, never a free request.
        let written = match self.ledger.close(&entry).await {
            Ok(()) => self.quota.settle(entry.admitted.hold, spent).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(hold = %entry.admitted.hold, error = ?error, "settlement deferred");
            self.write_in_background(entry, spent);
        }
    }

    /// The same, until it succeeds, in a task that [`Admission::close`] waits for.
    pub(crate) fn write_in_background(self: &Arc<Self>, entry: Entry, spent: Spent) {
        let shared = Arc::clone(self);
        let settlement = async move {
            let mut pause = FIRST_PAUSE;
            let hold = entry.admitted.hold;
            while let Err(error) = shared.ledger.close(&entry).await {
                tracing::warn!(hold = %hold, error = ?error, "ledger row not written, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            while let Err(error) = shared.quota.settle(hold, spent).await {
                tracing::warn!(hold = %hold, error = ?error, "hold not settled, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        self.settlements.spawn_on(settlement, &self.runtime);
    }

    /// Undoes a hold whose request never began.
    async fn give_back(&self, hold: HoldId) {
        if let Err(error) = self.quota.settle(hold, Spent::default()).await {
            tracing::warn!(hold = %hold, error = ?error, "hold not given back, it will expire");
        }
    }
}

fn refused(refusal: Refusal, ask: &Ask) -> AdmitError {
    match refusal {
        Refusal::Limit { scope, limit, max, retry_in } => {
            AdmitError::LimitReached { scope, limit, max, retry_in }
        }
        Refusal::LargerThanLimit { scope, max } => {
            AdmitError::LargerThanLimit { scope, asked: ask.tokens, max }
        }
        Refusal::Budget { scope, amount } => AdmitError::BudgetExceeded { scope, amount },
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
