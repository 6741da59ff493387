//! Runs a language model for many sequences at once: weights, KV blocks, steps, sampling, accounts.
//!
//! An [`Engine`] owns one thread that steps a [`Model`]. Callers [`submit`](Engine::submit) token ids
//! and read token ids back from a [`Sequence`]; nothing here waits for a reader, and every nanosecond
//! of the step thread has an owner ([`domain::Accounts`]).
//!
//! Promise: a sequence's tokens depend on its request and the weights alone, bit for bit; not on what
//! else is in the batch, how its prompt was cut into chunks, what the cache held of it, whether it had to give
//! way, what was guessed of it, or where it was continued.
//!
//! Invariant: knows nothing of HTTP, money or networks, and of tenants only who shares with whom. Only this crate
//! knows tensors.

mod adapter;
mod adapters;
mod attribution;
mod blocks;
mod checkpoint;
mod compare;
mod config;
mod drafting;
mod embedder;
mod encoder;
mod engine;
mod errands;
mod error;
mod expectation;
mod fair;
mod footprint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod grammar;
mod inbox;
mod ledger;
mod lookup;
mod lots;
mod mask_times;
mod model;
mod models;
mod names;
mod ops;
mod prefixes;
mod quantization;
mod random;
mod request;
mod running;
mod sampler;
mod schedule;
mod sequence;
mod shifts;
mod source;
mod state;
mod step;
mod step_loop;
mod turns;

pub use checkpoint::{Written, write_gguf};
pub use compare::{Comparison, compare};
pub use config::EngineConfig;
pub use embedder::{Embedder, EmbedderConfig, Embedding, Vectors};
pub use encoder::Encoder;
pub use engine::Engine;
pub use error::{EngineError, Failure, LoadError, Refusal};
pub use footprint::{Footprint, Sequences};
pub use mask_times::MaskTimes;
pub use model::{Model, Progress};
pub use prefixes::{CacheChange, CachedBlocks};
pub use quantization::{Quantization, UnknownQuantization};
pub use request::{Event, MAX_LOGPROBS, Request};
pub use sequence::Sequence;
pub use shifts::Shifts;
pub use source::ModelSource;
pub use state::EngineState;

/// Arithmetic kernels, for measuring them from outside; no stable interface.
#[doc(hidden)]
pub mod kernels {
    pub use crate::ops::bench::DenseBench;
}
