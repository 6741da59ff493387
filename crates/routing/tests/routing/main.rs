//! The router, over scripted workers: balancing, refusals, and streams that go on elsewhere.

mod actor;
mod contexts;
mod crowds;
mod embedding;
mod hedging;
mod liars;
mod members;
mod models;
mod queueing;
mod stops;

use std::sync::Arc;
use std::time::Duration;

use domain::{
    ErrorKind, FinishReason, Format, GpuTime, Job, JobParts, ModelDigest, ModelFiles, ModelInfo,
    ModelName, NanoUsd, OutputRules, OwnBound, Price, ProjectId, RequestId, Sampling, Share,
};
use proptest::prelude::*;
use proto::{ScriptedWorker, Worker};
use routing::{Answer, Piece, RouteError, Router, RouterSettings, Used};
use tokio_util::task::AbortOnDropHandle;

/// A router over scripted workers that all serve the same model.
struct Fleet {
    router: Arc<Router>,
    workers: Vec<Arc<ScriptedWorker>>,
    _followers: Vec<AbortOnDropHandle<()>>,
}

impl Fleet {
    async fn new(capacities: &[u32]) -> Self {
        let worker = |capacity: &u32| Arc::new(ScriptedWorker::new(info(), files(), *capacity));
        Self::of(capacities.iter().map(worker).collect()).await
    }

    async fn of(workers: Vec<Arc<ScriptedWorker>>) -> Self {
        let named = workers.iter().enumerate();
        let named =
            named.map(|(at, worker)| (format!("w{at}"), Arc::clone(worker) as Arc<dyn Worker>));
        let patience = Duration::from_secs(3);
        let settings =
            RouterSettings { patience, cold_start_patience: patience, ..RouterSettings::default() };
        let router = Router::new(named, settings);
        let followers = router.follow();
        while router.workers().iter().any(|(_, state)| state.is_none()) {
            router.changed().await;
        }
        Self { router, workers, _followers: followers }
    }

    async fn dispatch(&self, job: &Job) -> Result<Answer, RouteError> {
        self.router.dispatch(job, job.max_output()).await
    }
}

fn info() -> ModelInfo {
    ScriptedWorker::of_some_model(1).info().clone()
}

fn files() -> ModelFiles {
    ModelFiles { tokenizer: (*b"{}").into(), chat_template: None }
}

fn job(max_output: u32) -> Job {
    job_of(&info(), max_output)
}

fn job_of(model: &ModelInfo, max_output: u32) -> Job {
    job_in(model, max_output, Format::Text)
}

fn job_in(model: &ModelInfo, max_output: u32, format: Format) -> Job {
    Job::new(JobParts {
        request: RequestId::generate(),
        model: model.name.clone(),
        digest: model.digest.clone(),
        context_length: 4096,
        prompt: vec![1, 2, 3].into(),
        max_output: Some(max_output),
        choices: 1,
        sampling: Sampling::greedy(),
        output: OutputRules { format, ..OutputRules::default() },
        stop: Vec::new(),
        share: Share::of(ProjectId::generate()),
        reproducible: true,
        price: Price::GpuTime { per_hour: NanoUsd::from_dollars(1), markup_percent: 100 },
        bound: OwnBound::default(),
    })
    .unwrap()
}

async fn read(answer: &mut Answer) -> Result<(Vec<u32>, FinishReason), RouteError> {
    let mut tokens = Vec::new();
    loop {
        match answer.next().await? {
            Piece::Tokens { ids, .. } => tokens.extend(ids),
            Piece::Finished(reason) => return Ok((tokens, reason)),
        }
    }
}

