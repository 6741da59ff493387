//! Adapters for the ports of `admission` and `cache`: memory, SQLite, Redis, files.
//!
//! [`open`] chooses the implementations once, from what was configured. The memory implementations
//! are product code, proved by the same conformance suites as the networked ones.
//!
//! Invariant: this is the only crate that knows Redis or SQL.

mod bank_book;
mod bank_memory;
#[cfg(test)]
mod cache_conformance;
mod cache_memory;
mod cache_redis;

pub use bank_memory::MemoryBank;
pub use cache_memory::{MemoryCache, MemoryCacheSettings};
pub use cache_redis::{RedisCache, RedisCacheAddressError, RedisCacheSettings};
