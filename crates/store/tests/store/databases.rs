//! One empty database of each kind for each test.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::Secret;
use sqlx::{Connection as _, Executor as _};
use store::{Database, DatabaseAddress};
use tempfile::TempDir;

/// A database that is gone with the test.
pub(crate) struct Fresh {
    pub(crate) database: Database,
    pub(crate) address: DatabaseAddress,
    _folder: Option<TempDir>,
}

pub(crate) async fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let address = DatabaseAddress::Sqlite(folder.path().join("tollgate.db"));
    let database = Database::open(&address).await.unwrap();
    Fresh { database, address, _folder: Some(folder) }
}

/// A schema of its own in the server that tests are given.
pub(crate) async fn postgres() -> Fresh {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let server = server();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("test_{}_{number}", std::process::id());
    let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    let (start, _) = server.rsplit_once('/').unwrap();
    let address = DatabaseAddress::Postgres(Secret::new(format!("{start}/{name}")));
    let database = Database::open(&address).await.unwrap();
    Fresh { database, address, _folder: None }
}

#[expect(clippy::disallowed_methods, reason = "where the tests find servers is not configuration")]
fn server() -> String {
    std::env::var("TOLLGATE_TEST_POSTGRES").expect(
        "TOLLGATE_TEST_POSTGRES must name a PostgreSQL to test with; `cargo xtask test` starts one and sets it",
    )
}

/// Makes a test of each function below for each kind of database.
macro_rules! for_each_database {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::databases::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::databases::postgres().await).await;
            })+
        }
    };
}
pub(crate) use for_each_database;
