//! Replays a trace from `load-tests/traces`.

use std::time::Duration;

use anyhow::ensure;
use clap::{Args, ValueEnum};
use load_tests::{Figures, Load, Metric, Phase, Replay, Samples, rows, run};

use super::{Place, say};

/// Replay a public trace
#[derive(Args)]
pub(crate) struct Trace {
    /// Which one
    #[arg(value_enum, value_name = "TRACE")]
    name: Name,
    /// How much faster than it was recorded
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// What prompt and output lengths are divided by
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    scale: u32,
    /// How many rows, from the first
    #[arg(long, default_value_t = 500)]
    rows: usize,
    /// How many tenants the rows are spread over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    tenants: u32,
    /// The exponent of the Zipf distribution that spreads them
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// Decides tenants and prompts
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Azure LLM inference 2023, conversations (CC-BY 4.0; Splitwise, ISCA 2024)
    AzureConv,
}

impl Trace {
    /// `true` if every request was answered.
    pub(crate) async fn run(&self, place: &Place) -> anyhow::Result<bool> {
        let Self { speed, scale, zipf, seed, .. } = *self;
        ensure!(speed > 0.0, "--speed must be above zero");
        let Name::AzureConv = self.name;
        let mut rows = rows(include_str!("../../traces/azure-conv.csv"))?;
        rows.truncate(self.rows);
        let tenants = self.tenants as usize;
        let replay = Replay { model: "tollgate-demo", speed, scale, tenants, exponent: zipf, seed };
        let (load, shares) = replay.load(&rows);
        say(&format!(
            "\ntrace: {} rows of the Azure LLM inference trace 2023 (conversations), {speed} times as fast, lengths / {scale}\n\
             The trace names no tenants and has no texts: rows are spread over {tenants} tenants by a Zipf distribution\n\
             (exponent {zipf}, seed {seed}; rows of each: {shares:?}), prompts are random tokens, outputs have exact lengths.",
            rows.len(),
        ));
        let names: Vec<String> = (1..=tenants).map(|tenant| format!("tenant-{tenant}")).collect();
        let (client, serve) = place.open(&names).await?;
        let window = length(&load);
        let name = "trace".to_owned();
        let phase = Phase { name, ramp: Duration::ZERO, window, loads: vec![load], seed };
        let mut loads = run(&client, phase).await?;
        loads.iter_mut().for_each(until_answered);
        let figures = Figures::of(&loads);
        say(&figures.to_string());
        if let Some(serve) = serve {
            serve.end().await?;
        }
        let failures = figures.metric(&Metric::Failures).unwrap_or_default();
        let word = if failures == 0.0 { "pass" } else { "FAIL" };
        say(&format!("{word}  trace.failures == 0  (it is {failures})"));
        Ok(failures == 0.0)
    }
}

/// Measures until the last answer, which may come long after the last arrival.
fn until_answered(load: &mut Samples) {
    let last = load.samples.iter().map(|sample| sample.ended).max();
    load.end = last.map_or(load.end, |last| load.end.max(last + Duration::from_millis(1)));
}

/// From the first arrival until just after the last one.
fn length(load: &Load) -> Duration {
    let last = match load {
        Load::Open { plan, .. } => plan.last().map(|planned| planned.due),
        Load::Closed { .. } => None,
    };
    last.unwrap_or_default() + Duration::from_millis(1)
}
