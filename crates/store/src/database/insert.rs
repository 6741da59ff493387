//! Many rows in one statement.

use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Transaction};

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Text(String),
    Number(i64),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(super::integer(number))
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// Inserts rows into a table. Its texts are constants of this crate.
#[derive(Clone, Copy)]
pub(super) struct Insert {
    pub(super) table: &'static str,
    pub(super) columns: &'static [&'static str],
    /// What follows the values: `ON CONFLICT ...`, `RETURNING ...`.
    pub(super) then: &'static str,
}

impl Insert {
    /// Inserts `rows`; what `RETURNING` says, if anything.
    pub(super) async fn run(
        &self,
        transaction: &mut Transaction<'static, Any>,
        rows: Vec<Vec<Cell>>,
    ) -> sqlx::Result<Vec<AnyRow>> {
        let mut returned = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let size = CHUNKS.iter().find(|size| **size <= rest.len()).copied().unwrap_or(1);
            let later = rest.split_off(size);
            let statement = self.statement(size);
            let mut query: Query<'_, Any, AnyArguments> = sqlx::query(AssertSqlSafe(statement));
            for cell in std::mem::replace(&mut rest, later).into_iter().flatten() {
                query = match cell {
                    Cell::Text(text) => query.bind(text),
                    Cell::Number(number) => query.bind(number),
                };
            }
            returned.extend(query.fetch_all(&mut **transaction).await?);
        }
        Ok(returned)
    }

    fn statement(&self, rows: usize) -> String {
        let Self { table, columns, then } = self;
        let width = columns.len();
        let row = |row: usize| {
            let places: Vec<String> =
                (1..=width).map(|column| format!("${}", row * width + column)).collect();
            format!("({})", places.join(", "))
        };
        let values: Vec<String> = (0..rows).map(row).collect();
        format!("INSERT INTO {table} ({}) VALUES {} {then}", columns.join(", "), values.join(", "))
    }
}

/// Rows of one statement: few different sizes, so that few statements are prepared.
const CHUNKS: [usize; 4] = [64, 16, 4, 1];
