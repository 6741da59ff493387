//! Has this been answered before, for this project?
//!
//! Decides what counts as the same request ([`CacheKey`]), asks the [`Tier`]s in order, and lets
//! one of several equal requests do the work while the others wait for it ([`Leader`]).
//!
//! Promises: an answer never crosses a project, because the project is a part of the key that is
//! compared as it is, beside the hash; only requests that would give the same tokens again have a
//! key; only complete answers are kept; equal requests at one time are computed once; what is
//! remembered about requests in flight goes with the last of them.
//!
//! Invariant: knows nothing of Redis, HTTP, budgets or workers. It does not meter a hit, and it
//! sets no deadline for waiting on a leader: the caller drops the look-up when its own is over.

mod flight;
mod key;
mod lookup;
#[cfg(test)]
mod samples;
mod tier;

pub use key::CacheKey;
pub use lookup::{Cache, Leader, Lookup, SHARED};
pub use tier::{CachedAnswer, Tier};
