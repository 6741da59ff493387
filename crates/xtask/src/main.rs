//! Every repository chore, as one command: `cargo xtask`.
//!
//! Decides which commands make up a chore, and in which order; the first that fails ends it. Promises
//! that what a chore starts is gone when the chore is, however it ends. Knows nothing of the product's
//! own code: it sees cargo packages, a binary and the environment variables that tests read.

mod clients;
mod command;
mod fuzz;
mod packages;
mod servers;
mod test;

use std::process::{Command, ExitCode};

use anyhow::bail;

use crate::command::{cargo, run};

const HELP: &str = "\
cargo xtask <chore>

  ci      formatting, lints, documentation, then every test; what a change has to pass
  test    installs what the tests need, then runs every test of the workspace
  simulate [WORKERS...]
          what routing and drain policies cost in simulated fleets of so many workers; else of 4, 64 and 1,000
  fuzz [--seconds N] [TARGET...]
          gives what reads untrusted bytes whatever libFuzzer thinks of, for so long each; else 20 s, and every target
  help    this text";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match chore(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn chore(arguments: &[&str]) -> anyhow::Result<()> {
    match arguments {
        ["ci"] => ci(),
        ["test"] => test::test(),
        ["simulate", sizes @ ..] => run(cargo(SIMULATION).args(sizes)),
        ["fuzz", asked @ ..] => fuzz::fuzz(asked),
        [] | ["help" | "-h" | "--help"] => {
            command::say(HELP);
            Ok(())
        }
        other => bail!("there is no chore `{}`\n\n{HELP}", other.join(" ")),
    }
}

fn ci() -> anyhow::Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(&mut documentation())?;
    test::test()
}

fn documentation() -> Command {
    let mut command = cargo(&["doc", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// The fleets' own program: optimised, because a thousand workers take a while.
const SIMULATION: &[&str] = &["run", "--release", "--package", "fleet", "--"];
