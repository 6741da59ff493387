//! May this run, and what does it cost?
//!
//! [`Admission`] knows callers by their keys, holds quota for a job before it runs and hands out a
//! [`Permit`]: the proof of a hold. A permit is settled exactly once, by [`Permit::settle`] or, when
//! it is dropped, in the background, so every way out of a request pays for what it used and
//! nothing else, and leaves exactly one ledger row.
//!
//! What it needs of the outside it owns as ports: [`Tenants`](tenancy::Tenants) (who exists), [`Quota`] (counters
//! held and settled atomically over all scopes) and [`Ledger`] (what happened, for ever).
//!
//! Invariant: knows nothing of HTTP, Redis, SQL or workers.

mod admission;
pub mod bank;
pub mod bearer;
mod claims;
mod directory;
mod error;
mod estimate;
mod key;
mod ledger;
mod permit;
mod quota;
mod sliced;
mod slices;
pub mod tenancy;

pub use admission::{Admission, AdmissionParts, Estimate};
pub use claims::{Claim, Measure, Quantity, Rule, claims};
pub use directory::{Caller, Directory, Placed, Watched};
pub use error::{AdmitError, StoreError};
pub use key::{ApiKey, KeyDigest, Pepper, PepperError};
pub use ledger::{Admitted, Entry, Ledger, Outcome};
pub use permit::{Extension, Permit, Receipt};
pub use quota::{Ask, Grant, Quota, RateState, Rates, Refusal};
pub use sliced::{Books, SlicedQuota};
pub use slices::{Asked, SliceSettings, Slices, Step, Wanted};
