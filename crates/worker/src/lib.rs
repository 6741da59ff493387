//! An engine behind the worker contract.
//!
//! [`LocalWorker`] is the contract implemented in process for a model that makes text, [`EmbeddingWorker`] for one that
//! makes vectors; [`start`] knows which one a model needs. [`serve`] puts it on the network until
//! it is told to stop, and then lets accepted work end before the process does.
//!
//! Invariant: knows nothing of HTTP, tenants or money beyond the price of its own hour.

mod cache;
mod config;
mod drain;
mod embedding;
mod hosted;
mod local;
mod notice;
mod plan;
mod post;
mod serve;
mod start;

pub use cache::Connect;
pub use config::{
    AdapterSettings, EngineSettings, Others, Place, RawModels, RawWorker, WorkerSettings,
};
pub use embedding::EmbeddingWorker;
pub use engine::{ModelSource, Progress};
pub use hosted::{Hosted, over_pipes};
pub use local::{LocalWorker, StartError};
pub use notice::{AddressError, NoticeSettings};
pub use serve::{RunError, Serving, serve};
pub use start::start;
