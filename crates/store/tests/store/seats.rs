//! Two processes in one data directory, as in an upgrade, and what one leaves behind that died.

use std::sync::Arc;
use std::time::Duration;

use admission::{Ledger, SliceSettings};
use domain::{Clock, Secret, SystemClock};
use store::{MemoryCacheSettings, StoreSettings, Stores};

use crate::world::admitted;

/// Stores in `data`; quotas are shared if `redis` is there.
fn settings(data: &std::path::Path, redis: Option<String>) -> StoreSettings {
    StoreSettings {
        data: data.to_owned(),
        postgres: None,
        redis: redis.map(Secret::new),
        pepper_file: None,
        cache: None::<MemoryCacheSettings>,
        slices: SliceSettings { gateways: 2, request_timeout: Duration::from_mins(1) },
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no other configuration")]
fn redis() -> String {
    std::env::var("TOLLGATE_TEST_REDIS").expect(
        "TOLLGATE_TEST_REDIS must name a Redis to test with; `cargo xtask test` starts one and sets it",
    )
}

async fn open(settings: &StoreSettings) -> Result<Stores, admission::StoreError> {
    store::open(settings, Arc::new(SystemClock) as Arc<dyn Clock>).await
}

#[tokio::test]
async fn a_second_process_has_an_identity_and_a_journal_of_its_own_where_quotas_are_shared() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), Some(redis()));
    let first = open(&settings).await.unwrap();
    let second = open(&settings).await.unwrap();
    assert_ne!(first.gateway, second.gateway);

    let (one, other) = (admitted(), admitted());
    first.ledger.open(&one).await.unwrap();
    second.ledger.open(&other).await.unwrap();
    let (was, other) = (first.gateway, second.gateway);
    drop(first);
    // The first seat is free again, and keeps its identity.
    let third = open(&settings).await.unwrap();
    assert_eq!(third.gateway, was);
    drop((second, third));
    let _taken = open(&settings).await.unwrap();
    assert_eq!(open(&settings).await.unwrap().gateway, other);
}

#[tokio::test]
async fn a_second_process_is_refused_where_each_would_count_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), None);
    let _first = open(&settings).await.unwrap();
    let error = open(&settings).await.err().expect("the journal is taken");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("in use by another process"), "{cause}");
}

#[tokio::test]
async fn what_a_process_left_behind_in_a_seat_of_its_own_is_brought_in_order_by_the_other_one() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path(), Some(redis()));
    let first = open(&settings).await.unwrap();
    let second = open(&settings).await.unwrap();
    second.ledger.open(&admitted()).await.unwrap();
    let database = first.database.clone();
    let left = folder.path().join("ledger-2.journal");
    assert!(left.exists());
    // It dies without a word.
    drop(second);
    assert_eq!(database.rows().await.unwrap(), 0);

    let settled = async {
        // Each look waits for the database's answer.
        while left.exists() {
            database.rows().await.unwrap();
        }
    };
    tokio::select! {
        () = first.run() => unreachable!("it runs for ever"),
        () = settled => {}
    }
    assert_eq!(database.rows().await.unwrap(), 1, "what was open has its row");
    assert!(folder.path().join("ledger.journal").exists(), "the other one's is its own");
}
