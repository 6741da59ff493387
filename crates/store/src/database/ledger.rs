//! Ledger rows: appended once each, summed up at once, and what was spent by them.

use std::collections::{HashMap, HashSet};

use admission::bank::Founding;
use admission::{Claim, Entry, Measure, StoreError};
use domain::{GatewayId, KeyId, OrganizationId, ScopeId, Timestamp};
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _, Transaction};

use super::insert::{Cell, Insert};
use super::{Database, count, parsed, rollups};

impl Database {
    /// Appends rows, each at most once, and adds them to every sum, in one transaction.
    pub async fn append(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let doing = |error| StoreError::new("append ledger rows", error);
        let mut transaction = self.begin().await.map_err(doing)?;
        append(&mut transaction, entries).await.map_err(doing)?;
        transaction.commit().await.map_err(doing)
    }

    /// What every gateway has spent of each claim's account, in order, by the rows that are here.
    pub async fn spent(
        &self,
        organization: OrganizationId,
        claims: &[Claim],
    ) -> Result<Vec<Founding>, StoreError> {
        let mut foundings = Vec::with_capacity(claims.len());
        for claim in claims {
            let spent = self.spent_of(organization, claim).await;
            let spent = spent.map_err(|error| StoreError::new("read what was spent", error))?;
            foundings.push(Founding { account: claim.account, spent });
        }
        Ok(foundings)
    }

    async fn spent_of(
        &self,
        organization: OrganizationId,
        claim: &Claim,
    ) -> sqlx::Result<Vec<(GatewayId, i64)>> {
        let figure = match claim.measure {
            Measure::Money => "counted_money",
            Measure::Tokens => "counted_tokens",
            Measure::GpuTime => "counted_gpu",
            Measure::Requests => "requests",
            Measure::Running => return Ok(Vec::new()),
        };
        let place = match claim.account.scope {
            ScopeId::Organization(_) => "organization_id",
            ScopeId::Project(_) => "project_id",
            ScopeId::EndUser(_) => "user_id",
            ScopeId::Key(_) => "key_id",
        };
        let stretches = rollups::cover(claim.bounds);
        let stretch = |at: usize| {
            let first = 4 + at * 3;
            format!("(grain = ${first} AND start >= ${} AND start < ${})", first + 1, first + 2)
        };
        let within: Vec<String> = (0..stretches.len()).map(stretch).collect();
        if within.is_empty() {
            return Ok(Vec::new());
        }
        let statement = format!(
            "SELECT gateway_id, CAST(SUM({figure}) AS BIGINT) AS spent FROM rollups \
             WHERE {place} = $1 AND organization_id = $2 AND ($3 = '' OR model = $3) AND ({}) \
             GROUP BY gateway_id",
            within.join(" OR ")
        );
        let model = claim.model.as_ref().map(|model| model.as_str().to_owned());
        let mut query: Query<'_, Any, AnyArguments> = sqlx::query(AssertSqlSafe(statement))
            .bind(claim.account.scope.to_string())
            .bind(organization.to_string())
            .bind(model.unwrap_or_default());
        for (grain, from, to) in stretches {
            query = query.bind(grain.name().to_owned()).bind(from).bind(to);
        }
        let rows = query.fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((parsed(row, "gateway_id")?, row.try_get("spent")?))).collect()
    }

    /// When each key last admitted something.
    pub async fn key_uses(&self) -> Result<HashMap<KeyId, Timestamp>, StoreError> {
        let doing = |error| StoreError::new("read when keys were used", error);
        let rows = sqlx::query("SELECT key_id, last_used_at FROM key_uses").fetch_all(&self.pool);
        uses_of(&rows.await.map_err(doing)?).map_err(doing)
    }

    /// When each of these keys last admitted something, for those that did.
    pub async fn last_used(&self, keys: &[KeyId]) -> Result<HashMap<KeyId, Timestamp>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let doing = |error| StoreError::new("read when keys were used", error);
        let places: Vec<String> = (1..=keys.len()).map(|at| format!("${at}")).collect();
        let statement = format!(
            "SELECT key_id, last_used_at FROM key_uses WHERE key_id IN ({})",
            places.join(", ")
        );
        let mut query: Query<'_, Any, AnyArguments> = sqlx::query(AssertSqlSafe(statement));
        for key in keys {
            query = query.bind(key.to_string());
        }
        let rows = query.fetch_all(&self.pool).await.map_err(doing)?;
        uses_of(&rows).map_err(doing)
    }

    /// Number of ledger rows.
    pub async fn rows(&self) -> Result<u64, StoreError> {
        let counted =
            sqlx::query("SELECT COUNT(*) AS rows FROM ledger").fetch_one(&self.pool).await;
        let counted = counted.and_then(|row| count(&row, "rows"));
        counted.map_err(|error| StoreError::new("count ledger rows", error))
    }
}

