//! The command line of the load generator.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{Drain, Governed, Place, Trace, all, memory, scenario, startup, streams};

/// Measures Tollgate, or anything else with the same API, over HTTP.
///
/// Exits with 1 when a threshold does not hold. Thresholds are counts, or compare figures of the same
/// run; times by themselves are printed and never judged.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One stream against sixteen at a time: what batching is worth
    Streams,
    /// From starting `tollgate serve` in an empty folder to the first streamed token
    Startup,
    /// Memory of an idle `tollgate gateway`
    Memory,
    /// Any scenario
    Scenario {
        /// Such as load-tests/scenarios/neighbours.toml
        file: std::path::PathBuf,
    },
    /// Replay a public trace
    Trace(Trace),
    /// What budgets and limits cost, in throughput, latency and Redis commands; needs `redis-server`
    Governed(Governed),
    /// A worker leaves while streams run: told in time, against stopping at once; engines in this process
    Drain(Drain),
    /// Every scenario, startup and memory
    All,
}

fn main() -> ExitCode {
    let Arguments { place, command } = Arguments::parse();
    match run(&place, command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            commands::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(place: &Place, command: Command) -> anyhow::Result<bool> {
    commands::look_around().await;
    match command {
        Command::Streams => streams(place).await,
        Command::Startup => startup(place).await,
        Command::Memory => memory(place).await,
        Command::Scenario { file } => scenario(place, &file).await,
        Command::Trace(trace) => trace.run(place).await,
        Command::Governed(governed) => governed.run(place).await,
        Command::Drain(drain) => drain.run().await,
        Command::All => all(place).await,
    }
}
