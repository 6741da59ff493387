//! Tenants, the audit log and answers given once, in every kind of database.

use std::collections::BTreeMap;
use std::time::Duration;

use admission::tenancy::{
    AuditDraft, Change, Committed, Idempotency, Organization, Policy, Record, Tenants, TimeZone,
    View,
};
use domain::{OrganizationId, Timestamp};
use serde_json::json;
use store::Database;

use crate::databases::{Fresh, for_each_database};

for_each_database!(
    a_record_reads_back_as_it_was_written,
    only_what_changed_since_is_read,
    of_two_changes_planned_on_one_revision_one_is_outdated,
    a_removed_record_is_told_as_removed,
    lines_of_the_audit_log_are_numbered_and_chained,
    an_answer_is_given_once_and_kept,
);

fn organization(number: u128, name: &str) -> Record {
    Record::Organization(Organization {
        id: OrganizationId::from_u128(number),
        version: 1,
        name: name.to_owned(),
        time_zone: TimeZone::try_from("Europe/Berlin".to_owned()).unwrap(),
        policy: Policy::default(),
        webhook: None,
        metadata: BTreeMap::from([("cost centre".to_owned(), "42 \u{1f680}".to_owned())]),
        created_at: Timestamp::from_millis(5),
    })
}

fn draft(action: &str) -> AuditDraft {
    AuditDraft {
        at: NOW,
        actor: "admin_1".to_owned(),
        action: action.to_owned(),
        resource: String::new(),
        organization: None,
        outcome: "done".to_owned(),
        detail: json!({ "name": "x" }),
    }
}

async fn write(database: &Database, upserts: Vec<Record>, removals: Vec<String>) -> Committed {
    let expected_revision = database.revision().await.unwrap();
    let change =
        Change { expected_revision, upserts, removals, audit: draft("test"), idempotency: None };
    database.commit(&change).await.unwrap()
}

async fn a_record_reads_back_as_it_was_written(Fresh { database, address, .. }: Fresh) {
    let record = organization(1, "acme");

    write(&database, vec![record.clone()], vec![]).await;

    let again = Database::open(&address).await.unwrap();
    assert_eq!(again.changes(0).await.unwrap().records, [record]);
}

async fn only_what_changed_since_is_read(Fresh { database, .. }: Fresh) {
    write(&database, vec![organization(1, "first")], vec![]).await;
    let before = database.revision().await.unwrap();

    write(&database, vec![organization(2, "second")], vec![]).await;

    let changes = database.changes(before).await.unwrap();
    assert_eq!(changes.records, [organization(2, "second")]);
    assert!(changes.revision > before);
}

async fn of_two_changes_planned_on_one_revision_one_is_outdated(Fresh { database, .. }: Fresh) {
    let revision = database.revision().await.unwrap();
    let change = |name: &str| Change {
        expected_revision: revision,
        upserts: vec![organization(1, name)],
        removals: Vec::new(),
        audit: draft("test"),
        idempotency: None,
    };
    let (first, second) = (change("first"), change("second"));

    let (one, other) = tokio::join!(database.commit(&first), database.commit(&second));

    let outcomes = [one.unwrap(), other.unwrap()];
    let done = outcomes.iter().filter(|outcome| matches!(outcome, Committed::Done(_))).count();
    assert_eq!(done, 1, "{outcomes:?}");
    assert_eq!(database.changes(0).await.unwrap().records.len(), 1);
    assert_eq!(database.audit(0, 10).await.unwrap().len(), 1, "what did not happen leaves no line");
}

async fn a_removed_record_is_told_as_removed(Fresh { database, .. }: Fresh) {
    write(&database, vec![organization(1, "acme")], vec![]).await;
    let mut view = View::default();
    view.apply(database.changes(0).await.unwrap());
    let id = OrganizationId::from_u128(1);
    assert!(view.organization(id).is_some());

    write(&database, vec![], vec![id.to_string()]).await;

    view.apply(database.changes(view.revision()).await.unwrap());
    assert!(view.organization(id).is_none());
    assert!(database.changes(0).await.unwrap().records.is_empty());
}

async fn lines_of_the_audit_log_are_numbered_and_chained(Fresh { database, .. }: Fresh) {
    write(&database, vec![organization(1, "acme")], vec![]).await;
    for attempt in 0..4 {
        database.note(&draft(&format!("attempt {attempt}"))).await.unwrap();
    }

    let lines = database.audit(0, 10).await.unwrap();

    let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(lines[4].draft.action, "attempt 3");
    assert!(lines.windows(2).all(|pair| pair[0].hash != pair[1].hash));
    assert_eq!(database.audit(3, 1).await.unwrap(), lines[3..4]);
    assert!(database.verify().await.unwrap().is_clean());
}

async fn an_answer_is_given_once_and_kept(Fresh { database, .. }: Fresh) {
    let idempotency = Idempotency {
        key: "admin_1 abc".to_owned(),
        request: "hash".to_owned(),
        response: json!({ "id": "key_1" }),
    };
    let change = Change {
        expected_revision: database.revision().await.unwrap(),
        upserts: vec![organization(1, "acme")],
        removals: Vec::new(),
        audit: draft("test"),
        idempotency: Some(idempotency.clone()),
    };
    assert_eq!(database.answered("admin_1 abc", NOW).await.unwrap(), None);

    database.commit(&change).await.unwrap();

    let later = NOW.plus(Duration::from_hours(24));
    assert_eq!(database.answered("admin_1 abc", later).await.unwrap(), Some(idempotency));
    assert_eq!(database.answered("admin_2 abc", later).await.unwrap(), None);
    let too_late = later.plus(Duration::from_millis(1));
    assert_eq!(database.answered("admin_1 abc", too_late).await.unwrap(), None);
}

const NOW: Timestamp = Timestamp::from_millis(1_780_000_000_000);
