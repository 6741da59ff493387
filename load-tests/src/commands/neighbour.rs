//! What an engine keeps of its speed while another process keeps a processor busy.
//!
//! Engines in this process with as many threads as the product gives them; the other process is this program
//! again. Speeds without and with it are measured in turns. On two processors three busy threads leave the engine two
//! thirds at best; an engine whose threads wait for each other the wrong way is left with much less.

mod larger;
mod spinner;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use domain::{CacheSalt, ModelFiles, ProjectId, RequestId, Sampling, Share};
use load_tests::{Bound, Judged, Pair, Random, Side, median};
use proto::{Event, Start, Worker};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;
use worker::{LocalWorker, RawWorker, WorkerSettings};

use self::spinner::{Priority, Spinner};
use super::say;

pub(crate) use self::spinner::spin;

/// What an engine keeps of its speed beside a busy process
#[derive(Args)]
pub(crate) struct Neighbour {
    /// Seconds of each comparison, half of them without the neighbour
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// What prompts are drawn with
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the engine does while its speed is taken.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// One prompt after the other, of which it makes one token.
    Prefill,
    /// So many streams at a time.
    Decode(usize),
}

/// An engine, and what its prompts are drawn with.
struct Site {
    worker: Arc<LocalWorker>,
    random: Random,
}

