//! What was used, by whom, of what and when: answered from the sums, never from the rows.

use admission::StoreError;
use admission::tenancy::WindowBounds;
use domain::{
    Charge, EndUserId, GpuTime, KeyId, ModelName, NanoUsd, OrganizationId, ProjectId, Timestamp,
};
use serde::{Deserialize, Serialize};
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _};

use super::rollups::{Grain, cover};
use super::{Database, count, integer};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct UsageQuery {
    /// The first moment.
    pub from: Timestamp,
    /// The moment after the last.
    pub to: Timestamp,
    /// Only this organization.
    pub organization: Option<OrganizationId>,
    /// Only this project.
    pub project: Option<ProjectId>,
    /// Only this end user.
    pub user: Option<EndUserId>,
    /// Only this key.
    pub key: Option<KeyId>,
    /// Only this model.
    pub model: Option<ModelName>,
    /// What lines are made by; without any, there is one line.
    pub groups: Vec<UsageGroup>,
    /// Lines to leave out at the beginning.
    pub skip: u32,
    /// Most lines to return.
    pub limit: u32,
}

/// What makes a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageGroup {
    /// By organization.
    Organization,
    /// By project.
    Project,
    /// By end user.
    EndUser,
    /// By key.
    Key,
    /// By model.
    Model,
    /// By gateway.
    Gateway,
    /// By hour (UTC).
    Hour,
    /// By day (UTC).
    Day,
}

/// Some lines, and whether there are more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsagePage {
    /// In order of their groups.
    pub lines: Vec<UsageLine>,
    /// What to skip for the next page; absent after the last.
    pub next: Option<u32>,
}

/// What was used by one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageLine {
    /// The group's values, in the order of the query's groups: ids, names, or the first millisecond of a
    /// stretch of time.
    pub group: Vec<String>,
    /// Requests admitted.
    pub requests: u64,
    /// Those of them that failed by a fault of ours.
    pub failures: u64,
    /// Tokens of prompts, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of prompts that a cache supplied.
    pub cached_tokens: u64,
    /// Tokens produced.
    pub completion_tokens: u64,
    /// Accelerator time attributed and billable.
    pub gpu: GpuTime,
    /// Accelerator time on what was computed before and lost; ours to pay.
    pub recompute: GpuTime,
    /// Accelerator time that caches saved, as estimated.
    pub saved: GpuTime,
    /// What it cost us and what tenants pay.
    pub charge: Charge,
    /// What prices asked beyond what was held; ours to pay.
    pub overrun: NanoUsd,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The question makes no sense.
    #[error("`{field}` {problem}")]
    Invalid {
        /// What is wrong.
        field: &'static str,
        /// How, and what to do.
        problem: &'static str,
    },
    /// The database did not answer.
    #[error("read usage")]
    Store(#[from] StoreError),
}

impl Database {
    /// What was used, by groups.
    pub async fn usage(&self, query: &UsageQuery) -> Result<UsagePage, UsageError> {
        let stretches = query.stretches()?;
        if stretches.is_empty() {
            return Ok(UsagePage::default());
        }
        let statement = query.statement(stretches.len());
        let mut asked: Query<'_, Any, AnyArguments> = sqlx::query(AssertSqlSafe(statement))
            .bind(i64::from(query.limit) + 1)
            .bind(i64::from(query.skip));
        for (_, value) in query.filters() {
            asked = asked.bind(value);
        }
        for (grain, from, to) in stretches {
            asked = asked.bind(grain.name().to_owned()).bind(from).bind(to);
        }
        let rows = asked.fetch_all(&self.pool).await;
        let rows = rows.map_err(|error| StoreError::new("sum up usage", error))?;
        let lines = rows.iter().map(|row| line(row, query.groups.len()));
        let mut lines: Vec<UsageLine> = lines
            .collect::<sqlx::Result<_>>()
            .map_err(|error| StoreError::new("read usage", error))?;
        let more = lines.len() > query.limit as usize;
        lines.truncate(query.limit as usize);
        let next = more.then(|| query.skip.saturating_add(query.limit));
        Ok(UsagePage { lines, next })
    }
}