fn uses_of(rows: &[AnyRow]) -> sqlx::Result<HashMap<KeyId, Timestamp>> {
    let uses = rows.iter().map(|row| {
        Ok((parsed(row, "key_id")?, Timestamp::from_millis(count(row, "last_used_at")?)))
    });
    uses.collect()
}

async fn append(
    transaction: &mut Transaction<'static, Any>,
    entries: &[Entry],
) -> sqlx::Result<()> {
    // One entry for each hold: a statement must not meet the same row twice.
    let mut seen = HashSet::new();
    let entries: Vec<&Entry> =
        entries.iter().filter(|entry| seen.insert(entry.admitted.hold)).collect();
    let rows = entries.iter().map(|entry| row(entry)).collect();
    let inserted = ROWS.run(transaction, rows).await?;
    let fresh: HashSet<String> =
        inserted.iter().map(|row| row.try_get("hold_id")).collect::<sqlx::Result<_>>()?;
    let fresh: Vec<&Entry> = entries
        .into_iter()
        .filter(|entry| fresh.contains(&entry.admitted.hold.to_string()))
        .collect();
    rollups::add(transaction, rollups::add_up(fresh.iter().copied())).await?;
    WORK.run(transaction, fresh.iter().flat_map(|entry| work(entry)).collect()).await?;
    USES.run(transaction, uses(&fresh)).await?;
    Ok(())
}

fn row(entry: &Entry) -> Vec<Cell> {
    let Entry { admitted, outcome, closed_at, usage, charge, overrun, counted, work: _ } = entry;
    let scope = admitted.scope;
    vec![
        admitted.hold.to_string().into(),
        admitted.request.to_string().into(),
        admitted.gateway.to_string().into(),
        scope.organization.to_string().into(),
        scope.project.to_string().into(),
        scope.user.map(|user| user.to_string()).unwrap_or_default().into(),
        scope.key.to_string().into(),
        admitted.model.as_str().into(),
        admitted.digest.as_str().into(),
        admitted.at.millis().into(),
        closed_at.millis().into(),
        outcome.name().into(),
        usage.prompt_tokens.into(),
        usage.cached_tokens.into(),
        usage.completion_tokens.into(),
        usage.gpu.nanos().into(),
        usage.times.queue.nanos().into(),
        usage.times.prefill.nanos().into(),
        usage.times.decode.nanos().into(),
        usage.times.recompute.nanos().into(),
        usage.times.saved.nanos().into(),
        charge.cost.nanos().into(),
        charge.charge.nanos().into(),
        overrun.nanos().into(),
        counted.money.nanos().into(),
        counted.tokens.into(),
        counted.gpu.nanos().into(),
    ]
}

fn work(entry: &Entry) -> Vec<Vec<Cell>> {
    let part = |(part, work): (usize, &domain::Work)| {
        vec![
            entry.admitted.hold.to_string().into(),
            (part as u64).into(),
            work.worker.as_str().into(),
            work.incarnation.as_str().into(),
            work.gpu.nanos().into(),
            work.recompute.nanos().into(),
            work.price_per_hour.nanos().into(),
            i64::from(work.complete).into(),
        ]
    };
    entry.work.iter().enumerate().map(part).collect()
}

fn uses(entries: &[&Entry]) -> Vec<Vec<Cell>> {
    let mut last: HashMap<KeyId, Timestamp> = HashMap::new();
    for entry in entries {
        let at = last.entry(entry.admitted.scope.key).or_default();
        *at = (*at).max(entry.admitted.at);
    }
    // In one order everywhere, or two gateways could wait for each other.
    let mut last: Vec<(KeyId, Timestamp)> = last.into_iter().collect();
    last.sort_unstable();
    last.into_iter().map(|(key, at)| vec![key.to_string().into(), at.millis().into()]).collect()
}

const ROWS: Insert = Insert {
    table: "ledger",
    columns: &[
        "hold_id",
        "request_id",
        "gateway_id",
        "organization_id",
        "project_id",
        "user_id",
        "key_id",
        "model",
        "digest",
        "admitted_at",
        "closed_at",
        "outcome",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "gpu_nanos",
        "queue_nanos",
        "prefill_nanos",
        "decode_nanos",
        "recompute_nanos",
        "saved_nanos",
        "cost_nanos",
        "charge_nanos",
        "overrun_nanos",
        "counted_money",
        "counted_tokens",
        "counted_gpu",
    ],
    then: "ON CONFLICT (hold_id) DO NOTHING RETURNING hold_id",
};

const WORK: Insert = Insert {
    table: "work",
    columns: &[
        "hold_id",
        "part",
        "worker",
        "incarnation",
        "gpu_nanos",
        "recompute_nanos",
        "price_per_hour_nanos",
        "complete",
    ],
    then: "ON CONFLICT (hold_id, part) DO NOTHING",
};

const USES: Insert = Insert {
    table: "key_uses",
    columns: &["key_id", "last_used_at"],
    then: "ON CONFLICT (key_id) DO UPDATE SET last_used_at = excluded.last_used_at \
        WHERE key_uses.last_used_at < excluded.last_used_at",
};
