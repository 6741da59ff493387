//! The engine through its public interface, with the real weights of the demo model.

mod accounting;
mod adapters;
mod admission;
mod conservation;
mod corpus;
mod embedding;
mod files;
mod formats;
mod golden;
mod invariance;
mod lease;
mod prefixes;
mod quantization;
mod schemas;
mod support;
mod wording;
