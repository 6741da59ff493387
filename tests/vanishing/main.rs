//! Workers that vanish while two hundred streams run, and clients that never notice.
//!
//! Every stream is of a kind whose output is decided by its request: greedy, sampled with a seed, held to a JSON
//! schema, calling a tool, telling log-probabilities, with two choices. All are run twice, on fresh processes
//! each time: undisturbed, and while one worker is drained by its cloud's notice, one is killed and one is
//! frozen. Both runs must have told their clients the same, to the byte, and have charged the same.
//!
//! When a worker goes is decided by a seed, in tokens that clients have read; `TOLLGATE_VANISHING_SEED` sets it.

mod positions;
mod questions;
mod transcript;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use system_tests::{Fleet, Metadata, attempt, told, until};
use tokio::task::JoinSet;

use crate::questions::question;
use crate::transcript::Transcript;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_notices_that_workers_are_drained_killed_and_frozen() -> anyhow::Result<()> {
    let seed = match told("TOLLGATE_VANISHING_SEED") {
        Some(seed) => seed.to_string_lossy().parse().context("read TOLLGATE_VANISHING_SEED")?,
        None => fastrand::u64(..),
    };
    check(seed).await.with_context(|| format!("with TOLLGATE_VANISHING_SEED={seed}"))
}

async fn check(seed: u64) -> anyhow::Result<()> {
    let undisturbed = {
        let (fleet, _metadata) = fleet().await?;
        let streams = Streams::start(&fleet);
        let seen = streams.finish().await?;
        verified(&fleet).await?;
        seen
    };
    let all: usize = undisturbed.iter().map(Transcript::pieces).sum();

    let (mut fleet, metadata) = fleet().await?;
    let mut random = fastrand::Rng::with_seed(seed);
    let streams = Streams::start(&fleet);
    let mut moments: Vec<usize> = (0..3).map(|_| random.usize(..all * 6 / 10)).collect();
    moments.sort_unstable();
    let mut fates = [Fate::Drained, Fate::Killed, Fate::Frozen];
    random.shuffle(&mut fates);
    for (moment, fate) in moments.iter().zip(fates) {
        streams.reach(*moment).await?;
        befall(&mut fleet, &metadata, fate).await?;
    }
    let disturbed = streams.finish().await?;
    // The frozen one finds out that nobody waits for it any more.
    fleet.worker(FROZEN).signal("CONT").await?;
    // A notice empties a worker; it ends when its machine does.
    let status = fleet.worker(DRAINED).stop().await?;
    ensure!(status.success(), "the drained worker ended with {status}");

    let mut differ = 0;
    for (number, (one, other)) in undisturbed.iter().zip(&disturbed).enumerate() {
        if one != other {
            differ += 1;
            say(&format!("stream {number} differs:\n  {one:?}\n  {other:?}"));
        }
    }
    let moved = fleet.gateway.process().stderr().matches("sequence leaves its worker").count();
    let found = verified(&fleet).await?;
    say(&format!(
        "vanishing: {STREAMS} streams, {all} pieces of output, workers gone at {moments:?} as {fates:?}, \
         {moved} continuations told, {differ} streams differ, {found}, seed {seed}"
    ));
    ensure!(differ == 0, "{differ} of {STREAMS} clients noticed");
    ensure!(moved > 0, "nothing had to go on elsewhere: the workers went too late");
    Ok(())
}

/// What becomes of a worker.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Drained,
    Killed,
    Frozen,
}

async fn befall(fleet: &mut Fleet, metadata: &Metadata, fate: Fate) -> anyhow::Result<()> {
    match fate {
        Fate::Drained => metadata.terminate_at(&in_seconds(NOTICE_SECONDS).await?),
        Fate::Killed => {
            fleet.worker(KILLED).kill().await?;
            // As whatever looks after it would.
            fleet.workers[KILLED].restart().await?;
        }
        Fate::Frozen => fleet.worker(FROZEN).signal("STOP").await?,
    }
    Ok(())
}

/// A time to come, as clouds write it.
async fn in_seconds(seconds: u32) -> anyhow::Result<String> {
    let mut date = tokio::process::Command::new("date");
    let output = date.args(["-u", "-d", &format!("+{seconds} seconds"), "+%Y-%m-%dT%H:%M:%SZ"]);
    let output = output.output().await.context("ask for the time")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A gateway and three workers, and the metadata service that the first worker asks.
async fn fleet() -> anyhow::Result<(Fleet, Metadata)> {
    let metadata = Metadata::start().await?;
    let mut workers = vec![ENGINE.to_owned(); 3];
    workers[DRAINED] = format!("{}\n{ENGINE}", notices(&metadata.url()));
    let fleet = Fleet::start_each(&workers, GATEWAY).await?;
    fleet.whole().await?;
    Ok((fleet, metadata))
}

fn notices(metadata: &str) -> String {
    format!("[[notices]]\nsource = \"aws\"\naddress = \"{metadata}\"\nevery = \"200ms\"\n")
}

/// Two hundred clients.
struct Streams {
    running: JoinSet<(usize, anyhow::Result<Transcript>)>,
    read: Arc<AtomicUsize>,
}

impl Streams {
    fn start(fleet: &Fleet) -> Self {
        let read = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for number in 0..STREAMS {
            let (api, read) = (fleet.api(), Arc::clone(&read));
            running.spawn(async move {
                let question = question(number);
                let reading = Transcript::read(&api, &question, &read);
                let reading = tokio::time::timeout(STREAM_LIMIT, reading).await;
                (number, reading.unwrap_or_else(|_| bail!("the stream is stuck")))
            });
        }
        Self { running, read }
    }

    /// Waits until all clients together have read so many pieces.
    async fn reach(&self, pieces: usize) -> anyhow::Result<()> {
        let look = async || Ok((self.read.load(Ordering::SeqCst) >= pieces).then_some(()));
        until(&format!("{pieces} pieces are read"), STREAM_LIMIT, look).await
    }

    /// What every client was told, in the order of the questions.
    async fn finish(mut self) -> anyhow::Result<Vec<Transcript>> {
        let mut seen = Vec::new();
        while let Some(ended) = self.running.join_next().await {
            let (number, transcript) = ended.context("a client panicked")?;
            seen.push((number, transcript.with_context(|| format!("stream {number}"))?));
        }
        seen.sort_by_key(|(number, _)| *number);
        Ok(seen.into_iter().map(|(_, transcript)| transcript).collect())
    }
}

/// What the product's own verification of the ledger says, once it is content.
async fn verified(fleet: &Fleet) -> anyhow::Result<String> {
    fleet.admin().quiet().await?;
    let data = fleet.data().display().to_string();
    let mut last = String::new();
    let clean = until("the ledger is clean", LIMIT, async || {
        let said = attempt(&["ledger", "verify", "--data", &data]).await?;
        last = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        Ok(last.starts_with("clean: ").then(|| last.trim().to_owned()))
    });
    clean.await.with_context(|| last.clone())
}

#[expect(clippy::print_stdout, reason = "what became of each stream is told when it is over")]
fn say(text: &str) {
    println!("{text}");
}

const STREAMS: usize = 200;
/// Which worker has which fate.
const DRAINED: usize = 0;
const KILLED: usize = 1;
const FROZEN: usize = 2;
const NOTICE_SECONDS: u32 = 8;
const LIMIT: Duration = Duration::from_secs(40);
const STREAM_LIMIT: Duration = Duration::from_mins(2);
const ENGINE: &str = "[engine]\ncompute_threads = 1\n";
const GATEWAY: &str = "[cache]\nenabled = false\n[limits]\nqueue_timeout = \"60s\"\n";
