//! What is asked of a fleet, by public traces: when, how long, and what prompts have in common.
//!
//! Prompts of the Mooncake trace are made of its block ids, so that two of them share exactly what the recorded ones
//! shared. Prompts of the Azure trace share nothing: it says nothing of it. Lengths are divided by what a
//! simulated token stands for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use domain::Priority;
use fastrand::Rng;

/// One request that will come.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When, after the beginning.
    pub at: Duration,
    /// Its tokens.
    pub prompt: Arc<[u32]>,
    /// Most output tokens; the simulated model produces as many.
    pub output: u32,
    /// Whose it is.
    pub tenant: u128,
    /// How urgent it is.
    pub priority: Priority,
}

/// How a trace is replayed.
#[derive(Clone, Copy, Debug)]
pub struct Replay {
    /// Requests of the trace, from its beginning.
    pub requests: usize,
    /// How often the trace is replayed at the same time, each time by another tenant.
    pub copies: usize,
    /// How much faster than it was recorded.
    pub speed: f64,
    /// What output lengths are divided by; prompts of the Azure trace too.
    pub scale: u32,
    /// Decides what the trace does not say.
    pub seed: u64,
}

/// Requests of conversations, with the prefixes they share: a block of the trace (512 tokens) becomes one of
/// `block_tokens`, and every prompt ends with a token of its own.
pub fn mooncake(replay: Replay, block_tokens: u32) -> anyhow::Result<Vec<Arrival>> {
    let mut random = Rng::with_seed(replay.seed);
    let lines: Vec<&str> = MOONCAKE.lines().skip(1).take(replay.requests).collect();
    ensure!(lines.len() == replay.requests, "the trace has no more than {} requests", lines.len());
    let rows = lines.iter().map(|line| row(line).with_context(|| format!("line `{line}`")));
    let rows: Vec<Row> = rows.collect::<anyhow::Result<_>>()?;
    let mut arrivals = Vec::with_capacity(rows.len() * replay.copies);
    for copy in 0..replay.copies {
        for (at, row) in rows.iter().enumerate() {
            let tokens =
                row.ids.iter().flat_map(|id| (0..block_tokens).map(move |at| id * 64 + at));
            // No block begins with such a number.
            let prompt = tokens.chain([OWN + at as u32]).collect();
            // The trace tells times in steps of three seconds: within them arrivals are spread evenly.
            let millis = row.millis as f64 + random.f64() * 3_000.0;
            arrivals.push(Arrival {
                at: Duration::from_secs_f64(millis / 1_000.0 / replay.speed),
                prompt,
                output: row.output.div_ceil(replay.scale).max(1),
                tenant: copy as u128 + 1,
                priority: Priority::Standard,
            });
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    Ok(arrivals)
}

/// Requests by their lengths and times alone, of several tenants; prompts share nothing.
pub fn azure(replay: Replay) -> anyhow::Result<Vec<Arrival>> {
    let mut random = Rng::with_seed(replay.seed);
    let lines: Vec<&str> = AZURE.lines().skip(1).take(replay.requests).collect();
    ensure!(lines.len() == replay.requests, "the trace has no more than {} requests", lines.len());
    let rows = lines.iter().map(|line| lengths(line).with_context(|| format!("line `{line}`")));
    let rows: Vec<(Duration, u32, u32)> = rows.collect::<anyhow::Result<_>>()?;
    let first = rows.first().map_or(Duration::ZERO, |(at, _, _)| *at);
    let mut arrivals = Vec::with_capacity(rows.len() * replay.copies);
    for _ in 0..replay.copies {
        for (at, prompt, output) in &rows {
            let shift = random.f64();
            let length = prompt.div_ceil(replay.scale).max(1);
            arrivals.push(Arrival {
                at: (at.saturating_sub(first) + Duration::from_secs_f64(shift))
                    .div_f64(replay.speed),
                prompt: (0..length).map(|_| random.u32(..1 << 20)).collect(),
                output: output.div_ceil(replay.scale).max(1),
                tenant: u128::from(random.u32(1..=TENANTS)),
                priority: Priority::Standard,
            });
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    Ok(arrivals)
}

/// Tokens that one cache without end would have had of these prompts, if each prompt were in it once it has come.
pub fn ideal_cached_tokens(arrivals: &[Arrival], block_tokens: u32) -> u64 {
    let mut seen: HashSet<(u128, u64)> = HashSet::new();
    let mut cached = 0;
    for arrival in arrivals {
        let mut chain = crate::machine::root(&[]);
        let mut unbroken = true;
        for block in arrival.prompt.chunks_exact(block_tokens as usize) {
            chain = chain.rotate_left(5) ^ crate::machine::root(block).wrapping_mul(chain | 1);
            unbroken &= !seen.insert((arrival.tenant, chain));
            cached += if unbroken { u64::from(block_tokens) } else { 0 };
        }
    }
    cached
}

struct Row {
    millis: u64,
    output: u32,
    ids: Vec<u32>,
}

/// `timestamp,output_length,hash_ids`, ids as numbers and ranges.
fn row(line: &str) -> anyhow::Result<Row> {
    let mut fields = line.split(',');
    let mut field = || fields.next().context("a field is missing");
    let (millis, output) = (field()?.parse()?, field()?.parse()?);
    let mut ids = Vec::new();
    for part in field()?.split(' ') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        ids.extend(from.parse::<u32>()?..=to.parse()?);
    }
    Ok(Row { millis, output, ids })
}

/// `2023-11-16 18:15:46.6805900,374,44`; the hour is the same in all rows, and the day does not matter.
fn lengths(line: &str) -> anyhow::Result<(Duration, u32, u32)> {
    let mut fields = line.split(',');
    let mut field = || fields.next().context("a field is missing");
    let (_, time) = field()?.split_once(' ').context("there must be a date and a time")?;
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>()?;
    }
    Ok((Duration::from_secs_f64(seconds), field()?.parse()?, field()?.parse()?))
}

const MOONCAKE: &str = include_str!("../traces/mooncake-conversation.csv");
const AZURE: &str = include_str!("../../../../load-tests/traces/azure-conv.csv");
const OWN: u32 = 1 << 30;
const TENANTS: u32 = 20;
