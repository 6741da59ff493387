//! An engine behind the worker contract.
//!
//! [`LocalWorker`] is the contract implemented in process, for models that make text and for those that make vectors;
//! [`start`] makes one of a configuration. [`serve`] puts it on the network until
//! it is told to stop, and then lets accepted work end before the process does.
//!
//! Invariant: knows nothing of HTTP, tenants or money beyond the price of its own hour.

mod cache;
mod cache_size;
mod config;
mod drain;
mod loading;
mod local;
mod memory;
mod notice;
mod plan;
mod post;
mod serve;
mod served;
mod start;
mod stock;
mod watching;

pub use cache::Connect;
pub use config::{
    AdapterSettings, EngineSettings, ModelSettings, Others, Place, RawHub, RawWorker,
    WorkerSettings,
};
pub use engine::{ModelSource, Progress};
pub use local::{LocalWorker, StartError};
pub use notice::{AddressError, NoticeSettings};
pub use serve::{RunError, Serving, serve};
pub use start::start;
