//! The proof of a hold, and its end.
//!
//! A [`Permit`] carries a lease: tokens that are paid for. It is extended while a stream runs, in
//! slices that are held before they are used, so the charge never exceeds what was held. Dropping a
//! permit settles it in the background with what it has recorded so far.

use std::sync::{Arc, Mutex, PoisonError};

use domain::{Charge, FinishReason, GpuTime, HoldId, Job, NanoUsd, Price, Usage, Work};

use crate::admission::{MAX_COST, MAX_GPU};
use crate::admission::{Shared, bound_of};
use crate::claims::Quantity;
use crate::ledger::{Admitted, Entry, Outcome};
use crate::quota::{Grant, Rates};

/// The proof that a job's quota is held. Dropping it settles what it used so far.
pub struct Permit {
    shared: Arc<Shared>,
    admitted: Admitted,
    price: Price,
    /// Most tokens of all its sequences together.
    total_output: u32,
    /// Sequences that answer it.
    choices: u32,
    /// The fewest tokens that its hold began with.
    least_output: u32,
    /// The caller's own bound on this request.
    bound: Quantity,
    /// Whether a rule or the caller bounds its GPU time; estimates of it count only then.
    bounds_gpu: bool,
    rates: Rates,
    lease: Mutex<Lease>,
    work: Mutex<Vec<Work>>,
}

/// What is held and what is used of it.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    held: Quantity,
    allowance: u32,
    usage: Usage,
    cost: NanoUsd,
    waived: bool,
    settled: bool,
}

/// What was settled: two figures, always, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The row that was written.
    pub entry: Entry,
}

/// What came of asking for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// So many tokens are paid for now, in total.
    Extended(u32),
    /// A budget, or the caller's own bound, has nothing left.
    Refused,
    /// What is left could not be asked for; another try may succeed.
    Unavailable,
}

impl Permit {
    pub(crate) fn new(
        shared: Arc<Shared>,
        admitted: Admitted,
        job: &Job,
        grant: Grant,
        bounds_gpu: bool,
    ) -> Self {
        let usage = Usage { prompt_tokens: job.prompt_tokens(), ..Usage::default() };
        let lease = Lease { held: grant.amount, usage, ..Lease::default() };
        let permit = Self {
            shared,
            admitted,
            price: *job.price(),
            total_output: job.total_output(),
            choices: job.choices(),
            least_output: job.least_output(),
            bound: bound_of(job),
            bounds_gpu: bounds_gpu || job.bound().gpu.is_some(),
            rates: grant.rates,
            lease: Mutex::new(lease),
            work: Mutex::default(),
        };
        permit.with_lease(|lease| lease.allowance = permit.affordable(lease));
        permit
    }

    /// Names the hold.
    pub const fn hold(&self) -> HoldId {
        self.admitted.hold
    }

    /// How the caller's rates stood when this was held.
    pub const fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Tokens paid for, in total: at least 1 for each of the job's sequences, if they produce any.
    pub fn allowance(&self) -> u32 {
        self.with_lease(|lease| lease.allowance)
    }

    /// Whether so much of the lease is used that it is time to extend it.
    pub fn runs_short(&self) -> bool {
        self.with_lease(|lease| {
            let left = lease.allowance.saturating_sub(lease.usage.completion_tokens);
            lease.allowance < self.total_output && left <= self.slice() / 2
        })
    }

    /// Whether every token that was paid for has been produced, and more are wanted.
    pub fn is_used_up(&self) -> bool {
        self.with_lease(|lease| {
            let produced = lease.usage.completion_tokens;
            produced >= lease.allowance && produced < self.total_output
        })
    }

    /// Notes what the job has used so far, and what that cost.
    ///
    /// The prompt is charged when its computation has begun: a job that never ran pays nothing.
    pub fn record(&self, usage: Usage, cost: NanoUsd) {
        self.with_lease(|lease| {
            lease.usage = usage;
            lease.cost = cost;
        });
    }

    /// The tenant pays nothing for what was used: it got nothing of it.
    pub fn waive(&self) {
        self.with_lease(|lease| lease.waived = true);
    }

