//! The ledger as it lies in the gateway's folder, read beside the running gateway.
//!
//! Shared by the kinds of system tests that check money.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqliteRow};
use system_tests::until;

/// The database of a gateway.
pub(crate) struct Ledger(SqlitePool);

/// One row: an admitted request.
#[derive(Clone, Debug)]
pub(crate) struct LedgerRow {
    pub(crate) request: String,
    pub(crate) outcome: String,
    pub(crate) prompt_tokens: i64,
    pub(crate) cached_tokens: i64,
    pub(crate) completion_tokens: i64,
    pub(crate) charge: i64,
    /// Who pays, from the organization down to the key.
    pub(crate) scopes: [String; 3],
}

impl Ledger {
    pub(crate) async fn open(data: &Path) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new().filename(data.join("tollgate.db"));
        let pool = SqlitePool::connect_with(options.busy_timeout(LIMIT)).await;
        pool.map(Self).context("open the ledger")
    }

    /// Every row, oldest first.
    pub(crate) async fn rows(&self) -> anyhow::Result<Vec<LedgerRow>> {
        let rows = sqlx::query("SELECT * FROM ledger ORDER BY hold_id").fetch_all(&self.0).await;
        let rows: sqlx::Result<Vec<_>> = rows.context("read the ledger")?.iter().map(row).collect();
        rows.context("read a ledger row")
    }

    /// Waits for the row of one request.
    pub(crate) async fn row(&self, request: &str) -> anyhow::Result<LedgerRow> {
        let look = async || Ok(self.rows().await?.into_iter().find(|row| row.request == request));
        until(&format!("the row of {request} is in the ledger"), LIMIT, look).await
    }

    /// What each scope has been charged, as the gateway sums it up.
    pub(crate) async fn spending(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let rows = sqlx::query(SPENDING).fetch_all(&self.0).await;
        let rows = rows.context("read spending")?;
        let sums = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        sums.collect::<sqlx::Result<_>>().context("read spending")
    }
}

impl LedgerRow {
    /// What its tokens cost at the demo model's price, in nano-dollars.
    pub(crate) const fn price(&self) -> i64 {
        (self.prompt_tokens - self.cached_tokens) * PROMPT_NANOS
            + self.cached_tokens * CACHED_NANOS
            + self.completion_tokens * COMPLETION_NANOS
    }
}

/// What each scope has been charged, by adding up rows.
pub(crate) fn sums(rows: &[LedgerRow]) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for row in rows {
        for scope in &row.scopes {
            *sums.entry(scope.clone()).or_insert(0) += row.charge;
        }
    }
    sums
}

fn row(row: &SqliteRow) -> sqlx::Result<LedgerRow> {
    Ok(LedgerRow {
        request: row.try_get("request_id")?,
        outcome: row.try_get("outcome")?,
        prompt_tokens: row.try_get("prompt_tokens")?,
        cached_tokens: row.try_get("cached_tokens")?,
        completion_tokens: row.try_get("completion_tokens")?,
        charge: row.try_get("charge_nanos")?,
        scopes: [
            row.try_get("organization_id")?,
            row.try_get("project_id")?,
            row.try_get("key_id")?,
        ],
    })
}

const SPENDING: &str = "\
    SELECT organization_id, SUM(charge_nanos) FROM rollups WHERE grain = 'hour' GROUP BY 1 UNION ALL \
    SELECT project_id, SUM(charge_nanos) FROM rollups WHERE grain = 'hour' GROUP BY 1 UNION ALL \
    SELECT key_id, SUM(charge_nanos) FROM rollups WHERE grain = 'hour' GROUP BY 1";
/// 0.10 dollars per million.
pub(crate) const PROMPT_NANOS: i64 = 100;
/// 0.05 dollars per million.
const CACHED_NANOS: i64 = 50;
/// 0.40 dollars per million.
pub(crate) const COMPLETION_NANOS: i64 = 400;
const LIMIT: Duration = Duration::from_secs(20);
