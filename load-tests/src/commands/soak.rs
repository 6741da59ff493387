//! A day of random load in miniature: does memory stay where it is, and does everything come back?
//!
//! One engine with little room, so that sequences are refused, wait, pause and give way all the time; half of
//! the orders come over the worker link, as from a gateway. Two of three ask for an adapter, and one adapter is
//! unloaded and loaded again all along. Afterwards nothing may be left of them.

mod follow;
mod guest;
mod orders;
mod samples;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use domain::Accounts;
use futures_util::StreamExt as _;
use proto::{StateStream, Worker, WorkerState};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use worker::{LocalWorker, RawWorker};

use self::follow::{Followed, Tally, follow};
use self::guest::Guest;
use self::orders::{Order, Orders};
use self::samples::{Sample, Trend, resident_kibibytes};
use super::say;

/// Random load with cancels, choices, formats, adapters and pauses: memory stays flat, and every block comes back
#[derive(Args)]
pub(crate) struct Soak {
    /// How long the load lasts
    #[arg(long, default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,
    /// What the load is drawn with
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// An engine, and what is known of it.
struct Site {
    itself: Arc<dyn Worker>,
    over_link: Arc<dyn Worker>,
    states: StateStream,
    state: WorkerState,
    /// The adapter that comes and goes.
    guest: Guest,
}

/// Load on a site.
struct Load {
    site: Site,
    orders: Orders,
    running: JoinSet<Followed>,
    tally: Tally,
    /// States whose accounts did not add up.
    unowned: u64,
}

impl Soak {
    /// `true` if memory stayed where it was, and nothing was left.
    pub(crate) async fn run(&self) -> anyhow::Result<bool> {
        let Self { minutes, seed } = self;
        say(&format!("\nsoak: {minutes} minutes of random load, seed {seed}"));
        let mut load = Load::start(*seed).await?;
        let samples = load.last(Duration::from_secs_f64(minutes * 60.0)).await?;
        let quiet = load.end().await?;
        say("");
        say(&load.tally.table());
        say(&accounts(&load.site.state.accounts));
        let mut checks = load.checks(quiet);
        checks.push(flat(&samples));
        for (held, what) in &checks {
            say(&format!("{}  {what}", if *held { "pass" } else { "FAIL" }));
        }
        for wrong in load.tally.wrong.iter().take(MAX_TOLD) {
            say(&format!("      {wrong}"));
        }
        Ok(checks.iter().all(|(held, _)| *held))
    }
}

impl Site {
    async fn start() -> anyhow::Result<Self> {
        let mut settings = RawWorker::demo().check()?;
        settings.engine.kv_blocks = Some(KV_BLOCKS);
        settings.engine.max_sequences = MAX_SEQUENCES;
        settings.engine.max_waiting = MAX_WAITING;
        let load = move || {
            let (name, rent) = (&settings.model_name, settings.rent);
            LocalWorker::start(name, &settings.model, settings.engine.clone(), rent, &mut |_| {})
        };
        let worker = Arc::new(tokio::task::spawn_blocking(load).await??);
        guest::stays(&worker)?;
        let guest = Guest::arrives(Arc::clone(&worker))?;
        let over_link = Arc::clone(&worker).over_pipes();
        let mut states = worker.watch().await?;
        let state = states.next().await.context("the worker tells no state")?;
        Ok(Self { itself: worker, over_link, states, state, guest })
    }
}

impl Load {
    async fn start(seed: u64) -> anyhow::Result<Self> {
        let site = Site::start().await?;
        let models = site.state.models.clone();
        ensure!(
            models.len() == 3,
            "the worker serves {} models, not one and two adapters",
            models.len()
        );
        let orders = Orders::new(seed, models, site.guest.digest().clone());
        Ok(Self { site, orders, running: JoinSet::new(), tally: Tally::default(), unowned: 0 })
    }

