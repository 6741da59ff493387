//! What every [`Worker`] must do, as functions to run against each.

use std::sync::Arc;
use std::time::Duration;

use domain::{
    CacheSalt, Capacity, ErrorKind, FinishReason, Format, GpuTime, IncarnationId, Logprobs,
    ModelDigest, NanoUsd, OutputRules, ProjectId, Rent, RequestId, Sampling, Share, Usage,
};
use futures_util::StreamExt;
use proto::{Event, Generation, Start, StateStream, Worker, WorkerError, WorkerState};

/// A worker under test. It serves one model and has room for `capacity` sequences in all, running
/// and waiting.
pub(crate) struct Subject {
    pub(crate) worker: Arc<dyn Worker>,
    pub(crate) model: ModelDigest,
    pub(crate) capacity: usize,
}

impl Subject {
    pub(crate) fn start(&self, max_output: u32) -> Start {
        Start {
            request: RequestId::generate(),
            model: self.model.clone(),
            prompt: vec![5, 6, 7].into(),
            generated: Vec::new(),
            max_output,
            allowance: max_output,
            // Bias keeps a real model from ending its turn by itself.
            sampling: Sampling { logit_bias: vec![(4087, -100.0), (4089, -100.0)], ..sampled() },
            output: OutputRules::default(),
            share: Share::of(ProjectId::from_u128(1)),
            salt: CacheSalt::of(ProjectId::from_u128(1)),
        }
    }
}

fn sampled() -> Sampling {
    Sampling { temperature: 1.0, seed: 42, ..Sampling::greedy() }
}

/// Everything a sequence says: its tokens, and how it ended.
async fn read(generation: &mut Generation, from: u32) -> (Vec<u32>, Option<(FinishReason, Usage)>) {
    let mut tokens = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            Event::Tokens { first, ids, .. } => {
                assert_eq!(first as usize, from as usize + tokens.len(), "no gap and no repeat");
                assert!(!ids.is_empty());
                tokens.extend(ids);
            }
            Event::Finished { reason, usage } => {
                assert_eq!(generation.next().await, None, "nothing follows the end");
                return (tokens, Some((reason, usage)));
            }
            Event::Failed { error, .. } => panic!("the sequence failed: {error}"),
            Event::HandedOver { .. } => panic!("the sequence was handed over"),
        }
    }
    (tokens, None)
}

/// Reads until `count` tokens have come.
async fn read_some(generation: &mut Generation, count: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    while tokens.len() < count {
        match generation.next().await {
            Some(Event::Tokens { ids, .. }) => tokens.extend(ids),
            other => panic!("expected tokens, not {other:?}"),
        }
    }
    tokens
}

/// Waits for the worker to push a state like this.
async fn until(subject: &Subject, wanted: impl Fn(&WorkerState) -> bool) -> WorkerState {
    let mut states = subject.worker.watch().await.unwrap();
    next(&mut states, wanted).await
}

/// Waits for a state like this among those that are still to be pushed.
async fn next(states: &mut StateStream, wanted: impl Fn(&WorkerState) -> bool) -> WorkerState {
    let wait = async {
        while let Some(state) = states.next().await {
            if wanted(&state) {
                return state;
            }
        }
        panic!("the worker stopped pushing its state")
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the worker pushes such a state")
}

pub(crate) async fn a_sequence_produces_what_was_asked_for(subject: Subject) {
    let mut generation = subject.worker.generate(subject.start(20)).await.unwrap();

    let (tokens, end) = read(&mut generation, 0).await;

    let (reason, usage) = end.unwrap();
    assert_eq!(tokens.len(), 20);
    assert_eq!(reason, FinishReason::Length);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 20));
    assert!(usage.gpu.nanos() > 0, "time has an owner");
}

pub(crate) async fn the_same_start_gives_the_same_tokens(subject: Subject) {
    let mut first = subject.worker.generate(subject.start(20)).await.unwrap();
    let mut second = subject.worker.generate(subject.start(20)).await.unwrap();

    assert_eq!(read(&mut first, 0).await.0, read(&mut second, 0).await.0);
}

pub(crate) async fn a_sequence_goes_on_where_another_one_stopped(subject: Subject) {
    let mut whole = subject.worker.generate(subject.start(20)).await.unwrap();
    let (whole, _) = read(&mut whole, 0).await;

    for at in [0, 1, 7, 19, 20] {
        let start = Start { generated: whole[..at].to_vec(), ..subject.start(20) };
        let mut rest = subject.worker.generate(start).await.unwrap();
        let (rest, end) = read(&mut rest, at as u32).await;
        assert_eq!(rest, whole[at..], "continued at {at}");
        assert_eq!(end.unwrap().1.completion_tokens, 20, "what came before counts");
    }
}

