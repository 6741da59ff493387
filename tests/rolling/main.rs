//! Both gateways of a cluster are replaced by new processes while they are busy, and nobody notices.
//!
//! Two hundred streams run, and short requests come at a steady rate over connections that are kept, HTTP/1.1 and
//! HTTP/2. Each gateway is upgraded in place: its successor is given its listeners, and it ends what it began.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use system_tests::{Api, Cluster, until};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

#[path = "../database.rs"]
mod database;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_are_replaced_under_load_and_no_request_fails_and_no_stream_breaks()
-> anyhow::Result<()> {
    let database = database::empty("rolling").await?;
    let mut cluster = Cluster::start(GATEWAYS, &database, ENGINE).await?;
    let make = ["keys", "create", "--name", "busy", "--budget", "usd=1000"];
    let key = cluster.administer(&make).await?;
    let key = key["api_key"].as_str().context("a key has a secret")?.to_owned();
    for at in 0..GATEWAYS {
        cluster.api(at, &key).known().await?;
    }

    let read = Arc::new(AtomicUsize::new(0));
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        streams.spawn(stream(cluster.api(number % GATEWAYS, &key), number, Arc::clone(&read)));
    }
    let short = Short::start(&cluster, &key);
    let mut replaced = Vec::new();
    for round in 0..ROUNDS {
        let pieces = STREAMS * (round + 1) * 2;
        let look = async || Ok((read.load(Ordering::SeqCst) >= pieces).then_some(()));
        until(&format!("{pieces} pieces are read"), LIMIT, look).await?;
        replaced.push(cluster.gateways[round % GATEWAYS].upgrade().await?);
    }
    let while_replacing = read.load(Ordering::SeqCst);
    let mut broken = Vec::new();
    while let Some(ended) = streams.join_next().await {
        broken.extend(ended?.err());
    }
    let (answered, failed, rate) = short.finish().await?;
    for process in &mut replaced {
        let status = process.ended(LIMIT).await?;
        ensure!(status.success(), "a replaced gateway ended with {status}: {}", process.story());
    }
    for at in 0..GATEWAYS {
        cluster.admin(at).quiet().await?;
    }
    let found = async || {
        let found = cluster.verify().await?;
        Ok(found.starts_with("clean: ").then_some(found))
    };
    let found = until("the ledger is clean", LIMIT, found).await?;
    say(&format!(
        "rolling: {ROUNDS} replacements of {GATEWAYS} gateways under {STREAMS} streams ({while_replacing} pieces read \
         when the last one was done) and {answered} short requests at {rate:.0} per second: {} failed, {} streams \
         broken; {}",
        failed.len(),
        broken.len(),
        found.trim()
    ));
    ensure!(
        failed.is_empty(),
        "{} short requests failed: {:#?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    ensure!(
        broken.is_empty(),
        "{} streams broke: {:#?}",
        broken.len(),
        &broken[..broken.len().min(5)]
    );
    Ok(())
}

/// Reads one stream to its end, which has to be as it should.
async fn stream(api: Api, number: usize, read: Arc<AtomicUsize>) -> anyhow::Result<()> {
    let tokens = STREAM_TOKENS + (number % 7) as u64;
    let mut events = api.open(&question(number, tokens)).await?;
    while let Some(event) = events.next().await? {
        ensure!(event.get("error").is_none(), "stream {number} failed: {event}");
        read.fetch_add(1, Ordering::SeqCst);
    }
    let told = events.told();
    ensure!(told.done, "stream {number} ended without [DONE]");
    ensure!(told.finish_reason() == Some("length"), "stream {number} ended early");
    let produced = told.usage()["completion_tokens"].as_u64();
    ensure!(produced == Some(tokens), "stream {number} has {produced:?} tokens, not {tokens}");
    Ok(())
}

/// Short requests at a steady rate, until told to stop.
struct Short {
    stop: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<(usize, Vec<String>, f64)>,
}

impl Short {
    fn start(cluster: &Cluster, key: &str) -> Self {
        let mut clients = Vec::new();
        for at in 0..GATEWAYS {
            let endpoint = cluster.gateways[at].endpoint();
            clients.extend([Api::new(&endpoint, key), Api::over_http2(&endpoint, key)]);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let running = tokio::spawn(ask_on(clients, Arc::clone(&stop)));
        Self { stop, running }
    }

    /// How many were answered, what was wrong with those that failed, and how many there were per second.
    async fn finish(self) -> anyhow::Result<(usize, Vec<String>, f64)> {
        self.stop.store(true, Ordering::SeqCst);
        self.running.await.context("ask short questions")
    }
}

async fn ask_on(clients: Vec<Api>, stop: Arc<AtomicBool>) -> (usize, Vec<String>, f64) {
    let places = Arc::new(Semaphore::new(MAX_SHORT));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / SHORT_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut running, mut answered, mut failed) = (JoinSet::new(), 0, Vec::new());
    let began = Instant::now();
    let mut number = 0;
    let mut count = |ended: Result<anyhow::Result<()>, tokio::task::JoinError>| match ended {
        Ok(Ok(())) => answered += 1,
        Ok(Err(error)) => failed.push(format!("{error:#}")),
        Err(error) => failed.push(error.to_string()),
    };
    while !stop.load(Ordering::SeqCst) {
        ticks.tick().await;
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let api = clients[number % clients.len()].clone();
        running.spawn(async move {
            let asked = ask(&api, number).await;
            drop(place);
            asked
        });
        number += 1;
        while let Some(ended) = running.try_join_next() {
            count(ended);
        }
    }
    let rate = number as f64 / began.elapsed().as_secs_f64();
    while let Some(ended) = running.join_next().await {
        count(ended);
    }
    (answered, failed, rate)
}

/// One in four is a completion that a cache may hold; the others ask for the models.
async fn ask(api: &Api, number: usize) -> anyhow::Result<()> {
    let reply = if number.is_multiple_of(4) {
        api.chat(&question(STREAMS + number % 8, 4)).await?
    } else {
        api.get("/v1/models").await?
    };
    reply.expect(200).map(drop)
}

/// A question without an early end.
fn question(number: usize, tokens: u64) -> Value {
    let no_end: serde_json::Map<String, Value> =
        (4087..4096).map(|token| (token.to_string(), json!(-100))).collect();
    json!({
        "model": "tollgate-demo",
        "messages": [{ "role": "user", "content": format!("Tell me of {number} dragons.") }],
        "max_tokens": tokens,
        "temperature": 0,
        "logit_bias": no_end,
    })
}

#[expect(clippy::print_stdout, reason = "what became of the requests is told when it is over")]
fn say(text: &str) {
    println!("{text}");
}

const GATEWAYS: usize = 2;
/// Each gateway twice: the second time its predecessor still ends what it began.
const ROUNDS: usize = 4;
const STREAMS: usize = 200;
const STREAM_TOKENS: u64 = 200;
const SHORT_PER_SECOND: u32 = 500;
/// Short requests that run at a time.
const MAX_SHORT: usize = 256;
const ENGINE: &str = "[engine]\nmax_sequences = 256\nmax_waiting = 512\nstep_tokens = 768\nkv_bytes = 1_073_741_824\n";
const LIMIT: Duration = Duration::from_mins(3);
