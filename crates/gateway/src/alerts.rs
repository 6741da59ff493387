//! Tells organizations that a budget has reached a part of its amount, once for each part and window.
//!
//! What was spent is read from the ledger's sums, so every gateway sees the same, and an alert is raised by
//! whichever sees it first. It stays in the database until somebody was told: a webhook that fails is tried
//! again. A receiver may hear of the same alert twice (it has an id) and never of none.

use std::sync::Arc;
use std::time::Duration;

use admission::tenancy::{Amount, Webhook};
use admission::{Directory, StoreError, Watched};
use domain::{Clock, Secret, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use store::{Alert, Database};

use crate::outside::Outside;

/// Looks at budgets and tells of them.
pub(crate) struct Alerts {
    pub(crate) directory: Arc<Directory>,
    pub(crate) database: Database,
    pub(crate) outside: Outside,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Alerts {
    /// Looks and tells, until dropped.
    pub(crate) async fn run(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.look().await {
                tracing::warn!(error = ?error, "budgets not looked at");
            }
        }
    }

    /// Looks at every budget with alerts, and tells what is to be told.
    pub(crate) async fn look(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut raised = Vec::new();
        for watched in self.directory.watched(now) {
            let claim = std::slice::from_ref(&watched.claim);
            let spent = self.database.spent(watched.organization, claim).await?;
            let spent: i64 = spent.iter().flat_map(|one| &one.spent).map(|(_, sum)| sum).sum();
            raised.extend(
                reached(&watched, spent).map(|percent| alert(&watched, percent, spent, now)),
            );
        }
        if !raised.is_empty() {
            self.database.raise(&raised).await?;
        }
        for alert in self.database.undelivered().await? {
            self.tell(&alert).await?;
        }
        Ok(())
    }

    async fn tell(&self, alert: &Alert) -> Result<(), StoreError> {
        if !self.database.take(alert, self.clock.now()).await? {
            return Ok(()); // another gateway tells it
        }
        let Some(webhook) = self.directory.webhook(alert.organization) else {
            tracing::warn!(alert = %alert.body, "a budget has reached a part of its amount");
            return self.database.delivered(alert, self.clock.now()).await;
        };
        let body = alert.body.to_string();
        let headers = [("x-tollgate-signature", signature(&webhook, self.clock.now(), &body))];
        match self.outside.post(&webhook.url, &headers, body).await {
            Ok(()) => self.database.delivered(alert, self.clock.now()).await,
            Err(error) => {
                tracing::warn!(
                    organization = %alert.organization, error = ?error,
                    "webhook not reached, trying again"
                );
                self.database.postpone(alert, self.clock.now()).await
            }
        }
    }
}

/// The percentages that `spent` has reached.
fn reached(watched: &Watched, spent: i64) -> impl Iterator<Item = u32> {
    let amount = i128::from(watched.claim.capacity());
    let spent = i128::from(spent) * 100;
    let reached = move |percent: &u32| amount > 0 && spent >= amount * i128::from(*percent);
    watched.percentages.clone().into_iter().filter(reached)
}

fn alert(watched: &Watched, percent: u32, spent: i64, now: Timestamp) -> Alert {
    let account = watched.claim.account;
    let (unit, amount) = match watched.amount {
        Amount::Money(amount) => ("nano_usd", amount.nanos()),
        Amount::Tokens(amount) => ("tokens", i64::try_from(amount).unwrap_or(i64::MAX)),
        Amount::GpuTime(amount) => ("gpu_nanos", i64::try_from(amount.nanos()).unwrap_or(i64::MAX)),
    };
    let id = format!("{}/{}/{}/{percent}", account.rule, account.scope, account.window.millis());
    let body: Value = json!({
        "type": "budget.threshold_reached",
        "id": id,
        "at": now.millis(),
        "organization": watched.organization,
        "scope": account.scope.to_string(),
        "budget": account.rule,
        "window_start": account.window.millis(),
        "percent": percent,
        "unit": unit,
        "amount": amount,
        "spent": spent,
    });
    Alert {
        rule: account.rule,
        scope: account.scope,
        window: account.window,
        percent,
        organization: watched.organization,
        body,
        raised_at: now,
    }
}

/// `t=<milliseconds>,v1=<HMAC-SHA-256 of "<milliseconds>.<body>">`, in hexadecimal digits.
fn signature(webhook: &Webhook, now: Timestamp, body: &str) -> String {
    let secret: &Secret<String> = &webhook.secret;
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("any length is a key");
    mac.update(now.millis().to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    let digits: Vec<String> =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={},v1={}", now.millis(), digits.concat())
}

const INTERVAL: Duration = Duration::from_secs(2);
