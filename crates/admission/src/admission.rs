//! From a key to a permit.

use std::sync::Arc;
use std::time::Duration;

use domain::{
    Clock, GatewayId, GpuTime, HoldId, Job, ModelDigest, NanoUsd, OwnBound, Price, Timestamp, Usage,
};
use tokio_util::task::TaskTracker;

use crate::claims::{Measure, Quantity, claims};

use crate::directory::{Caller, Directory};
use crate::estimate::Estimates;
use crate::ledger::{Admitted, Entry, Ledger};
use crate::permit::{Permit, SLICE_TOKENS};
use crate::quota::{Ask, Quota, Refusal};
use crate::tenancy::Amount;
use crate::{AdmitError, StoreError};

/// Decides whether a job may run, and holds its quota while it does.
pub struct Admission {
    directory: Arc<Directory>,
    shared: Arc<Shared>,
}

/// What an [`Admission`] stands on.
pub struct AdmissionParts {
    /// Which gateway this is.
    pub gateway: GatewayId,
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
    gateway: GatewayId,
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
        let AdmissionParts { gateway, directory, quota, ledger, clock } = parts;
        let shared = Shared {
            gateway,
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
        // One moment decides in which windows it counts, here and in the ledger.
        let at = self.shared.clock.now();
        let ask = self.ask(caller, job, at)?;
        let held = self.shared.quota.reserve(&ask).await.map_err(AdmitError::Quota)?;
        let grant = held.map_err(|refusal| self.refused(refusal))?;
        let admitted = Admitted {
            hold: ask.hold,
            request: job.request(),
            gateway: self.shared.gateway,
            scope: *caller.scope(),
            model: job.model().clone(),
            digest: job.digest().clone(),
            at,
            prompt_tokens: job.prompt_tokens(),
        };
        if let Err(error) = self.shared.ledger.open(&admitted).await {
            self.shared.give_back(ask.hold).await;
            return Err(AdmitError::Ledger(error));
        }
        let bounds_gpu = ask.claims.iter().any(|claim| claim.measure == Measure::GpuTime);
        Ok(Permit::new(Arc::clone(&self.shared), admitted, job, grant, bounds_gpu))
    }

    /// What `job` would come to, and whether it would be admitted now. Holds and runs nothing.
    pub fn estimate(&self, caller: &Caller, job: &Job) -> Estimate {
        let begun = Usage { prompt_tokens: job.prompt_tokens(), ..Usage::default() };
        let needed = |output| self.shared.needed(job.price(), job.digest(), &begun, output);
        let at = self.shared.clock.now();
        let refusal = self.ask(caller, job, at).and_then(|ask| self.look(&ask)).err();
        Estimate { least: needed(job.least_output()), most: needed(job.total_output()), refusal }
    }

