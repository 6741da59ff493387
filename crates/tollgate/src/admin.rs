//! `tollgate admin`: what administrators do, from the shell of a machine that holds the database.
//!
//! Whoever may write to the data directory needs no token; every change is in the audit log as one of
//! `local`. Running gateways know of a change within a second.
//!
//! Each kind of record is a file, and a line of [`Command`].

mod admins;
mod audit;
mod desk;
mod end_users;
mod keys;
mod loading;
mod organizations;
mod policy;
mod prices;
mod projects;
mod usage;
mod words;
mod workers;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use self::desk::Terms;
use crate::place::Place;

/// Administer tenants: organizations, projects, keys, budgets, limits, prices
#[derive(Args)]
pub(crate) struct Admin {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    terms: Terms,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Customers or companies
    #[command(subcommand)]
    Organizations(organizations::Command),
    /// Product teams of an organization
    #[command(subcommand)]
    Projects(projects::Command),
    /// API keys of a project
    #[command(subcommand)]
    Keys(keys::Command),
    /// End users of a project for whom something else holds than for every other
    #[command(subcommand)]
    EndUsers(end_users::Command),
    /// Administrators and their tokens for the admin API
    #[command(subcommand)]
    Admins(admins::Command),
    /// Prices of models
    #[command(subcommand)]
    Prices(prices::Command),
    /// Workers of a gateway; needs its `--config`
    #[command(subcommand)]
    Workers(workers::Command),
    /// What was used, by whom, and what it came to
    Usage(usage::Usage),
    /// What administrators did and tried
    Audit(audit::Audit),
}

impl Admin {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Self { place, terms, command } = self;
        let workers = place.workers()?;
        let desk = desk::Desk::new(place.open().await?, terms);
        match command {
            Command::Organizations(command) => command.run(&desk).await,
            Command::Projects(command) => command.run(&desk).await,
            Command::Keys(command) => command.run(&desk).await,
            Command::EndUsers(command) => command.run(&desk).await,
            Command::Admins(command) => command.run(&desk).await,
            Command::Prices(command) => command.run(&desk).await,
            Command::Workers(command) => {
                let workers = workers.context("name the gateway's configuration with --config")?;
                command.run(&desk, &workers).await
            }
            Command::Usage(usage) => usage.run(&desk).await,
            Command::Audit(audit) => audit.run(&desk).await,
        }
    }
}
