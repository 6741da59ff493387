//! The report: which runs there are, and one line for each.

use std::time::{Duration, Instant};

use anyhow::bail;
use fleet::{
    Fault, Leave, Machine, Nature, Outcome, Replay, Scenario, ideal_cached_tokens, mooncake,
};
use routing::{Policy, RouterSettings};

/// Plays every policy with every way to leave, for each of `sizes`, or of the usual ones.
pub(crate) fn write(sizes: &[usize]) -> anyhow::Result<()> {
    let sizes = if sizes.is_empty() { SIZES } else { sizes };
    say(HEAD);
    for size in sizes {
        let scenario = scenario(*size)?;
        let ideal = ideal_cached_tokens(&scenario.arrivals, scenario.machine.block_tokens);
        for policy in POLICIES {
            for (leave, leaves) in LEAVES {
                let Some(named) = Policy::named(policy) else { bail!("no policy {policy}") };
                let router = RouterSettings { policy: named, ..scenario.router.clone() };
                let scenario = Scenario { router, leave: *leave, ..scenario.clone() };
                let began = Instant::now();
                let outcome = fleet::simulate(&scenario)?;
                say(&line(&scenario, &outcome, ideal, (policy, leaves), began.elapsed()));
                for violation in &outcome.violations {
                    say(&format!("    must not be: {violation}"));
                }
            }
        }
    }
    Ok(())
}

/// What happens to a fleet of `size` machines.
fn scenario(size: usize) -> anyhow::Result<Scenario> {
    let copies = size.div_ceil(WORKERS_PER_COPY);
    // Each copy of the trace keeps so many machines about as busy, however many there are.
    let speed = SPEED * size as f64 / (copies * WORKERS_PER_COPY) as f64;
    let replay = Replay { requests: REQUESTS, copies, speed, scale: 4, seed: SEED };
    let machine = Machine::coarse();
    let arrivals = mooncake(replay, machine.block_tokens)?;
    let length = arrivals.last().map_or(Duration::ZERO, |arrival| arrival.at);
    // A quarter of the fleet is evicted during the run, evenly, and replaced.
    let evictions = size.div_ceil(4);
    let evict = |number: usize| {
        let at = length.mul_f64((number as f64 + 0.5) / evictions as f64 * 0.8);
        let worker = number * size / evictions;
        let notice = NOTICES[number % NOTICES.len()].map(Duration::from_secs);
        (at, Fault::Evict { worker, notice, replaced_in: Some(Duration::from_mins(1)) })
    };
    Ok(Scenario {
        natures: vec![Nature::Honest; size],
        machine,
        router: RouterSettings { seed: SEED, ..RouterSettings::default() },
        leave: Leave::Late,
        arrivals,
        faults: (0..evictions).map(evict).collect(),
    })
}

fn line(
    scenario: &Scenario,
    outcome: &Outcome,
    ideal: u64,
    (policy, leaves): (&str, &str),
    took: Duration,
) -> String {
    let went_on = |cause| {
        outcome.went_on.iter().find(|(name, _)| *name == cause).map_or(0, |(_, count)| *count)
    };
    let hours = outcome.busy().as_secs_f64() / 3_600.0;
    let dollars = scenario.machine.price_per_hour.nanos() as f64 / 1e9 * hours;
    format!(
        "| {} | {policy} | {leaves} | {} | {} | {} | {} | {} | {dollars:.2} | {:.2} | {:.2} | {:.1} | {:.1} % | {:.1} |",
        scenario.natures.len(),
        outcome.ended.len(),
        outcome.failed(),
        went_on("handed_over"),
        went_on("lost"),
        went_on("stalled"),
        outcome.first_token_in(0.5).as_secs_f64(),
        outcome.first_token_in(0.99).as_secs_f64(),
        outcome.recomputed().as_secs_f64(),
        outcome.cached_tokens() as f64 * 100.0 / ideal.max(1) as f64,
        took.as_secs_f64(),
    )
}

#[expect(clippy::print_stdout, reason = "a report is written for whoever called for it")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

const HEAD: &str = "\
| workers | routing | leaving | requests | failed | handed over | lost | stalled | compute, $ | first token p50, s | p99, s | recomputed, GPU s | cached, of the ideal | wall, s |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";
const SIZES: &[usize] = &[4, 64, 1_000];
const POLICIES: &[&str] = &["balanced", "prefix", "least_time", "two_choices"];
const LEAVES: &[(Leave, &str)] =
    &[(Leave::Late, "late"), (Leave::AtOnce, "at once"), (Leave::Never, "stop")];
/// What machines are told before they go, in turn, in seconds: as of two large providers, less, and nothing.
const NOTICES: &[Option<u64>] = &[Some(120), Some(30), Some(5), None];
const SEED: u64 = 1;
/// Requests of the trace.
const REQUESTS: usize = 500;
const WORKERS_PER_COPY: usize = 8;
/// How much faster than it was recorded a copy of the trace comes.
const SPEED: f64 = 1.0;
