//! `tollgate admin workers`: asks the workers that a gateway's configuration names.

use std::time::Duration;

use admission::tenancy::{Action, Actor, Resource};
use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use domain::{Capacity, NanoUsd, Rent};
use gateway::Workers;
use serde_json::{Value, json};

use super::desk::Desk;
use super::loading;
use crate::print::{say, say_json, table};

#[derive(Subcommand)]
pub(super) enum Command {
    /// List them, and how each is
    List,
    /// Take nothing new on one, and let what it runs end there or go on elsewhere
    Drain {
        /// Its address, as the configuration has it
        worker: String,
        /// When its machine goes, such as 90s; without it, the worker takes its `drain_timeout`
        #[arg(long, value_name = "TIME", value_parser = duration)]
        leaves_in: Option<Duration>,
    },
    /// Change what one costs, until it starts again
    Price {
        /// Its address, as the configuration has it
        worker: String,
        /// Dollars for an hour
        #[arg(long, value_name = "AMOUNT", value_parser = amount)]
        per_hour: NanoUsd,
        /// On what terms its machine is rented
        #[arg(long, value_enum, default_value_t = Terms::OnDemand)]
        capacity: Terms,
    },
    /// Serve one model more, or an adapter of one, until it starts again
    Load(loading::Load),
    /// Serve a model to nobody new, and give its memory back when what runs on it has ended
    Unload(loading::Unload),
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Terms {
    /// It stays until it is given back
    OnDemand,
    /// It is cheaper, and may be taken away at short notice
    Spot,
}

impl Command {
    pub(super) async fn run(self, desk: &Desk, workers: &Workers) -> anyhow::Result<()> {
        match self {
            Self::List => list(desk, workers).await,
            Self::Drain { worker, leaves_in } => {
                if !desk.is_dry_run() {
                    workers.drain(&worker, leaves_in).await?;
                }
                let leaves_in = leaves_in.map(|left| left.as_secs());
                let done = json!({ "drain": true, "leaves_in_seconds": leaves_in });
                conclude(desk, &worker, done).await
            }
            Self::Price { worker, per_hour, capacity } => {
                let capacity = capacity.into();
                let rent = Rent::new(per_hour, capacity).context("a price is not negative")?;
                if !desk.is_dry_run() {
                    workers.set_price(&worker, rent).await?;
                }
                let price = per_hour.to_string();
                let done = json!({ "price_per_hour_usd": price, "capacity": capacity.name() });
                conclude(desk, &worker, done).await
            }
            Self::Load(load) => load.run(desk, workers).await,
            Self::Unload(unload) => unload.run(desk, workers).await,
        }
    }
}

/// Tells the audit log and the terminal what was done.
pub(super) async fn conclude(desk: &Desk, worker: &str, done: Value) -> anyhow::Result<()> {
    if !desk.is_dry_run() {
        let deed = (Action::Govern, Resource::Worker);
        desk.registry().tell(Actor::Local, deed, worker, done.clone()).await?;
    }
    if desk.wants_json() {
        return say_json(&json!({ "worker": worker, "done": done }));
    }
    if desk.is_dry_run() {
        return say("a dry run; nothing was changed\n");
    }
    say(&format!("{worker} was told\n"))
}

async fn list(desk: &Desk, workers: &Workers) -> anyhow::Result<()> {
    let states = workers.states().await;
    if desk.wants_json() {
        let all = states.iter().map(|(name, state)| match state {
            None => json!({ "name": name, "reachable": false }),
            Some(state) => json!({
                "name": name,
                "reachable": true,
                "stage": state.stage.name(),
                "leaves_in_seconds": state.leaves_in.map(|left| left.as_secs()),
                "at_risk": state.at_risk,
                "zone": state.zone,
                "running": state.running,
                "waiting": state.waiting,
                "models": state.models.iter().map(|info| &info.name).collect::<Vec<_>>(),
                "price_per_hour_usd": state.price_per_hour.dollars(),
                "capacity": state.capacity.name(),
            }),
        });
        return say_json(&all.collect());
    }
    let rows: Vec<Vec<String>> = states
        .iter()
        .map(|(name, state)| match state {
            None => [*name, "lost", "", "", "", "", "", ""].map(str::to_owned).to_vec(),
            Some(state) => vec![
                (*name).to_owned(),
                state.stage.name().to_owned(),
                state.leaves_in.map(|left| format!("{} s", left.as_secs())).unwrap_or_default(),
                state.running.to_string(),
                state.waiting.to_string(),
                format!("${}", state.price_per_hour.dollars()),
                state.capacity.name().to_owned(),
                state.zone.clone(),
            ],
        })
        .collect();
    let titles =
        ["WORKER", "STAGE", "LEAVES IN", "RUNNING", "WAITING", "PER HOUR", "CAPACITY", "ZONE"];
    say(&table(&titles, &rows))
}

impl From<Terms> for Capacity {
    fn from(terms: Terms) -> Self {
        match terms {
            Terms::OnDemand => Self::OnDemand,
            Terms::Spot => Self::Spot,
        }
    }
}

fn amount(text: &str) -> Result<NanoUsd, String> {
    NanoUsd::parse_dollars(text).ok_or_else(|| "must be an amount such as 2.50".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text)
        .map_err(|error| format!("must be a time such as 90s: {error}"))
}