impl Neighbour {
    /// `true` if everything kept enough of its speed.
    pub(crate) async fn run(&self) -> anyhow::Result<bool> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        say(&format!(
            "\nneighbour: engines of {processors} threads on {processors} processors, without and with a process that keeps one busy;\n\
             {} s for each row, tokens/s and ratios are medians of {PAIRS} pairs",
            self.seconds
        ));
        say(&format!(
            "{:<22}{:<12}{:<12}{:>12}{:>12}{:>10}{:>18}",
            "model", "work", "neighbour", "without", "with", "ratio", "lowest, highest"
        ));
        let demo = self.site(RawWorker::demo().check()?).await?;
        let mut ratios = self.rows("demo", demo.worker.info().weights.clone(), &demo).await?;
        let files = demo.worker.model_files(&demo.worker.info().digest).await?;
        drop(demo);
        let (folder, settings) = larger(files).await?;
        let site = self.site(settings).await?;
        drop(folder);
        ratios.extend(self.rows("103 million", site.worker.info().weights.clone(), &site).await?);
        let figure = ratios.into_iter().fold(f64::INFINITY, f64::min);
        let what = "the lowest median of with / without";
        let verdict = Judged { what, figure, bound: Bound::AtLeast(MIN_RATIO) };
        say(&verdict.to_string());
        Ok(verdict.passed())
    }

    async fn site(&self, settings: WorkerSettings) -> anyhow::Result<Site> {
        let load = move || {
            let (name, rent) = (&settings.model_name, settings.rent);
            LocalWorker::start(name, &settings.model, settings.engine.clone(), rent, &mut |_| {})
        };
        let worker = Arc::new(tokio::task::spawn_blocking(load).await??);
        Ok(Site { worker, random: Random::seeded(self.seed) })
    }

    /// All comparisons of one model; the median ratio of each.
    async fn rows(&self, model: &str, weights: String, site: &Site) -> anyhow::Result<Vec<f64>> {
        let model = format!("{model}, {weights}");
        let mut ratios = Vec::new();
        for (name, work) in WORKS {
            for priority in [Priority::Normal, Priority::Lowest] {
                let pairs = self.pairs(site, *work, priority).await?;
                let mut all = Pair::ratios(&pairs);
                all.sort_by(f64::total_cmp);
                let ratio = median(&all);
                let [without, with] = [
                    pairs.iter().map(|pair| pair.without).collect::<Vec<_>>(),
                    pairs.iter().map(|pair| pair.with).collect(),
                ];
                say(&format!(
                    "{model:<22}{name:<12}{:<12}{:>12.0}{:>12.0}{ratio:>10.3}{:>18}",
                    priority.name(),
                    median(&without),
                    median(&with),
                    format!("{:.2}, {:.2}", all[0], all[all.len() - 1])
                ));
                ratios.push(ratio);
            }
        }
        Ok(ratios)
    }

    async fn pairs(
        &self,
        site: &Site,
        work: Work,
        priority: Priority,
    ) -> anyhow::Result<Vec<Pair>> {
        let window = Duration::from_secs(self.seconds) / (2 * PAIRS as u32);
        let mut random = site.random.clone();
        let mut pairs = Vec::new();
        for at in 0..PAIRS {
            let mut pair = Pair { without: f64::NAN, with: f64::NAN };
            for side in Side::order(at) {
                let spinner = match side {
                    Side::Without => None,
                    Side::With => Some(Spinner::start(priority)?),
                };
                tokio::time::sleep(SETTLE).await;
                let random = Random::seeded(random.number());
                pair.set(side, speed(&site.worker, work, window, random).await?);
                drop(spinner);
            }
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// Tokens per second over about as long as `window`.
async fn speed(
    worker: &Arc<LocalWorker>,
    work: Work,
    window: Duration,
    mut random: Random,
) -> anyhow::Result<f64> {
    let streams = match work {
        Work::Prefill => return prefill(worker, window, random).await,
        Work::Decode(streams) => streams,
    };
    let made = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for _ in 0..streams {
        let (worker, made) = (Arc::clone(worker), Arc::clone(&made));
        let random = Random::seeded(random.number());
        running.spawn(async move { decode(&worker, random, &made).await });
    }
    tokio::time::sleep(SETTLE).await;
    let (before, began) = (made.load(Ordering::Relaxed), Instant::now());
    tokio::select! {
        () = tokio::time::sleep(window) => {}
        Some(ended) = running.join_next() => ended??,
    }
    let tokens = made.load(Ordering::Relaxed) - before;
    Ok(tokens as f64 / began.elapsed().as_secs_f64())
}

/// One stream after the other, as long as nobody stops it.
async fn decode(worker: &LocalWorker, mut random: Random, made: &AtomicU64) -> anyhow::Result<()> {
    loop {
        let start = start(worker, &mut random, DECODE_PROMPT, DECODE_TOKENS);
        let mut generation = worker.generate(start).await?;
        while let Some(event) = generation.next().await {
            match event {
                Event::Tokens { ids, .. } => {
                    made.fetch_add(ids.len() as u64, Ordering::Relaxed);
                }
                Event::Finished { .. } => {}
                other => bail!("a stream was disturbed: {other:?}"),
            }
        }
    }
}

/// Whole prompts until the window is over, and the tokens of them per second.
async fn prefill(
    worker: &LocalWorker,
    window: Duration,
    mut random: Random,
) -> anyhow::Result<f64> {
    let (began, mut tokens) = (Instant::now(), 0);
    while began.elapsed() < window {
        let start = start(worker, &mut random, PREFILL_PROMPT, 1);
        let mut generation = worker.generate(start).await?;
        while let Some(event) = generation.next().await {
            if let Event::Failed { error, .. } = event {
                return Err(error).context("compute a prompt");
            }
        }
        tokens += PREFILL_PROMPT;
    }
    Ok(tokens as f64 / began.elapsed().as_secs_f64())
}

/// A sequence of exactly so many tokens that no cache knows.
fn start(worker: &LocalWorker, random: &mut Random, prompt: usize, max_output: u32) -> Start {
    let info = worker.info();
    let tenant = ProjectId::from_u128(1);
    let token = |_| random.below(info.vocabulary as usize) as u32;
    Start {
        request: RequestId::generate(),
        model: info.digest.clone(),
        prompt: (0..prompt).map(token).collect(),
        generated: Vec::new(),
        max_output,
        allowance: max_output,
        sampling: Sampling::greedy(),
        output: domain::OutputRules { ignore_eos: true, ..Default::default() },
        share: Share::of(tenant),
        salt: CacheSalt::of(tenant),
    }
}

/// A model that is larger than caches, in a folder that only has to last until it is loaded.
async fn larger(files: ModelFiles) -> anyhow::Result<(TempDir, WorkerSettings)> {
    let folder = TempDir::with_prefix("tollgate-load-").context("create a folder")?;
    let path = folder.path().to_owned();
    let write = {
        let path = path.clone();
        move || larger::write(&path, &files.tokenizer)
    };
    tokio::task::spawn_blocking(write).await?.context("write a model")?;
    let settings = RawWorker::of("larger".to_owned(), path).check()?;
    Ok((folder, settings))
}

const WORKS: &[(&str, Work)] =
    &[("prefill", Work::Prefill), ("1 stream", Work::Decode(1)), ("16 streams", Work::Decode(16))];
const PAIRS: usize = 8;
const MIN_RATIO: f64 = 0.45;
/// Until processes and streams are under way.
const SETTLE: Duration = Duration::from_millis(150);
const PREFILL_PROMPT: usize = 192;
const DECODE_PROMPT: usize = 16;
const DECODE_TOKENS: u32 = 400;
