//! What governance costs: a key with budgets and limits at three scopes, against one without any.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use load_tests::{
    Bound, Burst, Judged, Message, Pair, PrivateRedis, Product, Random, Role, Side, StandIn, Tally,
    Wire, free_address, median, poisson,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{Place, say};

/// What budgets, limits and shared counters cost
#[derive(Args)]
pub(crate) struct Governed {
    /// Pairs of a round without and a round with, for each figure
    #[arg(long, default_value_t = 12)]
    pairs: usize,
    /// Seconds of each round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Requests at a time, where throughput is measured
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
}

/// A gateway in front of a stand-in, with a key of each kind. Killed, and its folder removed, when dropped.
struct Site {
    gateway: Role,
    listen: SocketAddr,
    without: Message,
    with: Message,
    _folder: TempDir,
}

impl Governed {
    /// `true` if every threshold holds.
    pub(crate) async fn run(&self, place: &Place) -> anyhow::Result<bool> {
        say(
            "\ngoverned: a key whose organization, project and key have a budget and limits of requests and tokens,\n\
             against a key without any, in turns on one gateway; both write the ledger, no cache answers",
        );
        let product = place.product()?;
        let stand_in = StandIn::start()?;
        let site = Site::start(&product, &stand_in, None).await?;
        let mut failed = 0;
        let (throughput, capacity) = self.throughput(&site, &mut failed).await?;
        let latency = self.latency(&site, capacity * LATENCY_LOAD, &mut failed).await?;
        site.gateway.end().await?;
        let operations = operations(&product, &stand_in, &mut failed).await?;
        let unanswered = "governed.failures";
        let bound = Bound::AtMost(0.0);
        let failures = Judged { what: unanswered, figure: failed as f64, bound };
        let verdicts = [throughput, latency, operations, failures];
        for verdict in &verdicts {
            say(&verdict.to_string());
        }
        Ok(verdicts.iter().all(Judged::passed))
    }

    /// Answers per second with as many clients as saturate the gateway; and how many there are without.
    async fn throughput(&self, site: &Site, failed: &mut u64) -> anyhow::Result<(Judged, f64)> {
        say(&format!("\nthroughput, {} clients (processor time is the gateway's)", self.clients));
        let (mut rates, mut times) = (Vec::new(), Vec::new());
        for at in 0..self.pairs {
            let (mut rate, mut time) = (NOTHING, NOTHING);
            for side in Side::order(at) {
                let burst = self.burst(site, site.message(side), self.clients.into());
                let before = site.gateway.processor_time()?;
                let tally = tokio::task::spawn_blocking(move || burst.closed()).await?;
                let spent = site.gateway.processor_time()?.saturating_sub(before);
                *failed += tally.failed();
                rate.set(side, tally.per_second);
                time.set(side, microseconds(spent) / tally.answered as f64);
            }
            say(&format!(
                "pair {}  without {:.0}/s  with {:.0}/s  ratio {:.3}  processor time {:.0} and {:.0} us",
                at + 1,
                rate.without,
                rate.with,
                rate.with / rate.without,
                time.without,
                time.with
            ));
            rates.push(rate);
            times.push(time);
        }
        say(&format!(
            "processor time of the gateway for each answer: {:+.1} us with (median of differences)",
            median(&Pair::differences(&times))
        ));
        let figure = median(&Pair::ratios(&rates));
        let what = "throughput with / without";
        let without: Vec<f64> = rates.iter().map(|pair| pair.without).collect();
        Ok((Judged { what, figure, bound: Bound::AtLeast(MIN_RATIO) }, median(&without)))
    }

