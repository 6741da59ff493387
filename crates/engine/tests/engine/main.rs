//! The engine through its public interface, with the real weights of the demo model.

mod accounting;
mod admission;
mod conservation;
mod files;
mod formats;
mod golden;
mod invariance;
mod lease;
mod schemas;
mod support;
