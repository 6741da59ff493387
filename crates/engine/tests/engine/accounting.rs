//! Every nanosecond of the step thread has an owner.

use std::time::Instant;

use domain::{Accounts, FinishReason, GpuTime, Times};
use engine::{EngineConfig, Event, Request};

use crate::support::{answer, answers, block_on, collect, endless, golden, request, start, until};

#[test]
fn the_time_of_sequences_idleness_and_overhead_is_all_the_time_there_was() {
    let begin = Instant::now();
    let engine = start(EngineConfig { prefill_chunk: 16, ..EngineConfig::default() });
    block_on(async {
        let requests = golden().into_iter().take(24);
        let requests = requests.map(|case| request(&case.prompt_token_ids, 20)).collect();
        let finished = answers(&engine, requests).await;
        let mut stopped = engine.submit(endless()).unwrap();
        assert!(matches!(stopped.next().await, Some(Event::Tokens { .. })));
        stopped.stop(FinishReason::Cancelled);
        let stopped = collect(&mut stopped).await;

        let accounts = until(&engine, |state| state.running == 0).await.accounts;

        let total: GpuTime = finished.iter().map(|answer| answer.usage.gpu).sum();
        assert_eq!(total + stopped.usage.gpu, accounts.requests);
        assert_eq!(accounts.owned(), accounts.wall);
        assert!(u128::from(accounts.wall.nanos()) <= begin.elapsed().as_nanos());
        assert!(finished.iter().all(|answer| answer.usage.gpu.nanos() > 0));
        assert!(accounts.overhead < accounts.requests, "{accounts:?}");
    });
}

#[test]
fn events_carry_the_time_of_their_tokens() {
    let engine = start(EngineConfig::default());
    block_on(async {
        // Ends by its limit, so that no step comes after the last token.
        let answers = answers(&engine, vec![Request { max_output: 25, ..endless() }; 3]).await;
        for answer in &answers {
            assert_eq!(answer.gpu, answer.usage.gpu);
        }
    });
}

#[test]
fn an_engine_tells_how_long_a_prompt_and_a_step_take_and_what_waits_adds_to_that() {
    let engine = start(EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    block_on(async {
        answers(&engine, vec![request(&[4088; 40], 3)]).await;
        let idle = until(&engine, |state| state.running == 0 && !state.step_time.is_zero()).await;
        assert!(!idle.prompt_token_time.is_zero());

        let _running = engine.submit(endless()).unwrap();
        let long = Request { prompt: vec![300; 1_500].into(), max_output: 5, ..endless() };
        let _waiting = engine.submit(long).unwrap();

        let busy = until(&engine, |state| state.waiting_tokens >= 1_500).await;
        assert!(busy.first_token_in() >= busy.prompt_token_time * 1_500, "{busy:?}");
    });
}

#[test]
fn waiting_for_work_is_idle_time() {
    let engine = start(EngineConfig::default());
    block_on(async {
        // The first report comes right before the first wait.
        until(&engine, |state| state.total_blocks > 0).await;
        answers(&engine, vec![request(&[4088], 3)]).await;
        until(&engine, |state| state.running == 0 && state.accounts.idle.nanos() > 0).await;
    });
}

#[test]
fn a_sequence_cancelled_before_any_of_it_was_computed_pays_nothing() {
    let engine = start(EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    block_on(async {
        let mut running = engine.submit(Request { allowance: 1, ..endless() }).unwrap();
        until(&engine, |state| state.paused == 1).await;
        let mut waiting = engine.submit(endless()).unwrap();
        let mut continued = engine.submit(Request { generated: vec![5, 6], ..endless() }).unwrap();
        waiting.stop(FinishReason::Cancelled);
        continued.stop(FinishReason::Cancelled);

        let waiting = collect(&mut waiting).await.usage;
        let continued = collect(&mut continued).await.usage;

        assert_eq!((waiting.gpu, waiting.completion_tokens), (GpuTime::ZERO, 0));
        assert_eq!((continued.gpu, continued.completion_tokens), (GpuTime::ZERO, 2));
        assert_eq!(continued.times.recompute, GpuTime::ZERO);
        assert!(waiting.times.queue.nanos() > 0, "it waited all the same");
        running.stop(FinishReason::Cancelled);
        collect(&mut running).await;
    });
}

#[test]
fn a_sequence_tells_where_its_time_went() {
    let engine = start(EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    block_on(async {
        // The first begins only after the second was submitted.
        let mut first = engine.submit(Request { allowance: 0, ..request(&[300; 90], 30) }).unwrap();
        let mut second = engine.submit(request(&[4088, 280, 198], 5)).unwrap();
        until(&engine, |state| state.waiting == 1).await;
        first.extend(30);

        let first = collect(&mut first).await.usage;
        let second = collect(&mut second).await.usage;

        assert_eq!(first.gpu, first.times.prefill + first.times.decode);
        assert!(first.times.prefill.nanos() > 0 && first.times.decode.nanos() > 0, "{first:?}");
        assert_eq!((first.times.recompute, first.times.saved), (GpuTime::ZERO, GpuTime::ZERO));
        assert!(second.times.queue >= first.gpu, "it waited for all of the first: {second:?}");
    });
}

#[test]
fn what_another_worker_had_computed_is_computed_again_at_no_ones_expense() {
    let engine = start(EngineConfig { prefill_chunk: 16, ..EngineConfig::default() });
    block_on(async {
        let generated = vec![500; 40];
        let continued = Request { generated, max_output: 45, allowance: 45, ..endless() };
        let continued = answer(&engine, continued).await;

        let Times { prefill, decode, recompute, .. } = continued.usage.times;
        assert_eq!((prefill, decode), (GpuTime::ZERO, continued.usage.gpu));
        assert!(recompute.nanos() > 0);
        assert_eq!(continued.gpu, continued.usage.gpu, "events carry billable time alone");
        let accounts = until(&engine, |state| state.running == 0).await.accounts;
        assert_eq!((accounts.migration, accounts.requests), (recompute, decode));
    });
}

#[test]
fn calibration_leaves_nothing_behind_but_its_time() {
    for config in [
        EngineConfig::default(),
        // Hardly room for anything.
        EngineConfig {
            kv_blocks: Some(1),
            max_sequences: 1,
            step_tokens: 2,
            prefill_chunk: 1,
            ..EngineConfig::default()
        },
    ] {
        let engine = start(config);
        let state = block_on(until(&engine, |state| state.total_blocks > 0));
        assert_eq!((state.running, state.free_blocks), (0, state.total_blocks));
        assert_eq!(state.produced_tokens, 0);
        let Accounts { requests, overhead, idle, wall, .. } = state.accounts;
        assert_eq!((requests, overhead, idle), (GpuTime::ZERO, wall, GpuTime::ZERO));
        assert!(state.attribution_error_ppm < 1_000_000, "{state:?}");
    }
}
