//! Tenants and the ledger in SQLite.
//!
//! One file holds both. The database is in WAL mode: readers never wait for the writer, and what is
//! committed survives a killed process.

use std::path::Path;
use std::time::Duration;

use admission::{
    Budget, Entry, KeyDigest, KeyRecord, Limits, NewKey, Place, Snapshot, StoreError, Tenants,
};
use async_trait::async_trait;
use domain::{
    Clock, Id, IdKind, KeyId, ModelName, NanoUsd, OrganizationId, ProjectId, Scope, ScopeId,
    SystemClock, Timestamp,
};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Row, SqliteConnection};

/// Tenants and ledger rows in one SQLite file.
#[derive(Clone)]
pub struct Sqlite {
    pool: SqlitePool,
}

impl Sqlite {
    /// Opens or makes the database at `path` and brings its tables up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .connect_with(options)
            .await
            .map_err(|error| StoreError::new("open database", error))?;
        MIGRATIONS.run(&pool).await.map_err(|error| StoreError::new("migrate database", error))?;
        Ok(Self { pool })
    }

    /// Appends rows, each at most once, and adds their charges to the spending of their scopes.
    pub async fn append(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let doing = |error| StoreError::new("append ledger rows", error);
        let mut transaction = self.pool.begin().await.map_err(doing)?;
        for entry in entries {
            if insert_row(&mut transaction, entry).await.map_err(doing)? {
                add_spending(&mut transaction, entry).await.map_err(doing)?;
            }
        }
        transaction.commit().await.map_err(doing)
    }

    /// What every scope has been charged so far.
    pub async fn spending(&self) -> Result<Vec<(ScopeId, NanoUsd)>, StoreError> {
        let rows = sqlx::query("SELECT scope, charge_nanos FROM spending")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| StoreError::new("read spending", error))?;
        rows.iter()
            .map(|row| Ok((parse_scope(row.try_get("scope")?)?, nanos(row, "charge_nanos")?)))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| StoreError::new("read spending", error))
    }

    /// Number of ledger rows.
    pub async fn rows(&self) -> Result<u64, StoreError> {
        let counted =
            sqlx::query("SELECT count(*) AS rows FROM ledger").fetch_one(&self.pool).await;
        let counted = counted.and_then(|row| row.try_get::<i64, _>("rows"));
        let counted = counted.map_err(|error| StoreError::new("count ledger rows", error))?;
        Ok(counted.unsigned_abs())
    }

    /// Every row's outcome, completion tokens and charge in nano-dollars, in order of admission.
    pub async fn outcomes(&self) -> Result<Vec<(String, i64, i64)>, StoreError> {
        sqlx::query_as(
            "SELECT outcome, completion_tokens, charge_nanos FROM ledger ORDER BY hold_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::new("read ledger rows", error))
    }

    /// Makes the first organization, if there is none.
    async fn first_organization(connection: &mut SqliteConnection) -> sqlx::Result<OrganizationId> {
        let known = sqlx::query("SELECT id FROM organizations ORDER BY id LIMIT 1")
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(row) = known {
            return id(&row, "id");
        }
        let organization = OrganizationId::generate();
        sqlx::query("INSERT INTO organizations (id, name) VALUES (?, 'default')")
            .bind(organization.to_string())
            .execute(connection)
            .await?;
        Ok(organization)
    }

    async fn project(
        connection: &mut SqliteConnection,
        organization: OrganizationId,
        name: &str,
    ) -> sqlx::Result<ProjectId> {
        let known = sqlx::query("SELECT id FROM projects WHERE organization_id = ? AND name = ?")
            .bind(organization.to_string())
            .bind(name)
            .fetch_optional(&mut *connection)
            .await?;
        if let Some(row) = known {
            return id(&row, "id");
        }
        let project = ProjectId::generate();
        sqlx::query("INSERT INTO projects (id, organization_id, name) VALUES (?, ?, ?)")
            .bind(project.to_string())
            .bind(organization.to_string())
            .bind(name)
            .execute(connection)
            .await?;
        Ok(project)
    }

    async fn insert_key(&self, key: &NewKey) -> sqlx::Result<KeyId> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let organization = Self::first_organization(&mut transaction).await?;
        let project = Self::project(&mut transaction, organization, &key.project).await?;
        let id = KeyId::generate();
        let models: Vec<&str> = key.models.iter().map(ModelName::as_str).collect();
        sqlx::query(INSERT_KEY)
            .bind(id.to_string())
            .bind(project.to_string())
            .bind(&key.name)
            .bind(&key.digest.as_bytes()[..])
            .bind(integer(SystemClock.now().millis()))
            .bind(models.join("\n"))
            .bind(key.limits.requests_per_minute)
            .bind(key.limits.tokens_per_minute)
            .bind(key.limits.concurrent_requests)
            .bind(key.budget.map(|budget| budget.amount.nanos()))
            .execute(&mut *transaction)
            .await?;
        bump(&mut transaction).await?;
        transaction.commit().await?;
        Ok(id)
    }

    async fn update_one(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> sqlx::Result<bool> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let changed = query.execute(&mut *transaction).await?.rows_affected() > 0;
        bump(&mut transaction).await?;
        transaction.commit().await?;
        Ok(changed)
    }
}

