//! Sends the load of one phase, and keeps every sample.
//!
//! A phase is a ramp and then a window. Load is the same in both; times and tokens are measured in
//! the window only, while everything runs: requests under way at its end are finished, so the server
//! is never measured while it empties. Failures are counted from the first request to the last.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Sample};
use crate::load::{Bodies, Load, Planned};
use crate::random::Random;

/// Load for some time.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What its figures are called.
    pub name: String,
    /// Before anything is measured.
    pub ramp: Duration,
    /// How long is measured.
    pub window: Duration,
    /// All at the same time.
    pub loads: Vec<Load>,
    /// Decides what is drawn.
    pub seed: u64,
}

/// What one load of a phase came to.
#[derive(Clone, Debug)]
pub struct Samples {
    /// The load's name.
    pub load: String,
    /// When measuring began.
    pub begin: Instant,
    /// When it ended.
    pub end: Instant,
    /// One for each request.
    pub samples: Vec<Sample>,
}

/// Runs `phase`, and waits until all of it has been answered.
pub async fn run(client: &Client, phase: Phase) -> anyhow::Result<Vec<Samples>> {
    let Phase { ramp, window, loads, seed, .. } = phase;
    let began = Instant::now();
    let (begin, end) = (began + ramp, began + ramp + window);
    let mut running = JoinSet::new();
    for (at, load) in loads.into_iter().enumerate() {
        let client = client.clone();
        let mut random = Random::seeded(seed.wrapping_add(at as u64));
        running.spawn(async move {
            let name = load.name().to_owned();
            let samples = match load {
                Load::Open { plan, .. } => open(&client, began, plan).await,
                Load::Closed { clients, bodies, .. } => {
                    closed(&client, end, (clients, &bodies), &mut random).await
                }
            };
            samples.map(|samples| (at, Samples { load: name, begin, end, samples }))
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = running.join_next().await {
        all.push(ended.context("run a load")??);
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, samples)| samples).collect())
}

async fn open(client: &Client, began: Instant, plan: Vec<Planned>) -> anyhow::Result<Vec<Sample>> {
    let places = Arc::new(Semaphore::new(MAX_OPEN));
    let mut asked = JoinSet::new();
    let mut samples = Vec::with_capacity(plan.len());
    for Planned { due, question } in plan {
        let due = began + due;
        sleep_until(due).await;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            samples.push(Sample::unsent(due, "generator_full"));
            continue;
        };
        let client = client.clone();
        asked.spawn(async move {
            let _place = place;
            client.ask(&question, due).await
        });
    }
    while let Some(sample) = asked.join_next().await {
        samples.push(sample.context("ask a question")?);
    }
    Ok(samples)
}

async fn closed(
    client: &Client,
    end: Instant,
    (clients, bodies): (usize, &Bodies),
    random: &mut Random,
) -> anyhow::Result<Vec<Sample>> {
    let mut asking = JoinSet::new();
    for _ in 0..clients {
        let (client, bodies) = (client.clone(), bodies.clone());
        let mut random = Random::seeded(random.number());
        asking.spawn(async move {
            let mut samples: Vec<Sample> = Vec::new();
            while Instant::now() < end {
                // A server that refuses at once is not to be asked in a busy loop.
                if samples.last().is_some_and(|last| last.failure.is_some()) {
                    tokio::time::sleep(PAUSE).await;
                }
                samples.push(client.ask(&bodies.draw(&mut random), Instant::now()).await);
            }
            samples
        });
    }
    let mut samples = Vec::new();
    while let Some(mine) = asking.join_next().await {
        samples.extend(mine.context("run a client")?);
    }
    Ok(samples)
}

/// Requests of one open load under way at a time; more are not sent, and count as failures.
const MAX_OPEN: usize = 4096;

/// Before a client tries again after a failure.
const PAUSE: Duration = Duration::from_millis(50);
