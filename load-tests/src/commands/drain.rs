//! What it costs when a worker leaves: told in time, against one that stops at once.
//!
//! Real engines in this process behind a router, as a gateway has them. The same streams run twice; when all
//! of them have begun, one worker leaves. With a notice it finishes what fits and hands over the rest; without
//! one it stops, and everything that it ran is computed again elsewhere. Workers fetch KV blocks from each other, as processes do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use domain::{
    GpuTime, Job, JobParts, ModelInfo, NanoUsd, OutputRules, OwnBound, Price, ProjectId, RequestId,
    Sampling, Share,
};
use load_tests::{Percentiles, Random};
use proto::{Worker, WorkerError};
use routing::{Piece, Router, RouterSettings};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use worker::{LocalWorker, RawWorker};

use super::say;

/// A worker that leaves with a notice, against one that stops at once
#[derive(Args)]
pub(crate) struct Drain {
    /// Streams at a time
    #[arg(long, default_value_t = 24)]
    streams: usize,
    /// Workers; one of them leaves
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    workers: u8,
    /// How long before the worker goes it is told
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = duration)]
    leaves_in: Duration,
    /// What prompts and lengths of answers are drawn with
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How the worker leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It stops, and what it ran fails.
    AtOnce,
    /// It is told this long before.
    Told(Duration),
}

/// Engines behind a router.
struct Site {
    workers: Vec<Arc<LocalWorker>>,
    router: Arc<Router>,
    info: ModelInfo,
}

/// How far all streams are.
#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    changed: Notify,
}

/// What one stream was like.
struct Stream {
    tokens: Vec<u32>,
    /// When tokens came, and where from.
    arrivals: Vec<(Instant, String)>,
    /// What another worker had to go on from.
    moved: usize,
    recompute: GpuTime,
}

impl Drain {
    /// `true` if no stream was disturbed, and the notice was worth something.
    pub(crate) async fn run(&self) -> anyhow::Result<bool> {
        let Self { streams, workers, leaves_in, .. } = self;
        say(&format!(
            "\ndrain: one of {workers} workers leaves, {streams} streams; told {leaves_in:?} before, against stopping at once"
        ));
        let (stopped, at_once) = self.measure(Way::AtOnce).await?;
        let (told, in_time) = self.measure(Way::Told(*leaves_in)).await?;
        say(&format!(
            "{:<16}{:>10}{:>22}{:>20}{:>12}{:>12}{:>12}",
            "", "moved", "tokens of them", "computed again", "gap p50", "gap p99", "longest"
        ));
        let rows = [("stops at once", &stopped, at_once), ("told in time", &told, in_time)];
        for (name, streams, at) in rows {
            say(&row(name, streams, at));
        }
        let same = stopped.iter().zip(&told).all(|(one, other)| one.tokens == other.tokens);
        let fewer = computed_again(&told) <= computed_again(&stopped);
        for (held, what) in [
            (same, "every stream has the same tokens both ways"),
            (fewer, "a notice has no more computed again than a stop"),
        ] {
            say(&format!("{}  {what}", if held { "pass" } else { "FAIL" }));
        }
        Ok(same && fewer)
    }

    /// All streams, and when the worker was told or stopped.
    async fn measure(&self, way: Way) -> anyhow::Result<(Vec<Stream>, Instant)> {
        let site = Site::start(self.workers).await?;
        let _following = site.router.follow();
        while site.router.workers().iter().any(|(_, state)| state.is_none()) {
            site.router.changed().await;
        }
        let progress = Arc::new(Progress::default());
        let mut running = JoinSet::new();
        for (at, job) in self.jobs(&site.info)?.into_iter().enumerate() {
            let (router, progress) = (Arc::clone(&site.router), Arc::clone(&progress));
            running.spawn(async move {
                Ok::<_, anyhow::Error>((at, read(router, job, &progress).await?))
            });
        }
        while progress.begun.load(Ordering::SeqCst) < self.streams {
            progress.changed.notified().await;
        }
        let at = Instant::now();
        let leaver = Arc::clone(&site.workers[0]);
        match way {
            Way::AtOnce => tokio::task::spawn_blocking(move || leaver.shut_down()).await?,
            Way::Told(leaves_in) => leaver.drain(Some(leaves_in)).await?,
        }
        let mut streams = Vec::new();
        while let Some(stream) = running.join_next().await {
            streams.push(stream??);
        }
        streams.sort_by_key(|(at, _)| *at);
        Ok((streams.into_iter().map(|(_, stream)| stream).collect(), at))
    }