#[async_trait]
impl Tenants for Sqlite {
    async fn revision(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT number FROM revision").fetch_one(&self.pool).await;
        let number = row.and_then(|row| row.try_get::<i64, _>("number"));
        Ok(number.map_err(|error| StoreError::new("read revision", error))?.unsigned_abs())
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let read = async {
            // One transaction, so that revision and keys belong together.
            let mut transaction = self.pool.begin().await?;
            let revision = sqlx::query("SELECT number FROM revision")
                .fetch_one(&mut *transaction)
                .await?
                .try_get::<i64, _>("number")?;
            let rows = sqlx::query(SELECT_KEYS).fetch_all(&mut *transaction).await?;
            let keys = rows.iter().map(key_record).collect::<sqlx::Result<_>>()?;
            Ok::<_, sqlx::Error>(Snapshot { revision: revision.unsigned_abs(), keys })
        };
        read.await.map_err(|error| StoreError::new("read keys", error))
    }

    async fn create_key(&self, key: NewKey) -> Result<KeyRecord, StoreError> {
        let id =
            self.insert_key(&key).await.map_err(|error| StoreError::new("create key", error))?;
        let snapshot = self.snapshot().await?;
        let record = snapshot.keys.into_iter().find(|record| record.scope.key == id);
        record.ok_or_else(|| StoreError::new("create key", format!("{id} is gone again")))
    }

    async fn revoke_key(&self, key: KeyId) -> Result<bool, StoreError> {
        let query =
            sqlx::query("UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?")
                .bind(integer(SystemClock.now().millis()))
                .bind(key.to_string());
        self.update_one(query).await.map_err(|error| StoreError::new("revoke key", error))
    }

    async fn set_place(&self, place: &Place) -> Result<bool, StoreError> {
        let statement = match place.scope {
            ScopeId::Organization(_) => SET_ORGANIZATION,
            ScopeId::Project(_) => SET_PROJECT,
            ScopeId::Key(_) => SET_KEY,
            ScopeId::EndUser(_) => return Ok(false),
        };
        let query = sqlx::query(statement)
            .bind(place.limits.requests_per_minute)
            .bind(place.limits.tokens_per_minute)
            .bind(place.limits.concurrent_requests)
            .bind(place.budget.map(|budget| budget.amount.nanos()))
            .bind(place.scope.to_string());
        self.update_one(query).await.map_err(|error| StoreError::new("set limits", error))
    }
}

async fn bump(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    sqlx::query("UPDATE revision SET number = number + 1").execute(connection).await?;
    Ok(())
}

