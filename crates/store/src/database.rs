//! The database: tenants, the ledger and what is derived from it, in SQLite or PostgreSQL.
//!
//! Every statement is written once and understood by both; what differs (how a transaction begins, what a
//! connection is told first) is in this file. Nothing here is on the path of a request.

mod accounts;
mod alerts;
mod export;
mod insert;
mod ledger;
mod members;
mod rollups;
mod tenants;
mod usage;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use admission::StoreError;
use domain::Secret;
use sqlx::any::{Any, AnyPoolOptions, AnyRow};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyPool, ConnectOptions as _, Executor as _, Row as _, Transaction};

use crate::private;
pub use accounts::WorkerAccounts;
pub use alerts::Alert;
pub use export::{ExportError, ExportFormat, ExportRange};
pub use usage::{UsageError, UsageGroup, UsageLine, UsagePage, UsageQuery};
pub use verify::Verification;

/// Where the database is.
#[derive(Clone, Debug)]
pub enum DatabaseAddress {
    /// A file of SQLite; made if it does not exist.
    Sqlite(PathBuf),
    /// `postgres://user:password@host:port/database`
    Postgres(Secret<String>),
}

/// Tenants, ledger rows and sums. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: AnyPool,
    dialect: Dialect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

impl Database {
    /// Opens or makes the database, and brings its tables up to date.
    pub async fn open(address: &DatabaseAddress) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);

        if let DatabaseAddress::Sqlite(path) = address {
            // SQLite gives its other files the mode of this one.
            private::make(path).map_err(|error| StoreError::new("make database", error))?;
        }
        let (url, dialect) = match address {
            DatabaseAddress::Sqlite(path) => (sqlite_url(path), Dialect::Sqlite),
            DatabaseAddress::Postgres(url) => (url.expose().clone(), Dialect::Postgres),
        };
        let pool = AnyPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(dialect.greeting()).await?;
                    Ok(())
                })
            })
            .connect(&url)
            .await
            .map_err(|error| StoreError::new("open database", error))?;
        MIGRATIONS.run(&pool).await.map_err(|error| StoreError::new("migrate database", error))?;
        Ok(Self { pool, dialect })
    }

    /// A transaction that writes.
    async fn begin(&self) -> sqlx::Result<Transaction<'static, Any>> {
        self.pool.begin_with(self.dialect.begin_writing()).await
    }

    /// A transaction that reads everything as of one moment.
    async fn begin_reading(&self) -> sqlx::Result<Transaction<'static, Any>> {
        self.pool.begin_with(self.dialect.begin_reading()).await
    }
}

impl Dialect {
    /// What a new connection is told first.
    const fn greeting(self) -> &'static str {
        match self {
            // Readers never wait for the writer, and what is committed survives a killed process.
            Self::Sqlite => {
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000"
            }
            Self::Postgres => "SET statement_timeout = '30s'; SET lock_timeout = '5s'",
        }
    }

    const fn begin_writing(self) -> &'static str {
        match self {
            // Else two writers could both begin as readers, and one of them would have to give up.
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN",
        }
    }

    const fn begin_reading(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }
}

fn sqlite_url(path: &Path) -> String {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.to_url_lossy().to_string()
}

/// A column that holds text with a form of its own: an id, a time zone.
fn parsed<T>(row: &AnyRow, column: &str) -> sqlx::Result<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.try_get(column)?;
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// A column that counts.
fn count(row: &AnyRow, column: &str) -> sqlx::Result<u64> {
    row.try_get::<i64, _>(column).map(i64::unsigned_abs)
}

/// Integers of databases are signed.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");
const MAX_CONNECTIONS: u32 = 4;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
