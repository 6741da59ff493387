//! Tenants as records, the audit log, and answers that are given once.

use admission::StoreError;
use admission::tenancy::{
    AuditDraft, AuditEntry, Change, Changes, Committed, Idempotency, Tenants,
};
use async_trait::async_trait;
use domain::Timestamp;
use sqlx::any::{Any, AnyRow};
use sqlx::{Row as _, Transaction};

use super::{Database, count, integer};

#[async_trait]
impl Tenants for Database {
    async fn revision(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT number FROM revision").fetch_one(&self.pool).await;
        let number = row.and_then(|row| count(&row, "number"));
        number.map_err(|error| StoreError::new("read revision", error))
    }

    async fn changes(&self, after: u64) -> Result<Changes, StoreError> {
        self.read_changes(after).await.map_err(|error| StoreError::new("read tenants", error))
    }

    async fn commit(&self, change: &Change) -> Result<Committed, StoreError> {
        self.write(change).await.map_err(|error| StoreError::new("change tenants", error))
    }

    async fn note(&self, draft: &AuditDraft) -> Result<(), StoreError> {
        let write = async {
            let mut transaction = self.begin().await?;
            // The audit log has one writer at a time, as everything here.
            sqlx::query("UPDATE revision SET number = number").execute(&mut *transaction).await?;
            append_audit(&mut transaction, draft).await?;
            transaction.commit().await
        };
        write.await.map_err(|error: sqlx::Error| StoreError::new("write audit log", error))
    }

    async fn answered(&self, key: &str, now: Timestamp) -> Result<Option<Idempotency>, StoreError> {
        let oldest = integer(now.millis().saturating_sub(KEEP_MILLIS));
        let read = async {
            let row = sqlx::query(SELECT_ANSWER)
                .bind(key.to_owned())
                .bind(oldest)
                .fetch_optional(&self.pool)
                .await?;
            row.as_ref().map(answer).transpose()
        };
        read.await.map_err(|error: sqlx::Error| StoreError::new("read earlier answer", error))
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let read = async {
            let rows = sqlx::query(SELECT_AUDIT)
                .bind(integer(after))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(audit_entry).collect::<sqlx::Result<_>>()
        };
        read.await.map_err(|error: sqlx::Error| StoreError::new("read audit log", error))
    }
}

impl Database {
    async fn read_changes(&self, after: u64) -> sqlx::Result<Changes> {
        let mut transaction = self.begin_reading().await?;
        let row = sqlx::query("SELECT number FROM revision").fetch_one(&mut *transaction).await?;
        let mut changes = Changes { revision: count(&row, "number")?, ..Changes::default() };
        let rows = sqlx::query("SELECT id, body FROM records WHERE revision > $1")
            .bind(integer(after))
            .fetch_all(&mut *transaction)
            .await?;
        for row in rows {
            let body: String = row.try_get("body")?;
            if body.is_empty() {
                changes.removed.push(row.try_get("id")?);
            } else {
                changes.records.push(from_json(&body)?);
            }
        }
        Ok(changes)
    }

    async fn write(&self, change: &Change) -> sqlx::Result<Committed> {
        let mut transaction = self.begin().await?;
        let expected = integer(change.expected_revision);
        let moved = sqlx::query("UPDATE revision SET number = number + 1 WHERE number = $1")
            .bind(expected)
            .execute(&mut *transaction)
            .await?;
        if moved.rows_affected() == 0 {
            return Ok(Committed::Outdated);
        }
        let revision = expected + 1;
        for record in &change.upserts {
            upsert(&mut transaction, &record.id(), revision, to_json(record)?).await?;
        }
        for id in &change.removals {
            upsert(&mut transaction, id, revision, String::new()).await?;
        }
        append_audit(&mut transaction, &change.audit).await?;
        if let Some(idempotency) = &change.idempotency {
            remember(&mut transaction, idempotency, change.audit.at.millis()).await?;
        }
        transaction.commit().await?;
        Ok(Committed::Done(revision.unsigned_abs()))
    }
}

async fn upsert(
    transaction: &mut Transaction<'static, Any>,
    id: &str,
    revision: i64,
    body: String,
) -> sqlx::Result<()> {
    sqlx::query(UPSERT_RECORD)
        .bind(id.to_owned())
        .bind(revision)
        .bind(body)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn append_audit(
    transaction: &mut Transaction<'static, Any>,
    draft: &AuditDraft,
) -> sqlx::Result<()> {
    let last = sqlx::query("SELECT number, line, hash FROM audit ORDER BY number DESC LIMIT 1")
        .fetch_optional(&mut **transaction)
        .await?;
    let last = last.as_ref().map(audit_entry).transpose()?;
    let entry = AuditEntry::after(last.as_ref(), draft.clone());
    sqlx::query("INSERT INTO audit (number, line, hash) VALUES ($1, $2, $3)")
        .bind(integer(entry.number))
        .bind(to_json(&entry.draft)?)
        .bind(entry.hash)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn remember(
    transaction: &mut Transaction<'static, Any>,
    idempotency: &Idempotency,
    at: u64,
) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM idempotency WHERE at < $1")
        .bind(integer(at.saturating_sub(KEEP_MILLIS)))
        .execute(&mut **transaction)
        .await?;
    sqlx::query("INSERT INTO idempotency (name, request, response, at) VALUES ($1, $2, $3, $4)")
        .bind(idempotency.key.clone())
        .bind(idempotency.request.clone())
        .bind(idempotency.response.to_string())
        .bind(integer(at))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

pub(super) fn audit_entry(row: &AnyRow) -> sqlx::Result<AuditEntry> {
    let line: String = row.try_get("line")?;
    Ok(AuditEntry {
        number: count(row, "number")?,
        draft: from_json(&line)?,
        hash: row.try_get("hash")?,
    })
}

fn answer(row: &AnyRow) -> sqlx::Result<Idempotency> {
    let response: String = row.try_get("response")?;
    Ok(Idempotency {
        key: row.try_get("name")?,
        request: row.try_get("request")?,
        response: from_json(&response)?,
    })
}

fn to_json(value: &impl serde::Serialize) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> sqlx::Result<T> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// How long an answer is remembered: a day.
const KEEP_MILLIS: u64 = 24 * 60 * 60 * 1_000;
const UPSERT_RECORD: &str = "INSERT INTO records (id, revision, body) VALUES ($1, $2, $3) \
     ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, body = excluded.body";
const SELECT_ANSWER: &str =
    "SELECT name, request, response FROM idempotency WHERE name = $1 AND at >= $2";
const SELECT_AUDIT: &str =
    "SELECT number, line, hash FROM audit WHERE number > $1 ORDER BY number LIMIT $2";
