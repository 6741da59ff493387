//! Who should run it?
//!
//! [`Router`] knows every worker by the state and the prefixes it pushes, lets a [`Policy`] pick one of those that serve
//! the model, and returns an [`Answer`]: one stream of tokens that goes on, on another worker, when the
//! first one vanishes. The token log in the answer is what makes that possible: the next worker is
//! given what was produced so far and draws the token the first would have drawn. Requests that find no room wait in
//! a fair, bounded queue.
//!
//! The worker is the authority on its own capacity: it may refuse, and the router asks another. It is believed
//! within bounds: what cannot be true is not passed on, and whoever says such things is left alone for a while.
//!
//! Invariant: knows nothing of HTTP or money; a worker is whatever implements the contract.

mod ahead;
mod answer;
mod breaker;
mod directory;
mod embedding;
mod error;
mod evidence;
mod figures;
mod gate;
mod hedge;
mod latest;
mod member;
mod patience;
mod place;
mod policy;
mod prefixes;
mod queue;
mod retries;
mod router;
mod settings;

pub use answer::{Answer, Piece, Used};
pub use breaker::{BreakerSettings, BreakerState};
pub use directory::{
    Announce, Connect, Directory, DirectoryError, DnsDirectory, Resolve, Roster, SystemResolver,
    keep_announced,
};
pub use embedding::{Embeddings, Vectors};
pub use error::RouteError;
pub use figures::{Cause, Figures, WAIT_BOUNDS, Waits, WorkerFigures};
pub use policy::{POLICIES, Policy};
pub use queue::Lane;
pub use router::{Router, Served};
pub use settings::{DueIn, RouterSettings, StallLimits};
