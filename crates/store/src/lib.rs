//! Adapters for the ports of `admission`, `cache` and `routing`: memory, SQLite, Redis, files.
//!
//! [`open()`] chooses the implementations once, from what was configured. The memory implementations
//! are product code, proved by the same conformance suites as the networked ones.
//!
//! Invariant: this is the only crate that knows Redis or SQL.

mod bank_book;
mod bank_memory;
mod bank_redis;
#[cfg(test)]
mod cache_conformance;
mod cache_memory;
mod cache_redis;
mod database;
mod directory_redis;
mod journal;
mod open;
mod private;
mod redis_link;
mod seats;

pub use bank_memory::MemoryBank;
pub use bank_redis::{RedisBank, RedisBankSettings};
pub use cache_memory::{MemoryCache, MemoryCacheSettings};
pub use cache_redis::{RedisCache, RedisCacheSettings};
pub use database::{
    Alert, Database, DatabaseAddress, ExportError, ExportFormat, ExportRange, UsageError,
    UsageGroup, UsageLine, UsagePage, UsageQuery, Verification, WorkerAccounts,
};
pub use directory_redis::RedisDirectory;
pub use journal::JournaledLedger;
pub use open::{StoreSettings, Stores, open};
pub use redis_link::RedisAddressError;
