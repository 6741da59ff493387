//! Making, listing and revoking keys: the same for the admin API and the command line.

use std::path::Path;
use std::sync::Arc;

use admission::{ApiKey, Budget, KeyRecord, Limits, NewKey, Pepper, Place, StoreError, Tenants};
use domain::{KeyId, ModelName, NanoUsd, ScopeId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Keys and the limits that stand around them.
pub struct Keys {
    tenants: Arc<dyn Tenants>,
    pepper: Pepper,
}

/// A key to make, as asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyRequest {
    /// Its name, for people.
    pub name: String,
    /// The name of its project; `default` if absent.
    pub project: Option<String>,
    /// Models it may use; empty means all.
    pub models: Vec<String>,
    /// How fast, and how much.
    #[serde(flatten)]
    pub limits: LimitsRequest,
}

/// What may stand at a scope, as asked for. Absent means unlimited.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct LimitsRequest {
    /// Requests admitted per minute.
    pub requests_per_minute: Option<u32>,
    /// Prompt and completion tokens per minute.
    pub tokens_per_minute: Option<u32>,
    /// Requests running at the same time.
    pub concurrent_requests: Option<u32>,
    /// The most that may be charged, in dollars, as text: `"12.50"`.
    pub budget_usd: Option<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// The store failed.
    #[error("keep keys")]
    Store(#[from] StoreError),
}

/// Keys as a table for people.
pub struct KeyTable(pub Vec<KeyRecord>);

impl Keys {
    pub(crate) fn new(tenants: Arc<dyn Tenants>, pepper: Pepper) -> Self {
        Self { tenants, pepper }
    }

    /// The keys kept in the directory `data`; it may be in use by a running gateway.
    pub async fn open(data: &Path) -> Result<Self, KeysError> {
        let tenants = store::tenants(data).await?;
        Ok(Self::new(Arc::new(tenants), store::pepper(data)?))
    }

    /// Makes a key. The secret is told here and never again.
    pub async fn create(&self, request: KeyRequest) -> Result<(ApiKey, KeyRecord), KeysError> {
        let KeyRequest { name, project, models, limits } = request;
        if name.trim().is_empty() {
            return Err(KeysError::Invalid("`name` must not be empty".to_owned()));
        }
        let key = ApiKey::generate();
        let (limits, budget) = limits.check()?;
        let new = NewKey {
            name,
            project: project.unwrap_or_else(|| DEFAULT_PROJECT.to_owned()),
            digest: self.pepper.digest(&key),
            limits,
            budget,
            models: models.into_iter().map(ModelName::new).collect(),
        };
        let record = self.tenants.create_key(new).await?;
        Ok((key, record))
    }

    /// Every key, oldest first.
    pub async fn list(&self) -> Result<Vec<KeyRecord>, KeysError> {
        Ok(self.tenants.snapshot().await?.keys)
    }

    /// Revokes a key, on every gateway within a second.
    pub async fn revoke(&self, id: &str) -> Result<KeyId, KeysError> {
        let id: KeyId = id.parse().map_err(|error| KeysError::Invalid(format!("{error}")))?;
        if self.tenants.revoke_key(id).await? {
            return Ok(id);
        }
        Err(KeysError::NotFound(format!("key {id}; see the list of keys")))
    }

    /// Replaces what stands at an organization, a project or a key.
    pub async fn set_limits(
        &self,
        scope: &str,
        limits: LimitsRequest,
    ) -> Result<ScopeId, KeysError> {
        let scope: ScopeId =
            scope.parse().map_err(|error| KeysError::Invalid(format!("{error}")))?;
        let (limits, budget) = limits.check()?;
        if self.tenants.set_place(&Place { scope, limits, budget }).await? {
            return Ok(scope);
        }
        Err(KeysError::NotFound(format!("{} {scope}", scope.level())))
    }
}

impl LimitsRequest {
    fn check(self) -> Result<(Limits, Option<Budget>), KeysError> {
        let Self { requests_per_minute, tokens_per_minute, concurrent_requests, budget_usd } = self;
        let budget = budget_usd.map(|text| {
            let amount = NanoUsd::parse_dollars(&text).ok_or_else(|| {
                let message = format!("`budget_usd` must be an amount such as 12.50, not `{text}`");
                KeysError::Invalid(message)
            })?;
            Ok::<_, KeysError>(Budget { amount })
        });
        let limits = Limits { requests_per_minute, tokens_per_minute, concurrent_requests };
        Ok((limits, budget.transpose()?))
    }
}

/// A key as JSON; its secret is not part of it.
pub(crate) fn describe(record: &KeyRecord) -> Value {
    let [_, _, place] = &record.places;
    json!({
        "id": record.scope.key,
        "name": record.name,
        "organization": record.scope.organization,
        "project": record.scope.project,
        "created_at": record.created_at.millis(),
        "revoked_at": record.revoked_at.map(domain::Timestamp::millis),
        "models": record.models,
        "limits": place.limits,
        "budget_usd": place.budget.map(|budget| budget.amount.to_string()),
    })
}

/// A new key as JSON, with its secret.
pub(crate) fn describe_new(key: &ApiKey, record: &KeyRecord) -> Value {
    let mut described = describe(record);
    described["api_key"] = key.expose().into();
    described
}

impl KeyTable {
    /// The table as JSON.
    pub fn json(&self) -> Value {
        self.0.iter().map(describe).collect()
    }

    /// One new key as JSON, with its secret.
    pub fn new_key(key: &ApiKey, record: &KeyRecord) -> Value {
        describe_new(key, record)
    }
}

impl std::fmt::Display for KeyTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<36}  {:<20}  {:<8}  {:>14}", "ID", "NAME", "STATE", "BUDGET (USD)")?;
        for record in &self.0 {
            let state = if record.revoked_at.is_some() { "revoked" } else { "active" };
            let budget = record.places[2].budget.map(|budget| budget.amount.to_string());
            let budget = budget.unwrap_or_else(|| "-".to_owned());
            writeln!(f, "{}  {:<20}  {state:<8}  {budget:>14}", record.scope.key, record.name)?;
        }
        Ok(())
    }
}

const DEFAULT_PROJECT: &str = "default";
