//! Who should run it?
//!
//! [`Router`] knows every worker by the state it pushes, picks the least loaded one that serves the
//! model, and returns an [`Answer`]: one stream of tokens that goes on, on another worker, when the
//! first one vanishes. The token log in the answer is what makes that possible: the next worker is
//! given what was produced so far and draws the token the first would have drawn.
//!
//! The worker is the authority on its own capacity: it may refuse, and the router asks another.
//!
//! Invariant: knows nothing of HTTP, tenants or money; a worker is whatever implements the contract.

mod answer;
mod error;
mod member;
mod router;

pub use answer::{Answer, Piece, Used};
pub use error::RouteError;
pub use router::{Router, RouterSettings, Served};