pub(crate) async fn a_sequence_waits_when_its_allowance_is_used_up(subject: Subject) {
    let start = Start { allowance: 5, ..subject.start(20) };
    let mut generation = subject.worker.generate(start).await.unwrap();
    let control = generation.control();

    let mut tokens = read_some(&mut generation, 5).await;
    assert_eq!(tokens.len(), 5, "not one token more than was paid for");
    control.extend(3);
    control.extend(9);
    tokens.extend(read_some(&mut generation, 4).await);
    control.stop(FinishReason::Budget);

    let (rest, end) = read(&mut generation, 9).await;
    assert!(rest.is_empty(), "not one token more than was paid for");
    let (reason, usage) = end.unwrap();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Budget, 9));
}

pub(crate) async fn a_stopped_sequence_ends_with_the_reason_it_was_given(subject: Subject) {
    let mut generation = subject.worker.generate(subject.start(1500)).await.unwrap();
    let control = generation.control();

    let began = read_some(&mut generation, 1).await.len();
    control.stop(FinishReason::Stop);
    control.stop(FinishReason::Budget);

    let (rest, end) = read(&mut generation, began as u32).await;
    let (reason, usage) = end.unwrap();
    assert_eq!(reason, FinishReason::Stop, "the first reason counts");
    assert_eq!(usage.completion_tokens as usize, began + rest.len());
}

pub(crate) async fn a_dropped_sequence_frees_its_place(subject: Subject) {
    let mut generation = subject.worker.generate(subject.start(1500)).await.unwrap();
    read_some(&mut generation, 1).await;
    until(&subject, |state| state.running == 1).await;

    drop(generation);

    let state = until(&subject, |state| state.running == 0).await;
    assert_eq!(state.free_blocks, state.total_blocks);
}

pub(crate) async fn a_dropped_sequence_that_waits_for_its_allowance_frees_its_place(
    subject: Subject,
) {
    let start = Start { allowance: 1, ..subject.start(1500) };
    let mut generation = subject.worker.generate(start).await.unwrap();
    read_some(&mut generation, 1).await;

    drop(generation);

    until(&subject, |state| state.running == 0).await;
}

pub(crate) async fn a_full_worker_refuses_and_has_room_again(subject: Subject) {
    let mut running = Vec::new();
    let mut refused = None;
    for _ in 0..subject.capacity + 8 {
        let start = Start { allowance: 1, ..subject.start(1500) };
        match subject.worker.generate(start).await {
            Ok(generation) => running.push(generation),
            Err(error) => refused = Some(error),
        }
    }

    assert!(matches!(refused, Some(WorkerError::Full { .. })), "{refused:?}");
    assert!(running.len() <= subject.capacity + 1, "{} were taken", running.len());
    let taken = running.len() as u32;
    until(&subject, |state| state.running + state.waiting == taken).await;
    drop(running);
    until(&subject, |state| state.running == 0 && state.waiting == 0).await;
    assert!(subject.worker.generate(subject.start(1)).await.is_ok());
}

pub(crate) async fn a_draining_worker_finishes_what_it_has_and_takes_nothing(subject: Subject) {
    let start = Start { allowance: 2, ..subject.start(10) };
    let mut generation = subject.worker.generate(start).await.unwrap();
    let control = generation.control();
    read_some(&mut generation, 1).await;

    subject.worker.drain(None).await.unwrap();

    let refused = subject.worker.generate(subject.start(1)).await.err();
    assert_eq!(refused, Some(WorkerError::Draining));
    assert!(!until(&subject, |state| !state.takes_work()).await.takes_work());
    control.extend(10);
    while let Some(event) = generation.next().await {
        if let Event::Finished { reason, usage } = event {
            assert_eq!((reason, usage.completion_tokens), (FinishReason::Length, 10));
            return;
        }
    }
    panic!("the sequence was not finished")
}

pub(crate) async fn what_can_never_run_is_refused(subject: Subject) {
    let unknown = ModelDigest::new("another");
    let start = Start { model: unknown.clone(), ..subject.start(1) };
    let refused = subject.worker.generate(start).await.err();
    assert_eq!(refused, Some(WorkerError::ModelNotFound(unknown.clone())));

    let start = Start { prompt: Vec::new().into(), ..subject.start(1) };
    let refused = subject.worker.generate(start).await.err();
    assert!(matches!(refused, Some(WorkerError::Invalid(_))), "{refused:?}");

    let start = Start { max_output: 1 << 30, ..subject.start(1) };
    let refused = subject.worker.generate(start).await.err();
    assert!(matches!(refused, Some(WorkerError::TooLong(_))), "{refused:?}");

    let refused = subject.worker.model_files(&unknown).await.err();
    assert_eq!(refused, Some(WorkerError::ModelNotFound(unknown)));
}