impl UsageQuery {
    /// The stretches to sum up: as fine as the lines are, and no finer than needed.
    fn stretches(&self) -> Result<Vec<(Grain, i64, i64)>, UsageError> {
        let invalid = |field, problem| Err(UsageError::Invalid { field, problem });
        if self.groups.contains(&UsageGroup::Hour) && self.groups.contains(&UsageGroup::Day) {
            return invalid("group_by", "may name `hour` or `day`, not both");
        }
        let grain = self.groups.iter().find_map(|group| match group {
            UsageGroup::Hour => Some(Grain::Hour),
            UsageGroup::Day => Some(Grain::Day),
            _ => None,
        });
        let finest = grain.unwrap_or(Grain::Quarter);
        let ends_well = |at: Timestamp| finest.start(at) == at;
        let problem = match finest {
            Grain::Quarter => "must be the beginning of a quarter of an hour (UTC)",
            Grain::Hour => "must be the beginning of an hour (UTC) when lines are made by hour",
            Grain::Day => "must be the beginning of a day (UTC) when lines are made by day",
        };
        if !ends_well(self.from) {
            return invalid("from", problem);
        }
        if !ends_well(self.to) {
            return invalid("to", problem);
        }
        if self.limit == 0 || self.limit > MAX_LINES {
            return invalid("limit", "must be from 1 to 1000");
        }
        Ok(match grain {
            Some(grain) if self.from < self.to => {
                vec![(grain, integer(self.from.millis()), integer(self.to.millis()))]
            }
            Some(_) => Vec::new(),
            None => cover(WindowBounds { start: self.from, end: self.to.max(self.from) }),
        })
    }

    fn filters(&self) -> Vec<(&'static str, String)> {
        let filters = [
            ("organization_id", self.organization.map(|id| id.to_string())),
            ("project_id", self.project.map(|id| id.to_string())),
            ("user_id", self.user.map(|id| id.to_string())),
            ("key_id", self.key.map(|id| id.to_string())),
            ("model", self.model.as_ref().map(|model| model.as_str().to_owned())),
        ];
        filters.into_iter().filter_map(|(column, value)| Some((column, value?))).collect()
    }

    fn statement(&self, stretches: usize) -> String {
        let columns: Vec<&str> = self.groups.iter().map(|group| group.column()).collect();
        let filters = self.filters();
        let equal = |(at, (column, _)): (usize, &(&str, String))| format!("{column} = ${}", 3 + at);
        let mut conditions: Vec<String> = filters.iter().enumerate().map(equal).collect();
        let stretch = |at: usize| {
            let first = 3 + filters.len() + 3 * at;
            format!("(grain = ${first} AND start >= ${} AND start < ${})", first + 1, first + 2)
        };
        let within: Vec<String> = (0..stretches).map(stretch).collect();
        conditions.push(format!("({})", within.join(" OR ")));
        let named = columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("CAST({column} AS TEXT) AS group_{at}"));
        let sums = SUMS.iter().map(|sum| format!("CAST(SUM({sum}) AS BIGINT) AS {sum}"));
        let selected: Vec<String> = named.chain(sums).collect();
        let grouped = if columns.is_empty() {
            // Nothing was used: no line rather than one of nothing.
            "HAVING COUNT(*) > 0".to_owned()
        } else {
            let list = columns.join(", ");
            format!("GROUP BY {list} ORDER BY {list}")
        };
        format!(
            "SELECT {} FROM rollups WHERE {} {grouped} LIMIT $1 OFFSET $2",
            selected.join(", "),
            conditions.join(" AND ")
        )
    }
}

impl UsageGroup {
    const fn column(self) -> &'static str {
        match self {
            Self::Organization => "organization_id",
            Self::Project => "project_id",
            Self::EndUser => "user_id",
            Self::Key => "key_id",
            Self::Model => "model",
            Self::Gateway => "gateway_id",
            Self::Hour | Self::Day => "start",
        }
    }
}

fn line(row: &AnyRow, groups: usize) -> sqlx::Result<UsageLine> {
    let group = (0..groups).map(|at| row.try_get(format!("group_{at}").as_str()));
    let money = |column| row.try_get(column).map(NanoUsd::from_nanos);
    let time = |column| count(row, column).map(GpuTime::from_nanos);
    Ok(UsageLine {
        group: group.collect::<sqlx::Result<_>>()?,
        requests: count(row, "requests")?,
        failures: count(row, "failures")?,
        prompt_tokens: count(row, "prompt_tokens")?,
        cached_tokens: count(row, "cached_tokens")?,
        completion_tokens: count(row, "completion_tokens")?,
        gpu: time("gpu_nanos")?,
        recompute: time("recompute_nanos")?,
        saved: time("saved_nanos")?,
        charge: Charge { cost: money("cost_nanos")?, charge: money("charge_nanos")? },
        overrun: money("overrun_nanos")?,
    })
}

/// What a line sums up.
const SUMS: [&str; 11] = [
    "requests",
    "failures",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "gpu_nanos",
    "recompute_nanos",
    "saved_nanos",
    "cost_nanos",
    "charge_nanos",
    "overrun_nanos",
];
const MAX_LINES: u32 = 1_000;
