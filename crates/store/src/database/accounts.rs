//! Where workers' time went, as they last said: the other side of the law that every nanosecond has an owner.

use admission::StoreError;
use domain::{GpuTime, Timestamp};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::insert::{Cell, Insert};
use super::{Database, count};

/// Where one life of a worker process spent its time so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerAccounts {
    /// The worker's name.
    pub worker: String,
    /// Which life of its process.
    pub incarnation: String,
    /// When it said so.
    pub at: Timestamp,
    /// Sequences it had then: its requests' time is known in full only when it has none.
    pub sequences: u64,
    /// On requests.
    pub requests: GpuTime,
    /// On nothing.
    pub idle: GpuTime,
    /// On its own book-keeping.
    pub overhead: GpuTime,
    /// On what a preemption had thrown away.
    pub preemption: GpuTime,
    /// On what another worker had computed before.
    pub migration: GpuTime,
    /// On requests whose end nobody took.
    pub abandoned: GpuTime,
    /// On requests that another worker answered faster.
    pub hedge: GpuTime,
    /// In all.
    pub wall: GpuTime,
}

impl WorkerAccounts {
    /// The sum of all accounts; the same as `wall`, or something is wrong.
    pub fn sum(&self) -> GpuTime {
        let Self { requests, idle, overhead, preemption, migration, abandoned, hedge, .. } = self;
        let all = [requests, idle, overhead, preemption, migration, abandoned, hedge];
        all.into_iter().copied().sum()
    }
}

impl Database {
    /// Keeps the accounts of workers. An older statement of the same life changes nothing.
    pub async fn keep_accounts(&self, accounts: &[WorkerAccounts]) -> Result<(), StoreError> {
        let write = async {
            let mut transaction = self.begin().await?;
            INSERT.run(&mut transaction, accounts.iter().map(row).collect()).await?;
            transaction.commit().await
        };
        write.await.map_err(|error: sqlx::Error| StoreError::new("keep worker accounts", error))
    }

    /// The accounts of every life of every worker.
    pub async fn accounts(&self) -> Result<Vec<WorkerAccounts>, StoreError> {
        let doing = |error| StoreError::new("read worker accounts", error);
        let rows = sqlx::query("SELECT * FROM worker_accounts ORDER BY worker, at")
            .fetch_all(&self.pool)
            .await
            .map_err(doing)?;
        rows.iter().map(accounts).collect::<sqlx::Result<_>>().map_err(doing)
    }
}

fn row(accounts: &WorkerAccounts) -> Vec<Cell> {
    let WorkerAccounts { worker, incarnation, at, sequences, requests, idle, .. } = accounts;
    let WorkerAccounts { overhead, preemption, migration, abandoned, hedge, wall, .. } = accounts;
    let times = [requests, idle, overhead, preemption, migration, abandoned, hedge, wall];
    let mut row: Vec<Cell> = vec![
        worker.as_str().into(),
        incarnation.as_str().into(),
        at.millis().into(),
        (*sequences).into(),
    ];
    row.extend(times.iter().map(|time| Cell::from(time.nanos())));
    row
}

fn accounts(row: &AnyRow) -> sqlx::Result<WorkerAccounts> {
    let time = |column| count(row, column).map(GpuTime::from_nanos);
    Ok(WorkerAccounts {
        worker: row.try_get("worker")?,
        incarnation: row.try_get("incarnation")?,
        at: Timestamp::from_millis(count(row, "at")?),
        sequences: count(row, "sequences")?,
        requests: time("requests_nanos")?,
        idle: time("idle_nanos")?,
        overhead: time("overhead_nanos")?,
        preemption: time("preemption_nanos")?,
        migration: time("migration_nanos")?,
        abandoned: time("abandoned_nanos")?,
        hedge: time("hedge_nanos")?,
        wall: time("wall_nanos")?,
    })
}

const INSERT: Insert = Insert {
    table: "worker_accounts",
    columns: &[
        "worker",
        "incarnation",
        "at",
        "sequences",
        "requests_nanos",
        "idle_nanos",
        "overhead_nanos",
        "preemption_nanos",
        "migration_nanos",
        "abandoned_nanos",
        "hedge_nanos",
        "wall_nanos",
    ],
    then: "ON CONFLICT (worker, incarnation) DO UPDATE SET at = excluded.at, sequences = excluded.sequences, \
        requests_nanos = excluded.requests_nanos, idle_nanos = excluded.idle_nanos, \
        overhead_nanos = excluded.overhead_nanos, preemption_nanos = excluded.preemption_nanos, \
        migration_nanos = excluded.migration_nanos, abandoned_nanos = excluded.abandoned_nanos, \
        hedge_nanos = excluded.hedge_nanos, \
        wall_nanos = excluded.wall_nanos \
        WHERE worker_accounts.wall_nanos < excluded.wall_nanos",
};