/// Whether the row is new.
async fn insert_row(connection: &mut SqliteConnection, entry: &Entry) -> sqlx::Result<bool> {
    let Entry { admitted, outcome, closed_at, usage, charge, overrun } = entry;
    let done = sqlx::query(INSERT_ROW)
        .bind(admitted.hold.to_string())
        .bind(admitted.request.to_string())
        .bind(admitted.scope.organization.to_string())
        .bind(admitted.scope.project.to_string())
        .bind(admitted.scope.key.to_string())
        .bind(admitted.model.as_str())
        .bind(admitted.digest.as_str())
        .bind(integer(admitted.at.millis()))
        .bind(integer(closed_at.millis()))
        .bind(outcome.name())
        .bind(usage.prompt_tokens)
        .bind(usage.cached_tokens)
        .bind(usage.completion_tokens)
        .bind(integer(usage.gpu.nanos()))
        .bind(charge.cost.nanos())
        .bind(charge.charge.nanos())
        .bind(overrun.nanos())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

async fn add_spending(connection: &mut SqliteConnection, entry: &Entry) -> sqlx::Result<()> {
    for scope in entry.admitted.scope.levels() {
        sqlx::query(ADD_SPENDING)
            .bind(scope.to_string())
            .bind(entry.charge.charge.nanos())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn key_record(row: &SqliteRow) -> sqlx::Result<KeyRecord> {
    let scope = Scope {
        organization: id(row, "organization_id")?,
        project: id(row, "project_id")?,
        user: None,
        key: id(row, "id")?,
    };
    let digest: Vec<u8> = row.try_get("digest")?;
    let digest = digest.try_into().map_err(|_| decode("a key digest must have 32 bytes"))?;
    let [organization, project, key] = scope.levels();
    let models: String = row.try_get("models")?;
    Ok(KeyRecord {
        scope,
        digest: KeyDigest::from_bytes(digest),
        name: row.try_get("name")?,
        created_at: timestamp(row.try_get("created_at")?),
        revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(timestamp),
        models: models.lines().map(ModelName::new).collect(),
        places: [place(row, organization, "o")?, place(row, project, "p")?, place(row, key, "k")?],
    })
}

/// What stands at `scope`, from columns that begin with `prefix`.
fn place(row: &SqliteRow, scope: ScopeId, prefix: &str) -> sqlx::Result<Place> {
    let column = |name: &str| format!("{prefix}_{name}");
    let limits = Limits {
        requests_per_minute: row.try_get(column("requests_per_minute").as_str())?,
        tokens_per_minute: row.try_get(column("tokens_per_minute").as_str())?,
        concurrent_requests: row.try_get(column("concurrent_requests").as_str())?,
    };
    let budget: Option<i64> = row.try_get(column("budget_nanos").as_str())?;
    let budget = budget.map(|nanos| Budget { amount: NanoUsd::from_nanos(nanos) });
    Ok(Place { scope, limits, budget })
}

fn id<K: IdKind>(row: &SqliteRow, column: &str) -> sqlx::Result<Id<K>> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn parse_scope(text: &str) -> sqlx::Result<ScopeId> {
    text.parse().map_err(|error: domain::IdError| sqlx::Error::Decode(Box::new(error)))
}

fn nanos(row: &SqliteRow, column: &str) -> sqlx::Result<NanoUsd> {
    row.try_get(column).map(NanoUsd::from_nanos)
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis.unsigned_abs())
}

/// SQLite's integers are signed.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn decode(message: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(message.into())
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u32 = 4;

const INSERT_KEY: &str = "INSERT INTO api_keys (id, project_id, name, digest, created_at, models, \
     requests_per_minute, tokens_per_minute, concurrent_requests, budget_nanos) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const SELECT_KEYS: &str = "SELECT k.id, k.name, k.digest, k.created_at, k.revoked_at, k.models, \
     p.id AS project_id, o.id AS organization_id, \
     o.requests_per_minute AS o_requests_per_minute, o.tokens_per_minute AS o_tokens_per_minute, \
     o.concurrent_requests AS o_concurrent_requests, o.budget_nanos AS o_budget_nanos, \
     p.requests_per_minute AS p_requests_per_minute, p.tokens_per_minute AS p_tokens_per_minute, \
     p.concurrent_requests AS p_concurrent_requests, p.budget_nanos AS p_budget_nanos, \
     k.requests_per_minute AS k_requests_per_minute, k.tokens_per_minute AS k_tokens_per_minute, \
     k.concurrent_requests AS k_concurrent_requests, k.budget_nanos AS k_budget_nanos \
     FROM api_keys k JOIN projects p ON p.id = k.project_id \
     JOIN organizations o ON o.id = p.organization_id ORDER BY k.id";
const SET_ORGANIZATION: &str = "UPDATE organizations SET requests_per_minute = ?, \
     tokens_per_minute = ?, concurrent_requests = ?, budget_nanos = ? WHERE id = ?";
const SET_PROJECT: &str = "UPDATE projects SET requests_per_minute = ?, \
     tokens_per_minute = ?, concurrent_requests = ?, budget_nanos = ? WHERE id = ?";
const SET_KEY: &str = "UPDATE api_keys SET requests_per_minute = ?, \
     tokens_per_minute = ?, concurrent_requests = ?, budget_nanos = ? WHERE id = ?";
const INSERT_ROW: &str = "INSERT INTO ledger (hold_id, request_id, organization_id, project_id, \
     key_id, model, digest, admitted_at, closed_at, outcome, prompt_tokens, cached_tokens, \
     completion_tokens, gpu_nanos, cost_nanos, charge_nanos, overrun_nanos) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hold_id) DO NOTHING";
const ADD_SPENDING: &str = "INSERT INTO spending (scope, charge_nanos) VALUES (?, ?) \
     ON CONFLICT (scope) DO UPDATE SET charge_nanos = charge_nanos + excluded.charge_nanos";
