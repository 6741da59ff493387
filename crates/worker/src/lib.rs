//! An engine behind the worker contract.
//!
//! [`LocalWorker`] is the contract implemented in process; [`serve`] puts it on the network until
//! it is told to stop, and then lets accepted sequences end before the process does.
//!
//! Invariant: knows nothing of HTTP, tenants or money beyond the price of its own hour.

mod cache;
mod config;
mod drain;
mod local;
mod notice;
mod plan;
mod serve;

pub use cache::Connect;
pub use config::{EngineSettings, Others, RawWorker, WorkerSettings};
pub use engine::{ModelSource, Progress};
pub use local::{LocalWorker, StartError};
pub use notice::{AddressError, NoticeSettings};
pub use serve::{RunError, Serving, serve};
