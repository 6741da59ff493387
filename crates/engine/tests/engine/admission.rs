//! What an engine takes, what it refuses, and how it ends.

use domain::Sampling;
use engine::{EngineConfig, EngineError, Event, Failure, Refusal, Request};

use crate::support::{
    answer, answers, block_on, collect, endless, ignoring_eos, request, start, until,
};

#[test]
fn the_queue_is_bounded_and_first_come_first_served() {
    let config = EngineConfig { max_sequences: 1, max_waiting: 2, ..EngineConfig::default() };
    let engine = start(config);
    block_on(async {
        let running = engine.submit(endless()).unwrap();
        until(&engine, |state| state.running == 1).await;
        let mut first = engine.submit(Request { max_output: 40, ..endless() }).unwrap();
        let mut second = engine.submit(Request { max_output: 1, ..endless() }).unwrap();

        let refusal = engine.submit(endless()).unwrap_err();
        assert!(matches!(refusal, Refusal::Full { retry_in } if !retry_in.is_zero()), "{refusal}");

        drop(running);
        // The second is much shorter; it answers only after the first has all the same.
        collect(&mut second).await;
        let produced = engine.state().produced_tokens;
        assert_eq!(collect(&mut first).await.ids.len(), 40);
        assert!(produced >= 40, "{produced}");
    });
}

#[test]
fn sequences_wait_until_there_are_blocks_for_all_of_them() {
    // Room for two of these at a time.
    let config = EngineConfig { kv_blocks: Some(4), ..EngineConfig::default() };
    let engine = start(config);
    block_on(async {
        let one = answer(&engine, request(&[4088, 280, 198], 60)).await;
        let all = answers(&engine, vec![request(&[4088, 280, 198], 60); 7]).await;
        assert!(all.iter().all(|answer| answer.ids == one.ids));
        let state = until(&engine, |state| state.running == 0).await;
        assert_eq!((state.free_blocks, state.total_blocks), (4, 4));
    });
}

#[test]
fn requests_that_can_never_run_are_refused() {
    let engine = start(EngineConfig::default());
    let refusal = |request: Request| engine.submit(request).unwrap_err();
    let valid = || request(&[1, 2, 3], 5);

    assert_eq!(refusal(request(&[1; 2000], 49)), Refusal::TooLong { tokens: 2049, max: 2048 });
    assert!(matches!(refusal(request(&[], 5)), Refusal::Invalid(_)));
    assert!(matches!(refusal(request(&[1], 0)), Refusal::Invalid(_)));
    assert!(matches!(refusal(request(&[1, 4096], 5)), Refusal::Invalid(_)));
    assert!(matches!(refusal(Request { generated: vec![4096], ..valid() }), Refusal::Invalid(_)));
    assert!(matches!(refusal(Request { generated: vec![1; 6], ..valid() }), Refusal::Invalid(_)));
    let sampling = Sampling { logit_bias: vec![(4096, 1.0)], ..Sampling::greedy() };
    assert!(matches!(refusal(Request { sampling, ..valid() }), Refusal::Invalid(_)));

    let small = start(EngineConfig { kv_blocks: Some(2), ..EngineConfig::default() });
    let refusal = small.submit(request(&[1; 60], 5)).unwrap_err();
    assert_eq!(refusal, Refusal::TooLong { tokens: 65, max: 64 });
}

#[test]
fn the_whole_context_can_be_used() {
    let engine =
        start(EngineConfig { prefill_chunk: 512, step_tokens: 600, ..EngineConfig::default() });
    let request = Request { output: ignoring_eos(), ..request(&[300; 2040], 8) };
    assert_eq!(block_on(answer(&engine, request)).ids.len(), 8);
}

#[test]
fn a_draining_engine_finishes_what_it_has() {
    let engine = start(EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    block_on(async {
        let mut running = engine.submit(Request { max_output: 30, ..endless() }).unwrap();
        let mut waiting = engine.submit(Request { max_output: 30, ..endless() }).unwrap();
        engine.drain();
        assert_eq!(engine.submit(endless()).unwrap_err(), Refusal::Draining);
        until(&engine, |state| state.draining).await;
        assert_eq!(collect(&mut running).await.ids.len(), 30);
        assert_eq!(collect(&mut waiting).await.ids.len(), 30);
    });
}

#[test]
fn shutting_down_fails_what_is_left_and_refuses_the_rest() {
    let engine = start(EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    block_on(async {
        let running = engine.submit(endless()).unwrap();
        let waiting = engine.submit(endless()).unwrap();
        engine.shutdown();
        for mut sequence in [running, waiting] {
            let mut last = None;
            while let Some(event) = sequence.next().await {
                last = Some(event);
            }
            assert!(
                matches!(last, Some(Event::Failed { failure: Failure::Stopped, .. })),
                "{last:?}"
            );
        }
        assert_eq!(engine.submit(endless()).unwrap_err(), Refusal::Draining);
        engine.shutdown(); // twice does no harm
    });
}

#[test]
fn dropping_the_last_handle_ends_the_engine() {
    let engine = start(EngineConfig::default());
    let other = engine.clone();
    block_on(async {
        let mut sequence = engine.submit(endless()).unwrap();
        drop(engine);
        assert!(matches!(sequence.next().await, Some(Event::Tokens { .. })), "one handle is left");
        let mut states = other.watch();
        drop(other);
        while states.changed().await.is_ok() {}
        let mut last = None;
        while let Some(event) = sequence.next().await {
            last = Some(event);
        }
        assert!(matches!(last, Some(Event::Failed { failure: Failure::Stopped, .. })));
    });
}

#[test]
fn a_complete_output_needs_no_engine_time() {
    let engine = start(EngineConfig::default());
    let complete = Request { generated: vec![1, 2, 3], ..request(&[4088], 3) };
    let answer = block_on(answer(&engine, complete));
    assert!(answer.ids.is_empty());
    assert_eq!((answer.usage.completion_tokens, answer.usage.gpu.nanos()), (3, 0));
}

#[test]
fn settings_that_would_starve_somebody_are_refused() {
    let bad = [
        EngineConfig { step_tokens: 8, max_sequences: 8, ..EngineConfig::default() },
        EngineConfig { block_tokens: 24, ..EngineConfig::default() },
        EngineConfig { kv_bytes: Some(1_000), ..EngineConfig::default() },
        EngineConfig { prefill_chunk: 0, ..EngineConfig::default() },
    ];
    for config in bad {
        let model = crate::support::load(&engine::ModelSource::Demo);
        let error = engine::Engine::start(model, config).unwrap_err();
        assert!(matches!(error, EngineError::Setting { .. }), "{error}");
    }
}
