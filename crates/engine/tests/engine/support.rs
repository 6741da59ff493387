//! Short ways to load, ask and collect.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::{
    CacheSalt, FinishReason, GpuTime, Logprobs, ModelName, OutputRules, ProjectId, Sampling, Share,
    Usage,
};
use engine::{Engine, EngineConfig, EngineState, Event, Model, ModelSource, Request, Sequence};
use serde::Deserialize;

/// Everything a sequence sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    pub(crate) logprobs: Vec<Logprobs>,
    pub(crate) reason: FinishReason,
    pub(crate) usage: Usage,
    /// Time in the events with tokens.
    pub(crate) gpu: GpuTime,
}

/// One case of `golden.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt_token_ids: Vec<u32>,
    completion_token_ids: Vec<u32>,
    pub(crate) finish_reason: String,
}

impl Case {
    /// Room for the completion and the stop token, so that a missed stop shows.
    pub(crate) fn max_output(&self) -> u32 {
        self.completion_token_ids.len() as u32
    }

    /// The completion without the stop token.
    pub(crate) fn completion(&self) -> &[u32] {
        match self.finish_reason.as_str() {
            "stop" => &self.completion_token_ids[..self.completion_token_ids.len() - 1],
            _ => &self.completion_token_ids,
        }
    }
}

pub(crate) fn golden() -> Vec<Case> {
    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }
    let text = std::fs::read(demo_file("golden.json")).unwrap();
    serde_json::from_slice::<Golden>(&text).unwrap().cases
}

pub(crate) fn demo_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-model").join(name)
}

pub(crate) fn load(source: &ModelSource) -> Model {
    Model::load(ModelName::new("demo"), source, &mut |_| {}).unwrap()
}

pub(crate) fn start(config: EngineConfig) -> Engine {
    Engine::start(load(&ModelSource::Demo), config).unwrap()
}

pub(crate) fn gguf(path: PathBuf) -> ModelSource {
    ModelSource::Gguf { weights: path, tokenizer: demo_file("tokenizer.json") }
}

pub(crate) fn request(prompt: &[u32], max_output: u32) -> Request {
    Request {
        prompt: Arc::from(prompt),
        generated: Vec::new(),
        max_output,
        allowance: max_output,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        share: Share::of(ProjectId::from_u128(1)),
        salt: CacheSalt::from_bytes([1; 16]),
        adapter: None,
    }
}

pub(crate) fn ignoring_eos() -> OutputRules {
    OutputRules { ignore_eos: true, ..OutputRules::default() }
}

/// A request that runs until it is stopped, as far as a test can tell.
pub(crate) fn endless() -> Request {
    Request { output: ignoring_eos(), ..request(&[4088, 280, 198], 1_900) }
}

/// Reads until the end; events must be gapless.
pub(crate) async fn collect(sequence: &mut Sequence) -> Answer {
    let (mut ids, mut logprobs, mut gpu, mut start) = (Vec::new(), Vec::new(), GpuTime::ZERO, None);
    loop {
        let event = tokio::time::timeout(DEADLINE, sequence.next()).await;
        let event = event.expect("the engine makes progress");
        match event.expect("a sequence ends with an event that says so") {
            Event::Tokens { first, ids: more, gpu: time, logprobs: told, .. } => {
                let start = *start.get_or_insert(first);
                assert_eq!(first as usize, start as usize + ids.len(), "no gaps");
                assert!(!more.is_empty());
                assert!(told.is_empty() || told.len() == more.len());
                ids.extend(more);
                logprobs.extend(told);
                gpu += time;
            }
            Event::Finished { reason, usage } => {
                assert_eq!(sequence.next().await, None);
                return Answer { ids, logprobs, reason, usage, gpu };
            }
            Event::Failed { failure, .. } => panic!("{failure}"),
        }
    }
}

pub(crate) async fn answer(engine: &Engine, request: Request) -> Answer {
    collect(&mut engine.start_sequence(request).await.unwrap()).await
}

/// Runs requests at the same time.
pub(crate) async fn answers(engine: &Engine, requests: Vec<Request>) -> Vec<Answer> {
    let mut sequences: Vec<Sequence> = Vec::new();
    for request in requests {
        sequences.push(engine.start_sequence(request).await.unwrap());
    }
    let mut answers = Vec::new();
    for mut sequence in sequences {
        answers.push(collect(&mut sequence).await);
    }
    answers
}

/// What tokens of the demo model say.
pub(crate) fn demo_text(ids: &[u32]) -> String {
    demo_tokenizer().decode(ids, false).unwrap()
}

pub(crate) fn demo_tokenizer() -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(demo_file("tokenizer.json")).unwrap()
}

/// The first reported state that `is` accepts.
pub(crate) async fn until(engine: &Engine, is: impl FnMut(&EngineState) -> bool) -> EngineState {
    let mut states = engine.watch();
    let reached = tokio::time::timeout(DEADLINE, states.wait_for(is)).await;
    *reached.expect("the engine reaches the state").unwrap()
}

/// A test's own runtime: the engine's thread does the work.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Much longer than any test; a test that would hang fails instead.
const DEADLINE: Duration = Duration::from_mins(1);
