//! Databases in the PostgreSQL that tests are given.

use anyhow::Context as _;
use sqlx::{Connection as _, Executor as _, PgConnection};

use system_tests::told;

/// The address of a new, empty database, whose name begins with `name`.
pub(crate) async fn empty(name: &str) -> anyhow::Result<String> {
    let server = told("TOLLGATE_TEST_POSTGRES").context(
        "TOLLGATE_TEST_POSTGRES must name a PostgreSQL to test with; `cargo xtask test` starts one and sets it",
    )?;
    let server = server.to_string_lossy().into_owned();
    let name = format!("{name}_{}", std::process::id());
    let mut connection = PgConnection::connect(&server).await.context("reach the database")?;
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
    let (start, _) = server.rsplit_once('/').context("the server's address names a database")?;
    Ok(format!("{start}/{name}"))
}