    /// Whether the figures known here leave room for `ask`.
    fn look(&self, ask: &Ask) -> Result<(), AdmitError> {
        let left = self.shared.quota.left(ask.organization, &ask.claims);
        for (claim, left) in ask.claims.iter().zip(left) {
            // Of what nobody has asked for here yet, all may be left.
            if left.unwrap_or(claim.capacity()) < ask.least.of(claim.measure) {
                return Err(self.refused(claim.refused()));
            }
        }
        Ok(())
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

    fn ask(&self, caller: &Caller, job: &Job, at: Timestamp) -> Result<Ask, AdmitError> {
        if !caller.may_use(job.model()) {
            return Err(AdmitError::ModelForbidden { model: job.model().clone() });
        }
        let begun = Usage { prompt_tokens: job.prompt_tokens(), ..Usage::default() };
        let needed = |output| self.shared.needed(job.price(), job.digest(), &begun, output);
        let least = needed(job.least_output());
        check_own_bound(job, &least)?;
        let first_slice = job.total_output().min(SLICE_TOKENS.saturating_mul(job.choices()));
        let places = caller.places().iter().map(|place| (place.scope, &*place.policy));
        Ok(Ask {
            hold: HoldId::generate(),
            organization: caller.scope().organization,
            claims: claims(places, caller.zone(), job.model(), at).into(),
            least,
            most: needed(first_slice).min(&bound_of(job)),
        })
    }

    fn refused(&self, refusal: Refusal) -> AdmitError {
        let now = self.shared.clock.now();
        let until = |renewed_at: Option<Timestamp>| renewed_at.map(|end| end.since(now));
        match refusal {
            Refusal::Limit { scope, limit, max, retry_in, renewed_at } => {
                let retry_in = until(renewed_at).unwrap_or(retry_in);
                AdmitError::LimitReached { scope, limit, max, retry_in }
            }
            Refusal::LargerThanLimit { scope, limit, asked, max } => {
                AdmitError::LargerThanLimit { scope, limit, asked, max }
            }
            Refusal::Budget { scope, amount, renewed_at } => {
                AdmitError::BudgetExceeded { scope, amount, renewed_in: until(renewed_at) }
            }
        }
    }
}

/// What a job would come to.
#[derive(Debug)]
pub struct Estimate {
    /// With one token of output of each sequence, if it has output at all.
    pub least: Quantity,
    /// With all the output it may have.
    pub most: Quantity,
    /// Why it would not be admitted now, if it would not.
    pub refusal: Option<AdmitError>,
}

fn check_own_bound(job: &Job, least: &Quantity) -> Result<(), AdmitError> {
    let OwnBound { money, gpu } = *job.bound();
    if let Some(bound) = money.filter(|bound| *bound < least.money) {
        let (least, bound) = (Amount::Money(least.money), Amount::Money(bound));
        return Err(AdmitError::LargerThanOwnBound { field: MAX_COST, least, bound });
    }
    if let Some(bound) = gpu.filter(|bound| *bound < least.gpu) {
        let (least, bound) = (Amount::GpuTime(least.gpu), Amount::GpuTime(bound));
        return Err(AdmitError::LargerThanOwnBound { field: MAX_GPU, least, bound });
    }
    Ok(())
}

/// The fields of a request that bound what it may spend.
pub(crate) const MAX_COST: &str = "max_cost_usd";
pub(crate) const MAX_GPU: &str = "max_gpu_ms";

/// The caller's own bound; the largest amounts there are where it has none.
pub(crate) fn bound_of(job: &Job) -> Quantity {
    let OwnBound { money, gpu } = *job.bound();
    Quantity {
        money: money.unwrap_or(NanoUsd::from_nanos(i64::MAX)),
        tokens: u64::MAX,
        gpu: gpu.unwrap_or(GpuTime::from_nanos(u64::MAX)),
    }
}

impl Shared {
    /// What to hold for `usage` so far and `ahead` more tokens.
    pub(crate) fn needed(
        &self,
        price: &Price,
        model: &ModelDigest,
        usage: &Usage,
        ahead: u32,
    ) -> Quantity {
        let uncounted = if usage.gpu == GpuTime::ZERO { usage.prompt_tokens } else { 0 };
        let gpu = usage.gpu + self.estimates.time(model, ahead.saturating_add(uncounted));
        let completion_tokens = usage.completion_tokens.saturating_add(ahead);
        let money = price.charge(&Usage { completion_tokens, gpu, ..*usage });
        let tokens = u64::from(usage.prompt_tokens) + u64::from(completion_tokens);
        Quantity { money, tokens, gpu }
    }

    /// Writes a row and ends its hold; what fails is retried in the background.
    pub(crate) async fn write(self: Arc<Self>, entry: Entry) {
        // Ledger first: a crash between these lines leaves a hold that expires, never a free request.
        let written = match self.ledger.close(&entry).await {
            Ok(()) => self.quota.settle(entry.admitted.hold, &entry.counted).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(hold = %entry.admitted.hold, error = ?error, "settlement deferred");
            self.write_in_background(entry);
        }
    }

    /// The same, until it succeeds, in a task that [`Admission::close`] waits for.
    pub(crate) fn write_in_background(self: &Arc<Self>, entry: Entry) {
        let shared = Arc::clone(self);
        let settlement = async move {
            let mut pause = FIRST_PAUSE;
            let hold = entry.admitted.hold;
            while let Err(error) = shared.ledger.close(&entry).await {
                tracing::warn!(hold = %hold, error = ?error, "ledger row not written, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            while let Err(error) = shared.quota.settle(hold, &entry.counted).await {
                tracing::warn!(hold = %hold, error = ?error, "hold not settled, trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        self.settlements.spawn_on(settlement, &self.runtime);
    }

    /// Undoes a hold whose request never began.
    async fn give_back(&self, hold: HoldId) {
        if let Err(error) = self.quota.settle(hold, &Quantity::ZERO).await {
            tracing::warn!(hold = %hold, error = ?error, "hold not given back, it will expire");
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
