//! The worker contract, kept by every implementation of it.

mod adapters;
mod answering;
mod conformance;
mod draining;
mod embedding;
mod prefixes;
mod workers;
