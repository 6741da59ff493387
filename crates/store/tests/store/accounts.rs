//! Where workers' time went, in both kinds of database.

use domain::{GpuTime, Timestamp};
use sqlx::{AnyConnection, Connection as _, Executor as _};
use store::{Database, DatabaseAddress, WorkerAccounts};

use crate::databases::{Fresh, for_each_database};

for_each_database!(
    accounts_are_read_as_they_were_kept_last,
    accounts_from_before_hedges_had_one_are_read_without,
);

/// Accounts that differ in every figure.
fn accounts(from: u64) -> WorkerAccounts {
    let nanos = |number| GpuTime::from_nanos(from + number);
    WorkerAccounts {
        worker: "w".to_owned(),
        incarnation: "1".to_owned(),
        at: Timestamp::from_millis(from),
        sequences: from + 1,
        requests: nanos(2),
        idle: nanos(3),
        overhead: nanos(4),
        preemption: nanos(5),
        migration: nanos(6),
        abandoned: nanos(7),
        hedge: nanos(8),
        wall: nanos(9),
    }
}

async fn accounts_are_read_as_they_were_kept_last(fresh: Fresh) {
    for from in [10, 30, 20] {
        fresh.database.keep_accounts(&[accounts(from)]).await.unwrap();
    }

    assert_eq!(fresh.database.accounts().await.unwrap(), [accounts(30)]);
}

async fn accounts_from_before_hedges_had_one_are_read_without(fresh: Fresh) {
    fresh.database.keep_accounts(&[accounts(10)]).await.unwrap();
    // As it was before the second migration.
    let url = match &fresh.address {
        DatabaseAddress::Sqlite(path) => format!("sqlite://{}", path.display()),
        DatabaseAddress::Postgres(url) => url.expose().clone(),
    };
    let mut connection = AnyConnection::connect(&url).await.unwrap();
    connection.execute("ALTER TABLE worker_accounts DROP COLUMN hedge_nanos").await.unwrap();
    connection.execute("DELETE FROM _sqlx_migrations WHERE version = 2").await.unwrap();

    let again = Database::open(&fresh.address).await.unwrap();

    let before = WorkerAccounts { hedge: GpuTime::ZERO, ..accounts(10) };
    assert_eq!(again.accounts().await.unwrap(), [before]);
}
