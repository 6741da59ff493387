//! `tollgate admin usage`.

use clap::{Args, ValueEnum};
use domain::{
    Clock, EndUserId, KeyId, ModelName, OrganizationId, ProjectId, SystemClock, Timestamp,
};
use gateway::{UsageGroup, UsageLine, UsageQuery};

use super::desk::Desk;
use crate::print::{moment, parse_moment, say, say_json, table};

/// What was used, by whom, and what it came to
#[derive(Args)]
pub(super) struct Usage {
    /// From then on: a date, or a moment on a quarter of an hour; the day 30 days ago if not given
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    from: Option<Timestamp>,
    /// Before then; all until now if not given
    #[arg(long, value_name = "WHEN", value_parser = parse_moment)]
    to: Option<Timestamp>,
    /// A line for each of these; repeat for more
    #[arg(long, value_enum)]
    by: Vec<By>,
    /// Only this organization
    #[arg(long, value_name = "ID")]
    organization: Option<OrganizationId>,
    /// Only this project
    #[arg(long, value_name = "ID")]
    project: Option<ProjectId>,
    /// Only this end user
    #[arg(long, value_name = "ID")]
    end_user: Option<EndUserId>,
    /// Only this key
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// Only this model
    #[arg(long)]
    model: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Organization,
    Project,
    EndUser,
    Key,
    Model,
    Gateway,
    Hour,
    Day,
}

impl Usage {
    pub(super) async fn run(self, desk: &Desk) -> anyhow::Result<()> {
        let by: Vec<UsageGroup> = self.by.iter().map(|by| by.group()).collect();
        let mut query = self.query(&by);
        let mut lines: Vec<UsageLine> = Vec::new();
        loop {
            let page = desk.installation.usage(&query).await?;
            lines.extend(page.lines);
            let Some(next) = page.next else { break };
            query.skip = next;
        }
        if desk.wants_json() {
            return say_json(&serde_json::to_value(&lines)?);
        }
        let mut titles: Vec<&str> = by.iter().map(|group| title(*group)).collect();
        titles.extend([
            "REQUESTS",
            "FAILED",
            "PROMPT",
            "CACHED",
            "COMPLETION",
            "GPU MS",
            "COST",
            "CHARGE",
        ]);
        let rows: Vec<Vec<String>> = lines.iter().map(|line| row(line, &by)).collect();
        say(&table(&titles, &rows))
    }

    fn query(self, by: &[UsageGroup]) -> UsageQuery {
        let now = SystemClock.now().millis();
        let today = now - now % DAY_MILLIS;
        UsageQuery {
            from: self
                .from
                .unwrap_or(Timestamp::from_millis(today.saturating_sub(30 * DAY_MILLIS))),
            to: self.to.unwrap_or(Timestamp::from_millis(today + DAY_MILLIS)),
            organization: self.organization,
            project: self.project,
            user: self.end_user,
            key: self.key,
            model: self.model.map(ModelName::new),
            groups: by.to_vec(),
            skip: 0,
            limit: PAGE,
        }
    }
}

impl By {
    const fn group(self) -> UsageGroup {
        match self {
            Self::Organization => UsageGroup::Organization,
            Self::Project => UsageGroup::Project,
            Self::EndUser => UsageGroup::EndUser,
            Self::Key => UsageGroup::Key,
            Self::Model => UsageGroup::Model,
            Self::Gateway => UsageGroup::Gateway,
            Self::Hour => UsageGroup::Hour,
            Self::Day => UsageGroup::Day,
        }
    }
}

const fn title(group: UsageGroup) -> &'static str {
    match group {
        UsageGroup::Organization => "ORGANIZATION",
        UsageGroup::Project => "PROJECT",
        UsageGroup::EndUser => "END USER",
        UsageGroup::Key => "KEY",
        UsageGroup::Model => "MODEL",
        UsageGroup::Gateway => "GATEWAY",
        UsageGroup::Hour => "HOUR",
        UsageGroup::Day => "DAY",
    }
}

fn row(line: &UsageLine, by: &[UsageGroup]) -> Vec<String> {
    let group = line.group.iter().zip(by).map(|(value, group)| match group {
        UsageGroup::Hour | UsageGroup::Day => {
            value.parse().map_or_else(|_| value.clone(), |at| moment(Timestamp::from_millis(at)))
        }
        _ => value.clone(),
    });
    let figures = [
        line.requests.to_string(),
        line.failures.to_string(),
        line.prompt_tokens.to_string(),
        line.cached_tokens.to_string(),
        line.completion_tokens.to_string(),
        (line.gpu.nanos() / 1_000_000).to_string(),
        format!("${}", line.charge.cost.dollars()),
        format!("${}", line.charge.charge.dollars()),
    ];
    group.chain(figures).collect()
}

const DAY_MILLIS: u64 = 86_400_000;
const PAGE: u32 = 1_000;
