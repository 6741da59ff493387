//! The command line of the load generator.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    Drain, Governed, Neighbour, Place, Soak, Trace, all, memory, prefix, scenario, spin, startup,
    streams,
};

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
    /// Random load for a while: memory stays flat, and every block comes back; an engine in this process
    Soak(Soak),
    /// What an engine keeps of its speed beside another process; engines in this process
    Neighbour(Neighbour),
    /// What a shared system prompt is worth to the second request that has it
    Prefix,
    /// Keeps a processor busy until its input ends: the other process of `neighbour`
    #[command(hide = true)]
    Spin,
    /// Every scenario, startup and memory
    All,
}

fn main() -> ExitCode {
    let Arguments { place, command } = Arguments::parse();
    if matches!(command, Command::Spin) {
        spin();
        return ExitCode::SUCCESS;
    }
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
        Command::Soak(soak) => soak.run().await,
        Command::Neighbour(neighbour) => neighbour.run().await,
        Command::Prefix => prefix(place).await,
        Command::Spin => Ok(true),
        Command::All => all(place).await,
    }
}