    /// Notes which workers did it.
    pub fn record_work(&self, work: Vec<Work>) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }

    /// What the job has used and what that comes to, as of now.
    pub fn so_far(&self) -> (Usage, Charge) {
        let lease = self.with_lease(|lease| *lease);
        (lease.usage, Charge { cost: lease.cost, charge: self.due(&lease).0 })
    }

    /// The field of the request that lets its output become no longer, if that is what it says it may spend.
    pub fn own_bound_reached(&self) -> Option<&'static str> {
        let lease = self.with_lease(|lease| *lease);
        let least = self.needed(&lease, lease.allowance.saturating_add(1)).beyond(&lease.held);
        let over = least.beyond(&self.bound.beyond(&lease.held));
        match (over.money > NanoUsd::ZERO, over.gpu > GpuTime::ZERO) {
            (true, _) => Some(MAX_COST),
            (false, true) => Some(MAX_GPU),
            (false, false) => None,
        }
    }

    /// Holds another slice, or says why not: without an answer a hard budget gives nothing.
    pub async fn extend(&self) -> Extension {
        let lease = self.with_lease(|lease| *lease);
        let target = lease.allowance.saturating_add(self.slice()).min(self.total_output);
        let more = |tokens| self.needed(&lease, tokens).beyond(&lease.held);
        let allowed = self.bound.beyond(&lease.held);
        let (least, most) = (more(lease.allowance.saturating_add(1)), more(target).min(&allowed));
        let mut otherwise = Extension::Refused;
        if most != Quantity::ZERO && least.beyond(&allowed) == Quantity::ZERO {
            match self.shared.quota.extend(self.hold(), &least, &most).await {
                Ok(Ok(grant)) => self.with_lease(|lease| lease.held += grant.amount),
                Ok(Err(_)) => {}
                Err(error) => {
                    tracing::warn!(hold = %self.hold(), error = ?error, "lease not extended");
                    otherwise = Extension::Unavailable;
                }
            }
        }
        self.with_lease(|lease| {
            let extended = self.affordable(lease).min(target);
            let longer = extended > lease.allowance;
            lease.allowance = lease.allowance.max(extended);
            if longer { Extension::Extended(extended) } else { otherwise }
        })
    }

    /// Ends the hold: writes the ledger row, then gives back what was not used.
    ///
    /// Never fails towards the caller: what cannot be written now is retried in the background.
    pub async fn settle(self, outcome: Outcome) -> Receipt {
        let entry = self.close(outcome);
        Arc::clone(&self.shared).write(entry.clone()).await;
        Receipt { entry }
    }

    /// Marks the lease as settled and makes its row.
    fn close(&self, outcome: Outcome) -> Entry {
        let lease = self.with_lease(|lease| {
            lease.settled = true;
            *lease
        });
        let (charge, overrun) = match outcome {
            // A hit used no accelerator, and we hold nobody's answer for ransom.
            Outcome::CacheHit => (NanoUsd::ZERO, NanoUsd::ZERO),
            _ => self.due(&lease),
        };
        self.shared.estimates.learn(&self.admitted.digest, &lease.usage);
        let counted = self.counted(&outcome, &lease, charge);
        Entry {
            admitted: self.admitted.clone(),
            outcome,
            closed_at: self.shared.clock.now(),
            usage: lease.usage,
            charge: Charge { cost: lease.cost, charge },
            overrun,
            counted,
            work: std::mem::take(&mut *self.work.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// What limits and budgets count: never more than was held, so that no budget is overspent.
    fn counted(&self, outcome: &Outcome, lease: &Lease, charge: NanoUsd) -> Quantity {
        if lease.waived {
            return Quantity::ZERO;
        }
        let Usage { prompt_tokens, completion_tokens, gpu, .. } = lease.usage;
        let tokens = match outcome {
            Outcome::Finished(_) | Outcome::ClientGone | Outcome::CacheHit => {
                u64::from(prompt_tokens) + u64::from(completion_tokens)
            }
            Outcome::Failed(_) | Outcome::Interrupted => u64::from(completion_tokens),
        };
        let gpu = if self.bounds_gpu { gpu.min(lease.held.gpu) } else { gpu };
        Quantity { money: charge, tokens: tokens.min(lease.held.tokens), gpu }
    }

    /// What the tenant pays, and what the price asks beyond what was held.
    fn due(&self, lease: &Lease) -> (NanoUsd, NanoUsd) {
        let nothing = lease.usage.gpu == GpuTime::ZERO && lease.usage.completion_tokens == 0;
        if nothing || lease.waived {
            return (NanoUsd::ZERO, NanoUsd::ZERO);
        }
        let asked = self.price.charge(&lease.usage);
        let charge = asked.min(lease.held.money);
        (charge, asked - charge)
    }

    /// What must be held for an output of `tokens` tokens.
    fn needed(&self, lease: &Lease, tokens: u32) -> Quantity {
        let ahead = tokens.saturating_sub(lease.usage.completion_tokens);
        let needed = self.shared.needed(&self.price, &self.admitted.digest, &lease.usage, ahead);
        if self.bounds_gpu { needed } else { Quantity { gpu: GpuTime::ZERO, ..needed } }
    }

    /// The longest output that what is held pays for; at least a token of each sequence, as the hold began
    /// with that.
    fn affordable(&self, lease: &Lease) -> u32 {
        let (mut low, mut high) = (self.least_output, self.total_output);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.needed(lease, middle).beyond(&lease.held) == Quantity::ZERO {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }

    fn slice(&self) -> u32 {
        SLICE_TOKENS.saturating_mul(self.choices)
    }

    fn with_lease<T>(&self, use_it: impl FnOnce(&mut Lease) -> T) -> T {
        use_it(&mut self.lease.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.with_lease(|lease| lease.settled) {
            return;
        }
        let entry = self.close(Outcome::ClientGone);
        self.shared.write_in_background(entry);
    }
}

impl Receipt {
    /// Why the answer ended, if it was answered.
    pub const fn finish_reason(&self) -> Option<FinishReason> {
        match self.entry.outcome {
            Outcome::Finished(reason) => Some(reason),
            _ => None,
        }
    }
}

/// Tokens held at a time while a stream runs, for each of its sequences.
pub(crate) const SLICE_TOKENS: u32 = 64;
