//! What models are pulled from, on loopback.

pub(crate) mod hub;
pub(crate) mod store;
pub(crate) mod wire;
