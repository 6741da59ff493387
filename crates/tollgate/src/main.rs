//! The one binary: it composes, and decides nothing.

mod admin;
mod files;
mod gateway_command;
mod ledger;
mod model;
mod models;
mod place;
mod print;
mod serve;
mod signal;
mod size;
mod worker_command;

use std::io::IsTerminal;
use std::num::NonZero;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// One OpenAI-compatible endpoint for all your teams, with budgets that hold.
///
/// `tollgate serve` is everything in one process: an endpoint, an admin API, a ledger and a worker
/// with a small built-in model. `tollgate gateway` and `tollgate worker` are the same parts as
/// separate processes. Set `TOLLGATE_LOG` (for example to `info`) to see more or less of what happens.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in one process; the first run makes a key and shows how to use it
    Serve(serve::Serve),
    /// Run a gateway that routes to workers elsewhere
    Gateway(gateway_command::Gateway),
    /// Run a worker: one model behind gRPC
    Worker(worker_command::Worker),
    /// Administer tenants: organizations, projects, keys, budgets, limits, prices
    Admin(Box<admin::Admin>),
    /// Verify and export the ledger
    Ledger(ledger::Ledger),
    /// Pull models, quantize them, and measure what that costs
    Model(model::Model),
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    log_to_stderr(match command {
        Command::Gateway(_) | Command::Worker(_) => "info",
        _ => "warn",
    });
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

impl Command {
    /// Threads for the network. Where an engine computes on every core, it waits for the last of its threads
    /// in each step: network threads that take turns on all of its cores slow it down more than one busy one.
    fn network_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        match self {
            Self::Gateway(_) => cores,
            Self::Serve(_) | Self::Worker(_) => (cores / 2).max(1),
            Self::Admin(_) | Self::Ledger(_) | Self::Model(_) => 1,
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(command.network_threads())
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        match command {
            Command::Serve(serve) => serve.run().await,
            Command::Gateway(gateway) => gateway.run().await,
            Command::Worker(worker) => worker.run().await,
            Command::Admin(admin) => admin.run().await,
            Command::Ledger(ledger) => ledger.run().await,
            Command::Model(model) => model.run().await,
        }
    });
    // Idle connections do not keep a stopped process alive.
    runtime.shutdown_background();
    done
}

/// One line: what we were doing, and why it did not work.
#[expect(clippy::print_stderr, reason = "the terminal is this program's interface")]
fn say_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn log_to_stderr(default: &str) {
    let quiet = format!("{default},pingora_core=off,h2=off,hyper=off");
    let filter = EnvFilter::try_from_env("TOLLGATE_LOG").unwrap_or_else(|_| EnvFilter::new(quiet));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
}
