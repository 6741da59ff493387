//! The admin API: what runs now, and waiting for it to be over.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{http, until};

/// A server as its administrator sees it.
#[derive(Clone, Debug)]
pub struct Admin {
    endpoint: String,
    token: String,
    http: reqwest::Client,
}

impl Admin {
    /// The admin API at `http://host:port`.
    pub fn new(endpoint: &str, token: &str) -> Self {
        let http = http().build().unwrap_or_default();
        Self { endpoint: endpoint.to_owned(), token: token.to_owned(), http }
    }

    /// `GET /admin/v1/status`.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let url = format!("{}/admin/v1/status", self.endpoint);
        let request = self.http.get(url).bearer_auth(&self.token).timeout(LIMIT);
        let answer = request.send().await.context("ask for the status")?;
        if answer.status() != 200 {
            bail!("the status is refused: {}", answer.status());
        }
        answer.json().await.context("read the status")
    }

    /// `POST path` with JSON: the status, and what was answered.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let url = format!("{}{path}", self.endpoint);
        let request = self.http.post(url).bearer_auth(&self.token).json(body).timeout(LIMIT);
        let answer = request.send().await.with_context(|| format!("post to {path}"))?;
        let status = answer.status().as_u16();
        Ok((status, answer.json().await.with_context(|| format!("read what {path} answers"))?))
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let url = format!("{}/metrics", self.endpoint);
        let answer = self.http.get(url).timeout(LIMIT).send().await.context("ask for metrics")?;
        let text = answer.text().await.context("read metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.with_context(|| format!("there is no metric {name} in:\n{text}"))
    }

    /// Waits until `look` sees what it looks for in the status.
    pub async fn until<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Value) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut last = Value::Null;
        let seen = until(what, LIMIT, async || {
            last = self.status().await?;
            Ok(look(&last))
        });
        let seen = seen.await;
        seen.with_context(|| format!("the last status was {last}"))
    }

    /// Waits until `number` sequences run, over all workers.
    pub async fn running(&self, number: u64) -> anyhow::Result<()> {
        let look = |status: &Value| (total(status, "running") == number).then_some(());
        self.until(&format!("{number} sequences run"), look).await
    }

    /// Waits until nothing runs or waits anywhere, and no quota is held.
    pub async fn quiet(&self) -> anyhow::Result<()> {
        let quiet = |status: &Value| {
            let busy = total(status, "running") + total(status, "waiting");
            let idle = status["open_holds"] == 0 && status["requests_in_flight"] == 0;
            (busy == 0 && idle).then_some(())
        };
        self.until("become quiet", quiet).await
    }
}

/// The sum of one figure over all workers.
fn total(status: &Value, figure: &str) -> u64 {
    let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
    workers.iter().filter_map(|worker| worker[figure].as_u64()).sum()
}

const LIMIT: Duration = Duration::from_secs(30);