    /// Keeps the load up for so long.
    async fn last(&mut self, time: Duration) -> anyhow::Result<Vec<Sample>> {
        let began = Instant::now();
        let mut seen = tokio::time::interval(SAMPLE_EVERY.min(time / MIN_SAMPLES));
        seen.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let say_every = (time / LINES).clamp(MIN_LINE, MAX_LINE);
        let (mut samples, mut say_at) = (Vec::new(), say_every);
        let mut next = began;
        let mut turns = tokio::time::interval(GUEST_TURNS);
        say(HEADER);
        while began.elapsed() < time {
            tokio::select! {
                _ = seen.tick() => {
                    let sample = self.sample(began.elapsed())?;
                    samples.push(sample);
                    if sample.at >= say_at {
                        say_at += say_every;
                        say(&row(&sample, &self.tally));
                    }
                }
                _ = turns.tick() => self.site.guest.turn().await?,
                Some(followed) = self.running.join_next() => self.note(followed?),
                Some(state) = self.site.states.next() => self.see(state),
                () = tokio::time::sleep_until(next), if self.running.len() < MAX_AT_A_TIME => {
                    self.order();
                    next = Instant::now() + self.orders.pause();
                }
            }
        }
        Ok(samples)
    }

    fn sample(&self, at: Duration) -> anyhow::Result<Sample> {
        let WorkerState { free_blocks, running, waiting, .. } = self.site.state;
        Ok(Sample { at, kibibytes: resident_kibibytes()?, free_blocks, running, waiting })
    }

    fn order(&mut self) {
        for order in self.orders.next() {
            self.spawn(order);
        }
    }

    fn spawn(&mut self, order: Order) {
        let worker = if order.over_link { &self.site.over_link } else { &self.site.itself };
        self.running.spawn(follow(Arc::clone(worker), order));
    }

    fn note(&mut self, followed: Followed) {
        self.tally.add(followed.tally);
        if let Some((start, output)) = followed.written {
            self.orders.keep(start, output);
        }
    }

    fn see(&mut self, state: WorkerState) {
        self.unowned += u64::from(state.accounts.owned() != state.accounts.wall);
        self.site.state = state;
    }

