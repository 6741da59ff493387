//! The harness of the system tests: the real binary, as its users start it.
//!
//! Decides how a process is started, when it counts as ready, and how it is ended: politely, at once, or
//! by a test that is over. Promises that every wait has a deadline and that a failure comes with what
//! the process said. Knows of the product only what a user can see: the command line, the files it
//! writes, and its endpoints.

mod admin;
mod api;
mod binary;
mod cluster;
mod fleet;
mod http;
mod metadata;
mod outsider;
mod process;
mod redis;
mod roles;
mod serve;
mod wait;

pub use admin::Admin;
pub use api::{Api, Events, Reply, Told};
pub use binary::{attempt, run, tollgate};
pub use cluster::Cluster;
pub use fleet::{Fleet, Wishes, gateway_config};
pub use http::http;
pub use metadata::Metadata;
pub use outsider::{Asked, Outsider};
pub use process::Process;
pub use redis::Redis;
pub use roles::{Gateway, Worker, free_address};
pub use serve::{Key, Left, Serve, create_key};
pub use wait::until;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What `cargo xtask test` tells the tests about their surroundings.
pub fn told(name: &str) -> Option<OsString> {
    #[expect(clippy::disallowed_methods, reason = "a test has no other configuration")]
    std::env::var_os(name)
}
