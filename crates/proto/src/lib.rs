//! The worker contract: what a gateway may ask of a worker, in process or over gRPC.
//!
//! [`Worker`] is the seam. It is implemented by an engine in the same process, by [`GrpcWorker`]
//! for one elsewhere, and by [`ScriptedWorker`] for tests and benchmarks; [`WorkerServer`] puts any
//! of them on the network, with or without TLS. The protobuf types stay private to this crate.
//!
//! Invariant: this is the only crate that knows protobuf or `tonic`.

mod client;
mod contract;
mod convert;
mod convert_blocks;
mod convert_embed;
mod convert_load;
mod convert_start;
mod credentials;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod loading;
mod pool;
mod scripted;
mod secure;
mod server;

/// Generated from `proto/worker/v1/worker.proto`.
mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("tollgate.worker.v1");
}

pub use client::{ConnectError, GrpcWorker};
pub use contract::{
    BlockContent, BlockStream, BlocksWanted, Control, EmbedOrder, Embedded, Event, FetchOrder,
    Fetched, Generation, PrefixChange, PrefixStream, Start, StateStream, Wishes, Worker,
    WorkerError, WorkerState,
};
pub use credentials::{
    ClientCredentials, ClientFiles, CredentialsError, IdentityFiles, ServerCredentials,
    ServerFiles, ServerIdentity,
};
pub use loading::{LoadStream, Loading, ModelLoad, NotLoaded, load_whole};
pub use scripted::ScriptedWorker;
pub use server::{ServeError, WorkerServer};