    /// Lets everything end, and waits until the worker has nothing left; whether that came.
    async fn end(&mut self) -> anyhow::Result<bool> {
        let deadline = tokio::time::sleep(END_LIMIT);
        tokio::pin!(deadline);
        while !self.running.is_empty() || !is_quiet(&self.site.state) {
            tokio::select! {
                Some(followed) = self.running.join_next() => self.note(followed?),
                Some(state) = self.site.states.next() => self.see(state),
                () = &mut deadline => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What must hold, and whether it does.
    fn checks(&self, quiet: bool) -> Vec<(bool, String)> {
        let WorkerState { free_blocks, total_blocks, running, waiting, accounts, .. } =
            &self.site.state;
        let Tally { billable, left_over_link, wrong, .. } = &self.tally;
        let (read, booked) = (billable.nanos(), accounts.requests.nanos());
        // Whoever left while the link had read the end already was told of in time, and did not hear it.
        let told = read == booked || (read < booked && *left_over_link > 0);
        vec![
            (wrong.is_empty(), format!("nothing went wrong in a sequence ({} did)", wrong.len())),
            (quiet, format!("all is quiet: {running} run, {waiting} wait")),
            (
                free_blocks == total_blocks,
                format!("{free_blocks} of {total_blocks} blocks are free"),
            ),
            (self.unowned == 0, "all accounts are the wall time, in every state told".to_owned()),
            (told, format!("ends told of {read} ns, the account of requests has {booked} ns")),
        ]
    }
}

impl Tally {
    fn table(&self) -> String {
        let endings = self.endings.iter().map(|(name, count)| format!("  {name:<20}{count:>12}\n"));
        format!(
            "{:<22}{:>12}\n{}{:<22}{:>12}\n{:<22}{:>12}\n{:<22}{:>12}\n{:<22}{:>12}\n{:<22}{:>12}",
            "sequences",
            self.sequences,
            endings.collect::<String>(),
            "continued",
            self.continued,
            "waits for payment",
            self.paused,
            "prompt tokens",
            self.prompt_tokens,
            "of them cached",
            self.cached_tokens,
            "output tokens",
            self.output_tokens,
        )
    }
}

fn is_quiet(state: &WorkerState) -> bool {
    state.running == 0 && state.waiting == 0 && state.free_blocks == state.total_blocks
}

fn flat(samples: &[Sample]) -> (bool, String) {
    let Some(Trend { growth, slope }) = Trend::of(samples) else {
        return (false, "memory was not seen often enough".to_owned());
    };
    let (growth, most) = (100.0 * growth, 100.0 * MAX_GROWTH);
    let text = format!(
        "memory of the last third against the second third: {growth:+.2} % (below {most} %), {slope:+.0} KiB/min"
    );
    (growth < most, text)
}

fn row(sample: &Sample, tally: &Tally) -> String {
    format!(
        "{:>8.1}{:>12.1}{:>8}{:>10}{:>10}{:>12}{:>12}{:>10}{:>10}",
        sample.at.as_secs_f64() / 60.0,
        sample.kibibytes as f64 / 1024.0,
        sample.free_blocks,
        sample.running,
        sample.waiting,
        tally.sequences,
        tally.output_tokens,
        tally.ended("reader left"),
        tally.ended("refused: full"),
    )
}

fn accounts(accounts: &Accounts) -> String {
    let Accounts { requests, idle, overhead, preemption, migration, hedge, abandoned, wall } =
        accounts;
    let accounts = [
        ("requests", requests),
        ("idle", idle),
        ("overhead", overhead),
        ("preemption", preemption),
        ("migration", migration),
        ("hedge", hedge),
        ("abandoned", abandoned),
        ("wall", wall),
    ];
    let line = |(name, time): (&str, &domain::GpuTime)| {
        format!("  {name:<20}{:>10.3} s\n", time.nanos() as f64 / 1e9)
    };
    format!("time\n{}", accounts.map(line).concat())
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if minutes > 0.0 && minutes <= MAX_MINUTES => Ok(minutes),
        _ => Err(format!("must be a number above 0, at most {MAX_MINUTES}")),
    }
}

const HEADER: &str =
    " minutes         MiB    free   running   waiting   sequences      tokens      left      full";
/// Room for some of what runs at a time: the others wait or give way.
const KV_BLOCKS: u32 = 128;
const MAX_SEQUENCES: u32 = 24;
const MAX_WAITING: u32 = 24;
const MAX_AT_A_TIME: usize = 80;
const MAX_MINUTES: f64 = 10_000.0;
/// How long an adapter stays, and how long it is away.
const GUEST_TURNS: Duration = Duration::from_secs(3);
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const MIN_SAMPLES: u32 = 30;
const LINES: u32 = 30;
const MIN_LINE: Duration = Duration::from_secs(5);
const MAX_LINE: Duration = Duration::from_mins(1);
/// How much more memory the last third may have than the second.
const MAX_GROWTH: f64 = 0.05;
const END_LIMIT: Duration = Duration::from_mins(1);
/// How many of the things that went wrong are told.
const MAX_TOLD: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_left_of_a_few_hundred_orders() {
        let mut load = Load::start(1).await.unwrap();
        for order in 0..300 {
            load.order();
            if order % 30 == 29 {
                load.site.guest.turn().await.unwrap();
            }
            while load.running.len() >= MAX_SEQUENCES as usize {
                let followed = load.running.join_next().await.unwrap().unwrap();
                load.note(followed);
            }
        }
        let quiet = load.end().await.unwrap();

        let failed: Vec<_> = load.checks(quiet).into_iter().filter(|(held, _)| !held).collect();
        assert!(failed.is_empty(), "{failed:?}: {:?}", load.tally.wrong);
        assert!(load.tally.output_tokens > 0 && load.tally.continued > 0);
        assert!(load.tally.ended("refused: away") > 0, "{:?}", load.tally.endings);
    }
}
