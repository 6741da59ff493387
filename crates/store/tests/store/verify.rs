//! A verification finds whatever does not belong.

use domain::{GpuTime, Timestamp};
use sqlx::Connection as _;
use store::{DatabaseAddress, WorkerAccounts};

use crate::databases::{Fresh, sqlite};
use crate::world::{admitted, closed};

/// Some rows, and a worker whose accounts agree with them.
async fn agreeing() -> Fresh {
    let fresh = sqlite().await;
    let rows: Vec<_> = (0..5).map(|charge| closed(&admitted(), charge)).collect();
    fresh.database.append(&rows).await.unwrap();
    fresh.database.keep_accounts(&[accounts()]).await.unwrap();
    let found = fresh.database.verify().await.unwrap();
    assert!(found.is_clean(), "{found}");
    assert_eq!((found.rows, found.workers, found.at_rest), (5, 1, 1));
    fresh
}

fn accounts() -> WorkerAccounts {
    WorkerAccounts {
        worker: "w".to_owned(),
        incarnation: "1".to_owned(),
        // Later than any of its rows, so that it was at rest.
        at: Timestamp::from_millis(u64::MAX >> 1),
        requests: GpuTime::from_nanos(45),
        idle: GpuTime::from_nanos(47),
        overhead: GpuTime::from_nanos(5),
        hedge: GpuTime::from_nanos(3),
        wall: GpuTime::from_nanos(100),
        ..WorkerAccounts::default()
    }
}

/// Does to the file what nothing in the product does; returns what a verification says then.
async fn tampered(statement: &'static str) -> String {
    let fresh = agreeing().await;
    let Fresh { database, address, .. } = &fresh;
    let DatabaseAddress::Sqlite(path) = address else { panic!("these tests use SQLite") };
    let url = format!("sqlite://{}", path.display());
    let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let changed = sqlx::query(statement).execute(&mut connection).await.unwrap();
    assert!(changed.rows_affected() > 0, "nothing was changed");
    let found = database.verify().await.unwrap();
    assert!(!found.is_clean(), "{statement}");
    found.to_string()
}

#[tokio::test]
async fn a_row_that_was_changed_taken_out_or_made_up_is_found() {
    let said = tampered("UPDATE ledger SET charge_nanos = charge_nanos + 1").await;
    assert!(said.contains("budgets counted another amount"), "{said}");
    let said = tampered(
        "UPDATE ledger SET charge_nanos = charge_nanos + 1, counted_money = counted_money + 1",
    )
    .await;
    assert!(said.contains("sum of day"), "{said}");
    let said =
        tampered("DELETE FROM ledger WHERE hold_id = (SELECT MIN(hold_id) FROM ledger)").await;
    assert!(said.contains("sum of quarter"), "{said}");
}

#[tokio::test]
async fn a_sum_that_is_not_the_sum_of_its_rows_is_found() {
    let said = tampered("UPDATE rollups SET gpu_nanos = gpu_nanos + 1 WHERE grain = 'hour'").await;
    assert!(said.contains("sum of hour") && !said.contains("sum of day"), "{said}");
}

#[tokio::test]
async fn time_of_a_worker_that_nobody_owns_is_found() {
    let said = tampered("UPDATE worker_accounts SET idle_nanos = idle_nanos + 1").await;
    assert!(said.contains("sum up to 101 ns"), "{said}");
    let said = tampered("UPDATE worker_accounts SET hedge_nanos = 0").await;
    assert!(said.contains("sum up to 97 ns"), "{said}");
    let said = tampered(
        "UPDATE worker_accounts SET idle_nanos = idle_nanos + 9, requests_nanos = requests_nanos - 9",
    )
    .await;
    assert!(said.contains("rows say 45 ns"), "{said}");
    let said = tampered("UPDATE work SET gpu_nanos = gpu_nanos + 1").await;
    assert!(said.contains("did not do what it says"), "{said}");
}

#[tokio::test]
async fn an_older_statement_of_a_worker_changes_nothing() {
    let Fresh { database, .. } = agreeing().await;
    let older = WorkerAccounts { wall: GpuTime::from_nanos(90), ..accounts() };
    database.keep_accounts(&[older]).await.unwrap();
    assert_eq!(database.accounts().await.unwrap(), [accounts()]);
}

#[tokio::test]
async fn what_was_told_of_a_sequence_that_was_given_up_is_in_its_row_and_abandoned_by_its_worker() {
    let fresh = agreeing().await;
    let database = &fresh.database;
    let mut given_up = closed(&admitted(), 0);
    given_up.work[0].complete = false;
    database.append(&[given_up]).await.unwrap();
    let found = database.verify().await.unwrap();
    assert!(found.to_string().contains("rows say 54 ns"), "nobody abandoned it: {found}");

    // That and as much that was never told.
    let abandoned = GpuTime::from_nanos(18);
    let wall = GpuTime::from_nanos(118);
    let told = WorkerAccounts { abandoned, wall, ..accounts() };
    database.keep_accounts(&[told]).await.unwrap();
    let found = database.verify().await.unwrap();
    assert!(found.is_clean(), "{found}");

    // What its worker said all of is its worker's to the nanosecond.
    database.append(&[closed(&admitted(), 0)]).await.unwrap();
    assert!(!database.verify().await.unwrap().is_clean());
}
