//! What models are pulled from, on loopback.

pub mod hub;
pub mod store;
pub mod wire;
