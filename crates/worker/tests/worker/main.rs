//! The worker contract, kept by every implementation of it.

mod adapters;
mod answering;
mod conformance;
mod draining;
mod embedding;
mod loading;
mod prefixes;
mod workers;
