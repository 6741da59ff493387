//! Bytes to domain and back: the `OpenAI`-compatible endpoint, and the admin listener beside it.
//!
//! [`GatewaySettings`] say what to serve, [`run`] serves it until told to stop. The life of a
//! request is one readable function in `flow.rs`.
//!
//! Invariant: this is the only crate that knows HTTP.

mod accounts;
mod admin;
mod alerts;
mod announce;
mod call;
mod catalog;
mod config;
mod door;
mod doors;
mod endpoints;
mod failure;
mod fields;
mod flow;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod handover;
mod installation;
mod link;
mod listener;
mod metrics;
mod outside;
mod reasoning;
mod relay;
mod reload;
mod reply;
mod server;
mod text;
mod tools;
mod workers;

pub use announce::{AnnounceError, Announcement};
pub use config::{
    DirectorySettings, GatewaySettings, RawGateway, RawPrice, Shares, WorkerAddress, WorkerTls,
};
pub use handover::{HandoverError, Predecessor, check_listeners};
pub use installation::{
    ExportError, ExportFormat, ExportRange, Installation, UsageError, UsageGroup, UsageLine,
    UsagePage, UsageQuery, Verification,
};
pub use listener::{ListenError, Listener};
pub use reload::Configuration;
pub use server::{GatewayError, InProcessWorker, Launch, run};
pub use workers::{AskWorkerError, Workers};
