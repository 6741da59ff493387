//! A fleet of simulated machines behind the product's own router, in one thread under a stopped clock.
//!
//! What is real: the router with its policies, queue, breakers and continuations; the plan by which a
//! worker leaves. What is simulated: machines (continuous batching, prefix caches, drains, deaths, lies), the way
//! to them, and clients that replay public traces. The same [`Scenario`] gives the same [`Outcome`], to the token and
//! the millisecond.
//!
//! Invariants are checked while it runs: every client reads exactly the tokens that an undisturbed run
//! would have given, no machine holds more than it can, no queue grows beyond its bound, nobody is refused while an
//! honest machine has room, and everything that was accepted ends. What breaks one is in [`Outcome::violations`].
//!
//! Simplifications: machines keep the prefixes of prompts, not of outputs; they do not copy blocks from each
//! other, as the product's do not yet; an output is as long as the trace says.

// Two files are the worker's own, and their tests run there.
#![cfg(not(test))]

mod cache;
mod client;
#[path = "../../../../crates/worker/src/drain.rs"]
#[rustfmt::skip]
#[expect(dead_code, reason = "the worker's own source; a fleet needs a part of it")]
mod drain;
mod machine;
mod mailbox;
mod outcome;
#[path = "../../../../crates/worker/src/plan.rs"]
#[rustfmt::skip]
mod plan;
mod scenario;
mod trace;
mod worker;

pub use machine::{Books, Machine, Nature};
pub use outcome::{Ended, Failure, Outcome, Worked};
pub use scenario::{Fault, Scenario, simulate};
pub use trace::{Arrival, Replay, azure, ideal_cached_tokens, mooncake};
pub use worker::Leave;
