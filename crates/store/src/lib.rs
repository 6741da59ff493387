//! Adapters for the ports of `admission` and `cache`: memory, SQLite, Redis, files.
//!
//! [`open`] chooses the implementations once, from what was configured. The memory implementations
//! are product code, proved by the same conformance suites as the networked ones.
//!
//! Invariant: this is the only crate that knows Redis or SQL.

#[cfg(test)]
mod cache_conformance;
mod cache_memory;
mod cache_redis;
mod journal;
mod open;
mod quota_memory;
mod sql;

pub use cache_memory::{MemoryCache, MemoryCacheSettings};
pub use cache_redis::{RedisCache, RedisCacheAddressError, RedisCacheSettings};
pub use journal::JournaledLedger;
pub use open::{StoreSettings, Stores, open, pepper, tenants};
pub use quota_memory::MemoryQuota;
pub use sql::Sqlite;