    /// The same jobs for the same seed: prompts and answers of many lengths.
    fn jobs(&self, info: &ModelInfo) -> anyhow::Result<Vec<Job>> {
        let mut random = Random::seeded(self.seed);
        let mut between = |low: usize, high: usize| (low + random.below(high - low)) as u32;
        let job = |_| {
            let prompt = (0..between(16, 600)).map(|_| between(1, 4_000)).collect();
            let bias = info.stop_tokens.iter().map(|token| (*token, -100.0)).collect();
            let parts = JobParts {
                request: RequestId::generate(),
                model: info.name.clone(),
                digest: info.digest.clone(),
                context_length: info.context_length,
                prompt,
                max_output: Some(between(100, 1_400)),
                sampling: Sampling { logit_bias: bias, ..Sampling::greedy() },
                output: OutputRules::default(),
                choices: 1,
                stop: Vec::new(),
                share: Share::of(ProjectId::from_u128(1)),
                reproducible: true,
                price: Price::GpuTime { per_hour: NanoUsd::from_dollars(1), markup_percent: 100 },
                bound: OwnBound::default(),
            };
            Job::new(parts).context("make a job")
        };
        (0..self.streams).map(job).collect()
    }
}

impl Site {
    async fn start(workers: u8) -> anyhow::Result<Self> {
        let mut started = Vec::new();
        for _ in 0..workers {
            let mut settings = RawWorker::demo().check()?;
            settings.engine.compute_threads = 1;
            let load = move || {
                let name = &settings.model_name;
                let (engine, rent) = (settings.engine.clone(), settings.rent);
                LocalWorker::start(name, &settings.model, engine, rent, &mut |_| {})
            };
            started.push(Arc::new(tokio::task::spawn_blocking(load).await??));
        }
        let named = started.iter().enumerate();
        let named = named.map(|(at, worker): (usize, &Arc<LocalWorker>)| {
            (at.to_string(), Arc::clone(worker).over_pipes())
        });
        let named: Vec<(String, Arc<dyn Worker>)> = named.collect();
        for worker in &started {
            let others = named.clone();
            worker.reach(Box::new(move |address| {
                let found = others.iter().find(|(name, _)| name == address);
                let found = found.map(|(_, other)| Arc::clone(other));
                found.ok_or_else(|| {
                    WorkerError::Unreachable(format!("no worker is called {address}"))
                })
            }));
        }
        let settings = RouterSettings { patience: LIMIT, ..RouterSettings::default() };
        let router = Router::new(named, settings);
        let info = started[0].info().clone();
        Ok(Self { workers: started, router, info })
    }
}

async fn read(router: Arc<Router>, job: Job, progress: &Progress) -> anyhow::Result<Stream> {
    let mut answer = router.dispatch(&job, job.max_output()).await?;
    let mut stream =
        Stream { tokens: Vec::new(), arrivals: Vec::new(), moved: 0, recompute: GpuTime::ZERO };
    let mut works = 1;
    while let Piece::Tokens { ids, .. } = answer.next().await? {
        if answer.work().len() > works {
            works = answer.work().len();
            stream.moved += job.prompt().len() + stream.tokens.len();
        }
        if stream.tokens.is_empty() {
            progress.begun.fetch_add(1, Ordering::SeqCst);
            progress.changed.notify_one();
        }
        stream.tokens.extend(ids);
        stream.arrivals.push((Instant::now(), answer.worker().to_owned()));
    }
    stream.recompute = answer.used().usage.times.recompute;
    Ok(stream)
}

impl Stream {
    /// The longest wait for a token after `at`, if it was on the worker that left then.
    fn gap(&self, at: Instant) -> Option<Duration> {
        let before = self.arrivals.iter().rev().find(|(when, _)| *when <= at)?;
        if before.1 != LEAVER {
            return None;
        }
        let since = self.arrivals.windows(2).filter(|pair| pair[1].0 > at);
        since.map(|pair| pair[1].0 - pair[0].0).max()
    }
}

fn tokens_moved(streams: &[Stream]) -> usize {
    streams.iter().map(|stream| stream.moved).sum()
}

fn computed_again(streams: &[Stream]) -> GpuTime {
    streams.iter().map(|stream| stream.recompute).sum()
}

fn row(name: &str, streams: &[Stream], at: Instant) -> String {
    let gaps: Percentiles = streams.iter().filter_map(|stream| stream.gap(at)).collect();
    let moved = streams.iter().filter(|stream| stream.moved > 0).count();
    let again = computed_again(streams);
    let gap = |percent| {
        let gap = gaps.at(percent).map(|gap| format!("{:.1} ms", gap.as_secs_f64() * 1e3));
        gap.unwrap_or_default()
    };
    format!(
        "{name:<16}{:>10}{:>22}{:>20}{:>12}{:>12}{:>12}",
        format!("{moved}/{}", gaps.count()),
        tokens_moved(streams),
        format!("{:.1} ms", again.nanos() as f64 / 1e6),
        gap(50.0),
        gap(99.0),
        gap(100.0)
    )
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// The name of the worker that leaves.
const LEAVER: &str = "0";
const LIMIT: Duration = Duration::from_mins(1);
