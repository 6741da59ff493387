//! Prints what guessed tokens save on this machine, and what they cost where they are wrong: pairs of runs with and
//! without, by turns, and the medians of their ratios. `cargo bench -p engine --bench lookup`; with a number (`-- 1`), only
//! with that many streams.
//!
//! The machine is usually shared, so single times say little; nothing here is a gate.

use std::time::{Duration, Instant};

use domain::{CacheSalt, ModelName, OutputRules, ProjectId, Sampling, Share};
use engine::{Engine, EngineConfig, Event, Model, ModelSource, Request, Sequence};

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let chosen: Option<u32> = std::env::args().find_map(|argument| argument.parse().ok());
    for threads in [1, 2] {
        for text in [Text::Repetitive, Text::Lively, Text::Drawn] {
            for streams in [1, 4, 16] {
                if chosen.is_none_or(|chosen| chosen == streams) {
                    runtime.block_on(compare(threads, text, streams));
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Text {
    /// A passage again and again, continued greedily.
    Repetitive,
    /// A story, in the model's own words until it loops.
    Lively,
    /// Tokens drawn at a temperature at which hardly anything is said twice.
    Drawn,
}

/// What a run took.
struct Run {
    time: Duration,
    /// Charged to all its sequences.
    charged: f64,
}

#[expect(clippy::print_stdout, reason = "the output is the purpose")]
async fn compare(threads: u32, text: Text, streams: u32) {
    let config = EngineConfig { compute_threads: threads, ..EngineConfig::default() };
    let plain = start(&EngineConfig { lookup: false, ..config.clone() });
    let guessing = start(&config);
    let (mut faster, mut dearer, mut rates) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    let mut noise = Vec::new();
    for round in 0..=ROUNDS {
        // Who is first takes turns, and what is the same twice tells what a ratio is worth.
        let before = run(&plain, text, streams, round).await;
        let with = run(&guessing, text, streams, round).await;
        let after = run(&plain, text, streams, round).await;
        if round == 0 {
            // The first round fills caches.
            continue;
        }
        noise.push(before.time.as_secs_f64() / after.time.as_secs_f64());
        let without = if round % 2 == 0 { before } else { after };
        let rate = |run: &Run| f64::from(streams * text.output()) / run.time.as_secs_f64();
        rates[0].push(rate(&without));
        rates[1].push(rate(&with));
        faster.push(rate(&with) / rate(&without));
        dearer.push(with.charged / without.charged);
    }
    let state = guessing.state();
    println!(
        "{text:?}, {streams} stream(s), {threads} thread(s): {:.0} tokens/s without, {:.0} with; \
         {:.3} times as fast (plain beside plain {:.3}), charged {:.3} times as much; \
         {} of {} guesses right",
        median(&mut rates[0]),
        median(&mut rates[1]),
        median(&mut faster),
        median(&mut noise),
        median(&mut dearer),
        state.accepted_tokens,
        state.drafted_tokens,
    );
}

async fn run(engine: &Engine, text: Text, streams: u32, round: u32) -> Run {
    let begin = Instant::now();
    let requests = (0..streams).map(|stream| text.request(stream, round));
    let sequences: Vec<Sequence> =
        requests.map(|request| engine.submit(request).expect("room")).collect();
    let mut charged = 0.0;
    for mut sequence in sequences {
        while let Some(event) = sequence.next().await {
            assert!(!matches!(event, Event::Failed { .. }));
            charged += event.usage().map_or(0.0, |usage| usage.gpu.nanos() as f64);
        }
    }
    Run { time: begin.elapsed(), charged }
}

impl Text {
    const fn output(self) -> u32 {
        match self {
            Self::Repetitive | Self::Drawn => 200,
            Self::Lively => 120,
        }
    }

    fn request(self, stream: u32, round: u32) -> Request {
        let prompt: Vec<u32> = match self {
            Self::Repetitive => {
                let passage = (0..24).map(|at| 300 + (at * 37 + stream * 11) % 3_000);
                passage.collect::<Vec<u32>>().repeat(5)
            }
            Self::Lively => story(),
            Self::Drawn => (0..40).map(|at| 300 + stream * 13 + at * 7).collect(),
        };
        let (temperature, seed) = match self {
            Self::Repetitive => (0.0, 0),
            Self::Lively => (0.7, u64::from(stream + 100 * round)),
            Self::Drawn => (1.5, u64::from(stream + 100 * round)),
        };
        Request {
            prompt: prompt.into(),
            generated: Vec::new(),
            max_output: self.output(),
            allowance: self.output(),
            sampling: Sampling { temperature, seed, ..Sampling::greedy() },
            output: OutputRules { ignore_eos: true, ..OutputRules::default() },
            share: Share::of(ProjectId::from_u128(1)),
            salt: CacheSalt::from_bytes([1; 16]),
            adapter: None,
        }
    }
}

/// The prompt of a story, from the demo model's golden cases.
fn story() -> Vec<u32> {
    let text = include_str!("../demo-model/golden.json");
    let golden: serde_json::Value = serde_json::from_str(text).expect("cases");
    let cases = golden["cases"].as_array().expect("cases");
    let is_story = |case: &&serde_json::Value| {
        case["prompt"].as_str().is_some_and(|prompt| prompt.contains("Tell me a story"))
    };
    let case = cases.iter().find(is_story).expect("a story");
    let ids = case["prompt_token_ids"].as_array().expect("tokens");
    ids.iter().map(|id| id.as_u64().expect("a token") as u32).collect()
}

fn start(config: &EngineConfig) -> Engine {
    let model = Model::load(ModelName::new("demo"), &ModelSource::Demo, &mut |_| {});
    Engine::start(model.expect("demo model"), config.clone()).expect("start")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

const ROUNDS: u32 = 15;