    /// How long answers take from when they were due, far below saturation.
    async fn latency(
        &self,
        site: &Site,
        per_second: f64,
        failed: &mut u64,
    ) -> anyhow::Result<Judged> {
        say(&format!("\nlatency, {per_second:.0} requests/s (Poisson), from when they were due"));
        let floor = self.open(site, Message::get("/healthz"), (per_second, 0)).await?;
        *failed += floor.failed();
        let [median_floor, high_floor] = [50.0, 99.0].map(|percent| at(&floor, percent));
        say(&format!(
            "GET /healthz, with everything around it: p50 {median_floor:.0} us  p99 {high_floor:.0} us"
        ));
        let (mut medians, mut highs) = (Vec::new(), Vec::new());
        for pair in 0..self.pairs {
            let (mut middle, mut high) = (NOTHING, NOTHING);
            for side in Side::order(pair) {
                let message = site.message(side).clone();
                let tally = self.open(site, message, (per_second, pair as u64 + 1)).await?;
                *failed += tally.failed();
                middle.set(side, at(&tally, 50.0));
                high.set(side, at(&tally, 99.0));
            }
            say(&format!(
                "pair {}  p50 {:.0} and {:.0} us ({:+.0})  p99 {:.0} and {:.0} us ({:+.0})",
                pair + 1,
                middle.without,
                middle.with,
                middle.with - middle.without,
                high.without,
                high.with,
                high.with - high.without
            ));
            medians.push(middle);
            highs.push(high);
        }
        let difference = median(&Pair::differences(&medians));
        say(&format!("p50 with - without: {difference:+.0} us (median of differences)"));
        let figure = median(&Pair::differences(&highs));
        let what = "p99 latency with - without, in us";
        Ok(Judged { what, figure, bound: Bound::AtMost(MAX_MICROSECONDS) })
    }

    /// The arrivals are the same for the same seed, so both sides of a pair get the same.
    async fn open(
        &self,
        site: &Site,
        message: Message,
        (per_second, seed): (f64, u64),
    ) -> anyhow::Result<Tally> {
        let burst = self.burst(site, &message, OPEN_CLIENTS);
        let length = burst.ramp + burst.window;
        let arrivals = poisson(per_second, length, &mut Random::seeded(seed));
        Ok(tokio::task::spawn_blocking(move || burst.open(&arrivals)).await?)
    }

    fn burst(&self, site: &Site, message: &Message, clients: usize) -> Burst {
        let window = Duration::from_secs(self.seconds);
        Burst { server: site.listen, message: message.clone(), clients, ramp: RAMP, window }
    }
}

/// Commands that go to a shared Redis for each governed request, once slices are as large as demand. What a
/// script does inside the server is no operation of the gateway's: it is printed, and not judged.
async fn operations(
    product: &Product,
    stand_in: &StandIn,
    failed: &mut u64,
) -> anyhow::Result<Judged> {
    say(&format!("\nredis, {REDIS_LOAD:.0} requests/s (Poisson) with budgets and limits"));
    let redis = PrivateRedis::start().await?;
    let site = Site::start(product, stand_in, Some(&redis)).await?;
    let burst = |window| {
        let message = site.with.clone();
        Burst { server: site.listen, message, clients: OPEN_CLIENTS, ramp: Duration::ZERO, window }
    };
    let mut counted = Vec::new();
    for (seed, window) in [REDIS_WARM_UP, REDIS_WINDOW].into_iter().enumerate() {
        let burst = burst(window);
        let arrivals = poisson(REDIS_LOAD, window, &mut Random::seeded(seed as u64));
        let before = redis.commands();
        let tally = tokio::task::spawn_blocking(move || burst.open(&arrivals)).await?;
        let commands = redis.commands().since(&before);
        *failed += tally.failed();
        say(&format!(
            "{}  {} answers  {:.0}/s  p99 {:.0} us  {} commands over the network, {} more inside scripts",
            if counted.is_empty() { "warm-up" } else { "window " },
            tally.answered,
            tally.per_second,
            at(&tally, 99.0),
            commands.asked,
            commands.inside_scripts
        ));
        counted.push((commands, tally));
    }
    site.gateway.end().await?;
    let (commands, tally) = counted.pop().context("nothing was counted")?;
    let kept_up = tally.per_second >= KEPT_UP * REDIS_LOAD;
    ensure!(kept_up, "this machine cannot answer {REDIS_LOAD} requests/s beside what sends them");
    let figure = commands.asked as f64 / tally.answered as f64;
    let what = "commands to redis for each answer";
    Ok(Judged { what, figure, bound: Bound::Below(MAX_OPERATIONS) })
}

