//! The ledger survives what a killed process leaves behind.

use admission::Ledger;
use proptest::prelude::*;
use store::{Database, UsageQuery};

use crate::world::{admitted, closed, database, ledger};

/// What all rows together are charged.
async fn charged(database: &Database) -> i64 {
    let query = UsageQuery {
        to: domain::Timestamp::from_millis(u64::MAX / 900_000 * 900_000),
        limit: 10,
        ..UsageQuery::default()
    };
    let page = database.usage(&query).await.unwrap();
    page.lines.iter().map(|line| line.charge.charge.nanos()).sum()
}

#[tokio::test]
async fn a_closed_request_is_one_row_and_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(folder.path()).await;
    let admitted = admitted();

    ledger.open(&admitted).await.unwrap();
    ledger.close(&closed(&admitted, 5)).await.unwrap();
    ledger.close(&closed(&admitted, 7)).await.unwrap();
    ledger.flush().await.unwrap();

    let database = database(folder.path()).await;
    assert_eq!(database.rows().await.unwrap(), 1);
    assert_eq!(charged(&database).await, 5);
}

#[tokio::test]
async fn a_request_that_was_open_when_the_process_died_becomes_an_interrupted_row() {
    let folder = tempfile::tempdir().unwrap();
    {
        let ledger = ledger(folder.path()).await;
        let (first, second) = (admitted(), admitted());
        ledger.open(&first).await.unwrap();
        ledger.open(&second).await.unwrap();
        ledger.close(&closed(&first, 5)).await.unwrap();
        // Not flushed: the process dies here.
    }

    drop(ledger(folder.path()).await);
    drop(ledger(folder.path()).await);

    let database = database(folder.path()).await;
    assert_eq!(database.rows().await.unwrap(), 2, "each admitted request has one row");
    assert_eq!(charged(&database).await, 5);
}

#[tokio::test]
async fn only_one_process_has_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let _first = ledger(folder.path()).await;

    let path = folder.path().join("ledger.journal");
    let database = database(folder.path()).await;
    let second = store::JournaledLedger::open(&path, database, crate::world::clock()).await;

    let error = second.err().expect("the journal is taken");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("in use by another process"), "{cause}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_journal_cut_or_spoilt_anywhere_loses_no_earlier_record(
        damage_at in 0.0_f64..1.0,
        cut in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ledger.journal");
            let mut ends = Vec::new();
            {
                let ledger = ledger(folder.path()).await;
                for _ in 0..6 {
                    ledger.open(&admitted()).await.unwrap();
                    ends.push(std::fs::metadata(&path).unwrap().len());
                }
            }
            let mut content = std::fs::read(&path).unwrap();
            let at = ((content.len() - 1) as f64 * damage_at) as usize;
            if cut { content.truncate(at) } else { content[at] ^= 0x55 }
            std::fs::write(&path, &content).unwrap();

            drop(ledger(folder.path()).await);

            let whole = ends.iter().filter(|end| **end <= at as u64).count() as u64;
            let rows = database(folder.path()).await.rows().await.unwrap();
            prop_assert_eq!(rows, whole, "records before the damage");
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn what_is_kept_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("new").join("data");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let settings = store::StoreSettings {
        data: data.clone(),
        postgres: None,
        redis: None,
        pepper_file: None,
        cache: None,
        slices: admission::SliceSettings {
            gateways: 1,
            request_timeout: std::time::Duration::ZERO,
        },
    };

    let stores = store::open(&settings, crate::world::clock()).await.unwrap();

    assert_eq!(mode(&data), 0o700);
    let files: Vec<_> =
        std::fs::read_dir(&data).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.iter().any(|path| path.ends_with("ledger.journal")), "{files:?}");
    for path in files.iter().filter(|path| path.is_file()) {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    drop(stores);
    let database = data.join("tollgate.db");
    std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o644)).unwrap();
    settings.database().await.unwrap();
    assert_eq!(mode(&database), 0o600, "what others could read before they cannot any more");
}