pub(crate) async fn a_worker_tells_what_it_serves(subject: Subject) {
    let state = until(&subject, |state| !state.models.is_empty()).await;

    assert_eq!(state.models[0].digest, subject.model);
    assert!(state.price_per_hour.nanos() > 0);
    let files = subject.worker.model_files(&subject.model).await.unwrap();
    assert!(!files.tokenizer.is_empty());
}

pub(crate) async fn the_workers_time_adds_up(subject: Subject) {
    let mut generation = subject.worker.generate(subject.start(50)).await.unwrap();
    let (_, end) = read(&mut generation, 0).await;

    let usage = end.unwrap().1;
    assert_eq!(usage.gpu, usage.times.prefill + usage.times.decode);
    assert!(usage.times.prefill.nanos() > 0 && usage.times.decode.nanos() > 0, "{usage:?}");
    let state = until(&subject, |state| state.running == 0 && state.accounts.requests == usage.gpu);
    let accounts = state.await.accounts;
    assert_eq!(accounts.owned(), accounts.wall);
    assert_eq!(accounts.abandoned + accounts.migration, GpuTime::ZERO);
}

pub(crate) async fn the_time_of_a_sequence_that_nobody_reads_is_abandoned(subject: Subject) {
    let start = Start { allowance: 5, ..subject.start(1500) };
    let mut generation = subject.worker.generate(start).await.unwrap();
    let used = read_tokens(&mut generation, 5).await;

    drop(generation);

    let state = until(&subject, |state| state.running == 0 && state.accounts.abandoned == used);
    let accounts = state.await.accounts;
    assert_eq!((accounts.requests, accounts.owned()), (GpuTime::ZERO, accounts.wall));
}

pub(crate) async fn a_waived_sequence_ends_and_its_time_is_the_hedges(subject: Subject) {
    let start = Start { allowance: 5, ..subject.start(1500) };
    let mut generation = subject.worker.generate(start).await.unwrap();
    let used = read_tokens(&mut generation, 5).await;

    generation.waive();

    let waived = |state: &WorkerState| state.running == 0 && state.accounts.hedge == used;
    let accounts = until(&subject, waived).await.accounts;
    assert_eq!((accounts.requests, accounts.abandoned), (GpuTime::ZERO, GpuTime::ZERO));
    assert_eq!(accounts.owned(), accounts.wall);
}

pub(crate) async fn a_sequence_that_is_waived_while_it_runs_ends_at_once(subject: Subject) {
    let mut generation = subject.worker.generate(subject.start(1500)).await.unwrap();
    let used = read_tokens(&mut generation, 1).await;

    generation.waive();

    let waived = |state: &WorkerState| state.running == 0 && state.accounts.hedge >= used;
    let accounts = until(&subject, waived).await.accounts;
    assert_eq!((accounts.requests, accounts.abandoned), (GpuTime::ZERO, GpuTime::ZERO));
    assert_eq!(accounts.owned(), accounts.wall);
}

/// Reads at least `count` tokens; the time they took.
async fn read_tokens(generation: &mut Generation, count: usize) -> GpuTime {
    let (mut tokens, mut used) = (0, GpuTime::ZERO);
    while tokens < count {
        let Some(Event::Tokens { ids, gpu, .. }) = generation.next().await else {
            panic!("so many tokens are paid for");
        };
        tokens += ids.len();
        used += gpu;
    }
    used
}

pub(crate) async fn catching_up_with_another_worker_is_not_billed(subject: Subject) {
    let start = Start { generated: vec![8; 30], ..subject.start(40) };
    let mut generation = subject.worker.generate(start).await.unwrap();

    let (_, end) = read(&mut generation, 30).await;

    let usage = end.unwrap().1;
    assert!(usage.times.recompute.nanos() > 0, "{usage:?}");
    assert_eq!((usage.times.prefill, usage.times.decode), (GpuTime::ZERO, usage.gpu));
    let settled = |state: &WorkerState| state.running == 0 && state.accounts.requests == usage.gpu;
    let accounts = until(&subject, settled).await.accounts;
    assert_eq!((accounts.migration, accounts.owned()), (usage.times.recompute, accounts.wall));
}