impl Site {
    /// Starts a gateway, alone or with a Redis, and waits until it answers with both keys.
    async fn start(
        product: &Product,
        stand_in: &StandIn,
        redis: Option<&PrivateRedis>,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("tollgate-load-").context("create a folder")?;
        let data = folder.path();
        let without = message(&key(product, data, "without", &[]).await?);
        let with = message(&key(product, data, "with", &RULES).await?);
        let (listen, admin_listen) = (free_address()?, free_address()?);
        let redis = redis.map(|redis| format!("redis = \"{}\"\n", redis.url())).unwrap_or_default();
        let text = format!(
            "listen = \"{listen}\"\nadmin_listen = \"{admin_listen}\"\ndata = \"{}\"\n{redis}\
             workers = [{{ address = \"http://{}\" }}]\n\
             [[prices]]\nmodel = \"{}\"\ninput = \"0.10\"\noutput = \"0.40\"\n",
            data.display(),
            stand_in.address(),
            StandIn::MODEL
        );
        let config = data.join("gateway.toml");
        std::fs::write(&config, text).context("write the gateway's configuration")?;
        let gateway = product.role("gateway", &config, listen).await?;
        for message in [&without, &with] {
            answers(listen, message).await?;
        }
        Ok(Self { gateway, listen, without, with, _folder: folder })
    }

    const fn message(&self, side: Side) -> &Message {
        match side {
            Side::Without => &self.without,
            Side::With => &self.with,
        }
    }
}

/// A key of a project of an organization of its own, with `rules` at each of the three.
async fn key(product: &Product, data: &Path, name: &str, rules: &[&str]) -> anyhow::Result<String> {
    let make = async |kind: &str, within: &[&str]| -> anyhow::Result<Value> {
        let arguments = [&[kind, "create", "--name", name], within, rules].concat();
        product.admin(data, &arguments).await
    };
    let organization = text(&make("organizations", &[]).await?, "id")?;
    let project = text(&make("projects", &["--organization", &organization]).await?, "id")?;
    text(&make("keys", &["--project", &project]).await?, "api_key")
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    let text = value[name].as_str().with_context(|| format!("there is no `{name}` in {value}"))?;
    Ok(text.to_owned())
}

/// A question with a whole answer of a few tokens, which no response cache may give.
fn message(key: &str) -> Message {
    let body = json!({
        "model": StandIn::MODEL,
        "messages": [{ "role": "user", "content": "Who are you?" }],
        "max_tokens": TOKENS,
        "temperature": 1.0,
    });
    Message::post("/v1/chat/completions", key, &body)
}

/// Waits until the gateway knows its worker's model, and sees that it is answered in full.
async fn answers(listen: SocketAddr, message: &Message) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut wire = Wire::to(listen);
    loop {
        let (status, body) = wire.ask(message).context("ask the gateway")?;
        if status == 200 {
            let answer: Value = serde_json::from_slice(body).context("read the answer")?;
            let usage = &answer["usage"];
            ensure!(
                usage["completion_tokens"] == TOKENS,
                "the answer is not as expected: {answer}"
            );
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the gateway answers {status}: {}", String::from_utf8_lossy(body));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn at(tally: &Tally, percent: f64) -> f64 {
    tally.times.at(percent).map_or(f64::NAN, microseconds)
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// At each of three scopes; never reached.
const RULES: [&str; 6] = [
    "--budget",
    "usd=100000",
    "--limit",
    "requests-per-minute=6000000",
    "--limit",
    "tokens-per-minute=600000000",
];
const TOKENS: u32 = 16;
const NOTHING: Pair = Pair { without: f64::NAN, with: f64::NAN };

const MIN_RATIO: f64 = 0.9;
const MAX_MICROSECONDS: f64 = 100.0;
const MAX_OPERATIONS: f64 = 0.05;

const RAMP: Duration = Duration::from_secs(1);
/// Connections that wait for what is due; a request that finds none free is late, and counts as late.
const OPEN_CLIENTS: usize = 64;
/// The part of what saturates the gateway at which latency is measured.
const LATENCY_LOAD: f64 = 0.2;

const REDIS_LOAD: f64 = 1000.0;
const REDIS_WARM_UP: Duration = Duration::from_secs(8);
const REDIS_WINDOW: Duration = Duration::from_secs(30);
/// Below this part of what was due, the schedule was not kept.
const KEPT_UP: f64 = 0.98;

const PAUSE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(30);
