//! Alerts of budgets: each is raised once a window, whichever gateway sees it first, and stays here until it
//! was delivered.

use admission::StoreError;
use domain::{OrganizationId, RuleId, ScopeId, Timestamp};
use serde_json::Value;
use sqlx::Row as _;
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;

use super::insert::{Cell, Insert};
use super::{Database, count, integer, parsed};

/// A budget has reached a part of its amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Which budget.
    pub rule: RuleId,
    /// Where it stands.
    pub scope: ScopeId,
    /// The first moment of its window.
    pub window: Timestamp,
    /// Which part, in percent.
    pub percent: u32,
    /// Whose it is.
    pub organization: OrganizationId,
    /// What is told about it.
    pub body: Value,
    /// When it was seen.
    pub raised_at: Timestamp,
}

impl Database {
    /// Raises alerts; those that were raised before change nothing.
    pub async fn raise(&self, alerts: &[Alert]) -> Result<(), StoreError> {
        let write = async {
            let mut transaction = self.begin().await?;
            INSERT.run(&mut transaction, alerts.iter().map(row).collect()).await?;
            transaction.commit().await
        };
        write.await.map_err(|error: sqlx::Error| StoreError::new("raise alerts", error))
    }

    /// Alerts that nobody is known to have been told of, oldest first.
    pub async fn undelivered(&self) -> Result<Vec<Alert>, StoreError> {
        let doing = |error| StoreError::new("read alerts", error);
        let rows = sqlx::query(SELECT_UNDELIVERED).fetch_all(&self.pool).await.map_err(doing)?;
        rows.iter().map(alert).collect::<sqlx::Result<_>>().map_err(doing)
    }

    /// Takes an alert for delivery: true for whoever calls first. Others may take it when a minute has passed
    /// and it was not [`delivered`](Self::delivered): whoever took it died, or nobody listened.
    pub async fn take(&self, alert: &Alert, at: Timestamp) -> Result<bool, StoreError> {
        let now = integer(at.millis().max(1));
        let query = sqlx::query(TAKE).bind(-now).bind(TAKEN_MILLIS - now);
        let taken = named(query, alert).execute(&self.pool).await;
        let taken = taken.map_err(|error| StoreError::new("take alert", error))?;
        Ok(taken.rows_affected() == 1)
    }

    /// Notes that nobody listened, so that it is taken again within seconds.
    pub async fn postpone(&self, alert: &Alert, at: Timestamp) -> Result<(), StoreError> {
        let as_if_taken = integer(at.millis()) - TAKEN_MILLIS + POSTPONED_MILLIS;
        let query = sqlx::query(DELIVERED).bind(-as_if_taken.max(1)).bind(0_i64);
        let noted = named(query, alert).execute(&self.pool).await;
        noted.map(drop).map_err(|error| StoreError::new("postpone alert", error))
    }

    /// Notes that somebody was told.
    pub async fn delivered(&self, alert: &Alert, at: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(DELIVERED).bind(integer(at.millis().max(1))).bind(0_i64);
        let noted = named(query, alert).execute(&self.pool).await;
        noted.map(drop).map_err(|error| StoreError::new("note delivery of alert", error))
    }
}

/// Fills in which alert is meant.
fn named<'q>(query: Query<'q, Any, AnyArguments>, alert: &Alert) -> Query<'q, Any, AnyArguments> {
    query
        .bind(alert.rule.to_string())
        .bind(alert.scope.to_string())
        .bind(integer(alert.window.millis()))
        .bind(i64::from(alert.percent))
}

fn row(alert: &Alert) -> Vec<Cell> {
    vec![
        alert.rule.to_string().into(),
        alert.scope.to_string().into(),
        alert.window.millis().into(),
        alert.percent.into(),
        alert.organization.to_string().into(),
        alert.body.to_string().into(),
        alert.raised_at.millis().into(),
        0_i64.into(),
    ]
}

fn alert(row: &AnyRow) -> sqlx::Result<Alert> {
    let body: String = row.try_get("body")?;
    let percent = count(row, "percent")?;
    Ok(Alert {
        rule: parsed(row, "rule_id")?,
        scope: parsed(row, "scope")?,
        window: Timestamp::from_millis(count(row, "window_start")?),
        percent: u32::try_from(percent).unwrap_or(u32::MAX),
        organization: parsed(row, "organization_id")?,
        body: serde_json::from_str(&body).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        raised_at: Timestamp::from_millis(count(row, "raised_at")?),
    })
}

const INSERT: Insert = Insert {
    table: "alerts",
    columns: &[
        "rule_id",
        "scope",
        "window_start",
        "percent",
        "organization_id",
        "body",
        "raised_at",
        "delivered_at",
    ],
    then: "ON CONFLICT (rule_id, scope, window_start, percent) DO NOTHING",
};
const SELECT_UNDELIVERED: &str =
    "SELECT * FROM alerts WHERE delivered_at <= 0 ORDER BY raised_at LIMIT 100";
// While an alert is being delivered its `delivered_at` is the moment that began, negative.
const TAKE: &str = "UPDATE alerts SET delivered_at = $1 WHERE \
     (delivered_at = 0 OR (delivered_at < 0 AND delivered_at > $2)) AND \
     rule_id = $3 AND scope = $4 AND window_start = $5 AND percent = $6";
const DELIVERED: &str = "UPDATE alerts SET delivered_at = $1 WHERE delivered_at <= $2 AND \
     rule_id = $3 AND scope = $4 AND window_start = $5 AND percent = $6";
/// How long whoever took an alert has for delivering it.
const TAKEN_MILLIS: i64 = 60_000;
const POSTPONED_MILLIS: i64 = 5_000;