pub(crate) async fn a_change_of_price_is_pushed_at_once(subject: Subject) {
    let mut states = subject.worker.watch().await.unwrap();
    let mut generation = subject.worker.generate(subject.start(3)).await.unwrap();
    let (_, end) = read(&mut generation, 0).await;
    let gpu = end.unwrap().1.gpu;
    // From here on nothing runs, so that nothing else makes it push.
    let quiet = |state: &WorkerState| state.running == 0 && state.accounts.requests == gpu;
    let before = next(&mut states, quiet).await;
    assert_eq!(before.price_per_hour, NanoUsd::from_dollars(1));
    assert_eq!(before.capacity, Capacity::OnDemand);
    let price = NanoUsd::from_nanos(123_456_789);

    subject.worker.set_price(Rent::new(price, Capacity::Spot).unwrap()).await.unwrap();

    let changed = |state: &WorkerState| state.price_per_hour == price;
    assert_eq!(next(&mut states, changed).await.capacity, Capacity::Spot);
}

pub(crate) async fn a_worker_is_the_same_incarnation_as_long_as_it_lives(subject: Subject) {
    let before = incarnation(&subject).await;

    let mut generation = subject.worker.generate(subject.start(3)).await.unwrap();
    read(&mut generation, 0).await;

    assert_eq!(incarnation(&subject).await, before);
}

/// A start in a format, with log-probabilities; its output has forced runs.
fn structured(subject: &Subject) -> Start {
    let schema = r#"{"type":"object","properties":{"größe":{"type":"string","maxLength":9},
        "sorte":{"const":"ziemlich lang und erzwungen"}},"required":["größe","sorte"],"additionalProperties":false}"#;
    let output = OutputRules {
        format: Format::JsonSchema(schema.into()),
        logprobs: Some(3),
        ..OutputRules::default()
    };
    Start { output, sampling: sampled(), ..subject.start(80) }
}

/// Tokens with their log-probabilities, and why it ended.
async fn read_logprobs(generation: &mut Generation) -> (Vec<u32>, Vec<Logprobs>, FinishReason) {
    let (mut tokens, mut told) = (Vec::new(), Vec::new());
    loop {
        match generation.next().await {
            Some(Event::Tokens { ids, logprobs, .. }) => {
                assert!(logprobs.is_empty() || logprobs.len() == ids.len());
                tokens.extend(ids);
                told.extend(logprobs);
            }
            Some(Event::Finished { reason, .. }) => return (tokens, told, reason),
            other => panic!("expected tokens or an end, not {other:?}"),
        }
    }
}

pub(crate) async fn a_structured_sequence_goes_on_at_every_token(subject: Subject) {
    for logprobs in [Some(3), None] {
        let mut start = structured(&subject);
        start.output.logprobs = logprobs;
        let mut whole = subject.worker.generate(start.clone()).await.unwrap();
        let (whole, told, reason) = read_logprobs(&mut whole).await;
        assert_eq!(reason, FinishReason::Stop);
        assert_eq!(told.len(), if logprobs.is_some() { whole.len() } else { 0 });

        for at in 0..=whole.len() {
            let start = Start { generated: whole[..at].to_vec(), ..start.clone() };
            let mut rest = subject.worker.generate(start).await.unwrap();
            let (rest, rest_told, reason) = read_logprobs(&mut rest).await;
            assert_eq!(rest, whole[at..], "continued at {at}");
            assert_eq!(rest_told, told[at.min(told.len())..], "continued at {at}");
            assert_eq!(reason, FinishReason::Stop, "continued at {at}");
        }
    }
}

pub(crate) async fn a_format_that_cannot_be_compiled_is_the_clients_mistake(subject: Subject) {
    let mut start = structured(&subject);
    start.output.format = Format::Regex("(a".into());

    let error = subject.worker.generate(start).await.err().unwrap();

    assert!(matches!(error, WorkerError::Format(_)), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(!error.is_passing() && error.to_string().contains("unclosed group"), "{error}");
}

pub(crate) async fn a_format_without_a_way_out_is_the_clients_mistake(subject: Subject) {
    let mut start = structured(&subject);
    start.output.format = Format::Grammar("start: /[xy]/ more\nmore: \"z\" more".into());
    let mut generation = subject.worker.generate(start).await.unwrap();

    let end = loop {
        match generation.next().await.unwrap() {
            Event::Tokens { .. } => {}
            end => break end,
        }
    };

    let Event::Failed { error, usage: Some(usage) } = end else { panic!("{end:?}") };
    assert!(matches!(error, WorkerError::Format(_)), "{error:?}");
    assert!(usage.gpu.nanos() > 0, "what was computed has an owner");
}

/// Which life of itself a worker says this is.
pub(crate) async fn incarnation(subject: &Subject) -> IncarnationId {
    until(subject, |_| true).await.incarnation
}

/// Much longer than any test; a test that would hang fails instead.
const DEADLINE: Duration = Duration::from_mins(1);
