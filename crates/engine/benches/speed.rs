//! Prints how fast the engine is on this machine: `cargo bench -p engine --bench speed`; with a number
//! (`-- 16`), only the generation with that many streams.
//!
//! Figures are the best of several runs, because the machine is usually shared; nothing here is a gate.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{CacheSalt, ModelName, OutputRules, ProjectId, Sampling, Share};
use engine::kernels::DenseBench;
use engine::{Engine, EngineConfig, Event, Model, ModelSource, Request, Sequence};

fn main() {
    let chosen = std::env::args().find_map(|argument| argument.parse().ok());
    if chosen.is_none() {
        multiplication();
        loading();
        attribution();
        prefix();
    }
    for threads in [1, 2] {
        generation(threads, chosen.as_ref().map_or(&[1, 4, 16, 32], std::slice::from_ref));
    }
}

/// GFLOP/s of the dense multiplication with f16 weights.
#[expect(clippy::print_stdout, reason = "the output is the purpose")]
fn multiplication() {
    for (outputs, inputs) in [(1024, 256), (256, 768), (4096, 256), (2048, 2048)] {
        for threads in [1, 2] {
            let bench = DenseBench::new(outputs, inputs, threads).expect("weights");
            let mut line = format!("dense f16 [{outputs} x {inputs}], {threads} thread(s):");
            for rows in [1, 4, 8, 16, 64] {
                let time = best(30, || bench.run(rows).expect("multiply"));
                let operations = 2.0 * (rows * outputs * inputs) as f64;
                let figure = operations / time.as_nanos() as f64;
                line = format!("{line}  m={rows}: {figure:.0}");
            }
            println!("{line} GFLOP/s");
        }
    }
}

#[expect(clippy::print_stdout, reason = "the output is the purpose")]
fn loading() {
    let time = best(5, || {
        black_box(demo());
    });
    println!("load demo model: {time:.1?}");
}

/// Tokens per second of one stream and of sixteen.
#[expect(clippy::print_stdout, reason = "the output is the purpose")]
fn generation(threads: u32, streams: &[u32]) {
    let config = EngineConfig { compute_threads: threads, ..EngineConfig::default() };
    let engine = Engine::start(demo(), config).expect("start");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    for &streams in streams {
        let time = best(4, || runtime.block_on(run(&engine, streams)));
        let tokens = f64::from(streams * OUTPUT);
        println!(
            "{streams} stream(s), {threads} thread(s): {:.0} tokens/s, {:.2} ms/step",
            tokens / time.as_secs_f64(),
            time.as_secs_f64() * 1e3 / f64::from(OUTPUT),
        );
    }
    let accounts = engine.state().accounts;
    println!("accounts with {threads} thread(s): {accounts:?}");
}

/// How well the work model predicts steps: after calibration, after a first mixed load, and in the end; and
/// what is left of the step thread's time for our own doings.
#[expect(clippy::print_stdout, reason = "the output is the purpose")]
fn attribution() {
    for threads in [1, 2] {
        let config = EngineConfig { compute_threads: threads, ..EngineConfig::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let engine = Engine::start(demo(), config).expect("start");
        let mut states = engine.watch();
        let ready = runtime.block_on(states.wait_for(|state| state.total_blocks > 0));
        let ready = *ready.expect("engine");
        let mut line = format!(
            "attribution, {threads} thread(s): calibrated in {:.1} ms, off by {:.1} %",
            ready.accounts.wall.nanos() as f64 / 1e6,
            f64::from(ready.attribution_error_ppm) / 1e4,
        );
        for round in 0..6 {
            runtime.block_on(mixed(&engine, round));
            let off = f64::from(engine.state().attribution_error_ppm) / 1e4;
            line = format!("{line}, {off:.1} %");
        }
        println!("{line}");
        let accounts = engine.state().accounts;
        let requests = accounts.requests.nanos() as f64;
        let overhead = (accounts.overhead.nanos() - ready.accounts.overhead.nanos()) as f64;
        println!("overhead beside requests: {:.2} %", overhead / requests * 100.0);
    }
}

/// How much less of the machine a prompt of 1500 tokens takes up to its first token when the cache holds it.
#[expect(clippy::print_stdout, reason = "the output is the purpose")]
fn prefix() {
    let engine = Engine::start(demo(), EngineConfig::default()).expect("start");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let prompt: Arc<[u32]> = (0..1_500).map(|position| 300 + position % 3_000).collect();
    let shared = Request { prompt, max_output: 1, allowance: 1, ..request(0) };
    let mut took = Vec::new();
    for _ in 0..2 {
        let mut sequence = engine.submit(shared.clone()).expect("room");
        let usage = runtime.block_on(async {
            loop {
                let event = sequence.next().await.expect("an end");
                if let Some(usage) = event.usage() {
                    return *usage;
                }
            }
        });
        took.push(usage.times.prefill.nanos() as f64 / 1e6);
        println!(
            "prompt of 1500 tokens, {} cached: {:.1} ms",
            usage.cached_tokens,
            took[took.len() - 1]
        );
    }
    println!("first token after {:.1} times less", took[0] / took[1]);
}

/// Prompts and outputs of all lengths, a few at a time.
async fn mixed(engine: &Engine, round: u32) {
    let mut sequences = std::collections::VecDeque::new();
    for number in 0..60 {
        let draw = |salt: u32| (round * 60 + number).wrapping_mul(2_654_435_761).rotate_left(salt);
        let (prompt, output) = (1 + draw(7) % 700, 1 + draw(19) % 120);
        let prompt: Arc<[u32]> = (0..prompt).map(|position| 300 + position % 3_000).collect();
        let request = Request { prompt, max_output: output, allowance: output, ..request(number) };
        sequences.push_back(engine.submit(request).expect("room"));
        if sequences.len() > 8 {
            read(sequences.pop_front().expect("there are some")).await;
        }
    }
    for sequence in sequences {
        read(sequence).await;
    }
}

async fn run(engine: &Engine, streams: u32) {
    let mut sequences = Vec::new();
    for stream in 0..streams {
        sequences.push(engine.submit(request(stream)).expect("room"));
    }
    for sequence in sequences {
        read(sequence).await;
    }
}

async fn read(mut sequence: Sequence) {
    while let Some(event) = sequence.next().await {
        assert!(!matches!(event, Event::Failed { .. }));
    }
}

fn request(stream: u32) -> Request {
    let prompt: Arc<[u32]> = (0..PROMPT).map(|position| 300 + stream + position).collect();
    Request {
        prompt,
        generated: Vec::new(),
        max_output: OUTPUT,
        allowance: OUTPUT,
        sampling: Sampling::greedy(),
        output: OutputRules { ignore_eos: true, ..OutputRules::default() },
        share: Share::of(ProjectId::from_u128(1)),
        salt: CacheSalt::from_bytes([1; 16]),
        adapter: None,
    }
}

fn demo() -> Model {
    Model::load(ModelName::new("demo"), &ModelSource::Demo, &mut |_| {}).expect("demo model")
}

/// The shortest of `runs` runs, after one to warm up.
fn best(runs: u32, mut work: impl FnMut()) -> Duration {
    work();
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..runs).map(|_| time(&mut work)).min().unwrap_or_default()
}

const PROMPT: u32 = 32;
const OUTPUT: u32 = 200;