fn undisturbed(fleet: &Fleet, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|at| fleet.workers[0].token(&[1, 2, 3], at)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_what_the_worker_says() {
    let fleet = Fleet::new(&[2]).await;

    let mut answer = fleet.dispatch(&job(10)).await.unwrap();
    let (tokens, reason) = read(&mut answer).await.unwrap();

    assert_eq!(tokens, undisturbed(&fleet, 10));
    assert_eq!(reason, FinishReason::Length);
    let used = answer.used();
    assert_eq!((used.usage.prompt_tokens, used.usage.completion_tokens), (3, 10));
    // Ten milliseconds at a dollar an hour, rounded up.
    assert_eq!(used.cost, NanoUsd::from_nanos(2_778));
}

#[tokio::test(start_paused = true)]
async fn the_least_loaded_worker_is_asked_first() {
    let fleet = Fleet::new(&[10, 10, 10]).await;

    let mut answers = Vec::new();
    for _ in 0..9 {
        answers.push(fleet.router.dispatch(&job(10), 1).await.unwrap());
    }

    let on = |name| answers.iter().filter(|answer| answer.worker() == name).count();
    assert_eq!([on("w0"), on("w1"), on("w2")], [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_full_worker_sends_the_request_elsewhere_and_a_full_fleet_makes_it_wait() {
    let fleet = Fleet::new(&[1, 1]).await;
    let first = fleet.router.dispatch(&job(10), 1).await.unwrap();
    let _second = fleet.router.dispatch(&job(10), 1).await.unwrap();

    let waiting = tokio::spawn({
        let router = Arc::clone(&fleet.router);
        async move { router.dispatch(&job(10), 10).await.map(|answer| answer.worker().to_owned()) }
    });
    tokio::task::yield_now().await;
    let freed = first.worker().to_owned();
    drop(first);

    assert_eq!(waiting.await.unwrap().unwrap(), freed);
}

#[tokio::test(start_paused = true)]
async fn patience_ends_with_an_honest_answer() {
    let fleet = Fleet::new(&[1]).await;
    let _running = fleet.router.dispatch(&job(10), 1).await.unwrap();

    let refused = fleet.dispatch(&job(10)).await.err().unwrap();

    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert!(refused.retry_in().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_draining_worker_is_left_alone() {
    let fleet = Fleet::new(&[10, 10]).await;
    fleet.workers[0].drain(None).await.unwrap();

    for _ in 0..4 {
        assert_eq!(fleet.dispatch(&job(1)).await.unwrap().worker(), "w1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_elsewhere_without_a_gap_or_a_repeat() {
    let fleet = Fleet::new(&[10, 10]).await;
    let other = fleet.router.dispatch(&job(10), 1).await.unwrap();
    let emptier = usize::from(other.worker() == "w0");
    fleet.workers[emptier].break_next_after(4);

    let mut answer = fleet.dispatch(&job(10)).await.unwrap();
    assert_eq!(answer.worker(), format!("w{emptier}"));
    let (tokens, reason) = read(&mut answer).await.unwrap();

    assert_eq!(tokens, undisturbed(&fleet, 10));
    assert_eq!((reason, answer.worker()), (FinishReason::Length, other.worker()));
    let Used { usage, cost } = answer.used();
    assert_eq!(usage.completion_tokens, 10);
    let millis = |millis: u64| GpuTime::from_nanos(millis * 1_000_000);
    assert_eq!(usage.times.recompute, millis(1), "computing again is not the tenant's");
    assert_eq!(
        (usage.gpu, usage.times.prefill, usage.times.decode),
        (millis(10), millis(1), millis(9))
    );
    // Four and six milliseconds at a dollar an hour, each rounded up.
    assert_eq!(cost, NanoUsd::from_nanos(1_112 + 1_667));
}

#[tokio::test(start_paused = true)]
async fn a_sequence_that_breaks_everywhere_is_given_up() {
    let fleet = Fleet::new(&[10, 10]).await;
    for worker in &fleet.workers {
        for _ in 0..4 {
            worker.break_next_after(1);
        }
    }

    let mut answer = fleet.dispatch(&job(10)).await.unwrap();
    let failed = read(&mut answer).await.unwrap_err();

    assert_eq!(failed.kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn dropping_an_answer_frees_the_worker() {
    let fleet = Fleet::new(&[1]).await;
    let answer = fleet.router.dispatch(&job(10), 1).await.unwrap();

    drop(answer);

    assert!(fleet.dispatch(&job(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_model_nobody_serves_has_no_worker() {
    let fleet = Fleet::new(&[1]).await;
    let mut parts_job = job(1);
    parts_job = Job::new(JobParts {
        request: parts_job.request(),
        model: ModelName::new("other"),
        digest: ModelDigest::new("other"),
        context_length: 10,
        prompt: vec![1].into(),
        max_output: Some(1),
        choices: 1,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        stop: Vec::new(),
        share: Share::of(ProjectId::generate()),
        reproducible: false,
        price: *parts_job.price(),
        bound: OwnBound::default(),
    })
    .unwrap();

    let refused = fleet.dispatch(&parts_job).await.err().unwrap();

    assert!(matches!(refused, RouteError::NoWorker { .. }), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn wherever_workers_vanish_the_client_reads_the_same(
        breaks in prop::collection::vec(0_u32..12, 0..3),
        length in 1_u32..30,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let fleet = Fleet::new(&[4, 4]).await;
            for after in &breaks {
                fleet.workers[0].break_next_after(*after);
                fleet.workers[1].break_next_after(*after);
            }
            let mut answer = fleet.dispatch(&job(length)).await.unwrap();
            // Two workers that break up to three times each can use up every attempt.
            if let Ok((tokens, _)) = read(&mut answer).await {
                prop_assert_eq!(tokens, undisturbed(&fleet, length));
            } else {
                prop_assert!(breaks.len() > 1, "one break each leaves attempts to spare");
            }
            prop_assert!(answer.used().usage.completion_tokens <= length);
            Ok(())
        })?;
    }
}
