//! The stores, through their ports.

mod journal;
mod quota;
mod tenants;
mod world;
