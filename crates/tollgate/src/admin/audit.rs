//! `tollgate admin audit`.

use admission::tenancy::Actor;
use clap::Args;

use super::desk::Desk;
use crate::print::{moment, say, say_json, table};

/// What administrators did and tried
#[derive(Args)]
pub(super) struct Audit {
    /// Only lines after this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// At most so many lines
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

impl Audit {
    pub(super) async fn run(self, desk: &Desk) -> anyhow::Result<()> {
        let page = desk.registry().audit(Actor::Local, self.after, self.limit).await?;
        if desk.wants_json() {
            return say_json(&serde_json::to_value(&page.entries)?);
        }
        let rows = page.entries.into_iter().map(|entry| {
            let line = entry.draft;
            let number = entry.number.to_string();
            vec![number, moment(line.at), line.actor, line.action, line.resource, line.outcome]
        });
        let titles = ["NUMBER", "WHEN", "WHO", "WHAT", "ON", "OUTCOME"];
        say(&table(&titles, &rows.collect::<Vec<_>>()))?;
        match page.next {
            Some(next) => say(&format!("there is more: --after {next}\n")),
            None => Ok(()),
        }
    }
}
