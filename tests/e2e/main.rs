//! The product from outside: real processes, raw HTTP, and the ledger they leave behind.
//!
//! What is tested is what a user, an operator or an attacker can see; each file is one subject.

mod adapters;
mod alerts;
mod bad_fields;
mod bad_wire;
mod budgets;
mod cache;
mod commands;
mod connections;
mod contexts;
mod draining;
mod embeddings;
mod estimates;
/// A hub and a store on loopback, as the crate that pulls from hubs has it for its own tests.
#[path = "../../crates/hub/tests/pulls/fake"]
mod fake {
    pub(crate) mod hub;
    pub(crate) mod store;
    pub(crate) mod wire;
}
mod fleet;
mod leaving;
#[path = "../ledger.rs"]
mod ledger;
mod limits;
mod loading;
mod metering;
mod pulls;
mod questions;
mod raw;
mod restarts;
mod settled;
mod stops;
mod tls;
mod tokens;
mod upgrades;
mod verification;
mod worker_tls;
