//! Waiting for the ledger where the number of its rows is known.

use std::time::Duration;

use anyhow::ensure;
use system_tests::until;

use crate::ledger::{Ledger, LedgerRow};

impl Ledger {
    /// Waits for `number` rows. The database has a row soon after its request is over, not at once.
    pub(crate) async fn settled(&self, number: usize) -> anyhow::Result<Vec<LedgerRow>> {
        let look = async || Ok(Some(self.rows().await?).filter(|rows| rows.len() >= number));
        let rows = until(&format!("{number} rows are in the ledger"), LIMIT, look).await?;
        ensure!(rows.len() == number, "more than {number} rows: {rows:#?}");
        Ok(rows)
    }
}

const LIMIT: Duration = Duration::from_secs(20);
