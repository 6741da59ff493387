//! Bytes to domain and back: the `OpenAI`-compatible endpoint, and the admin listener beside it.
//!
//! [`GatewaySettings`] say what to serve, [`run`] serves it until told to stop. The life of a
//! request is one readable function in `flow.rs`.
//!
//! Invariant: this is the only crate that knows HTTP.

mod accounts;
mod admin;
mod admin_token;
mod alerts;
mod books;
mod call;
mod catalog;
mod config;
mod endpoints;
mod failure;
mod fields;
mod flow;
mod gateway;
mod keys;
mod listener;
mod metrics;
mod outside;
mod relay;
mod reply;
mod server;
mod text;

pub use admin_token::AdminToken;
pub use books::{Books, ExportError, ExportFormat, ExportRange, Verification};
pub use config::{GatewaySettings, RawGateway, RawPrice, TlsSettings, WorkerAddress};
pub use keys::{KeyRequest, KeyTable, Keys, KeysError, LimitsRequest};
pub use listener::{ListenError, Listener};
pub use server::{GatewayError, InProcessWorker, run};
