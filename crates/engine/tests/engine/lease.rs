//! Allowances, stops and cancels.

use domain::FinishReason;
use engine::{EngineConfig, Event, Request};

use crate::support::{
    answer, block_on, collect, endless, golden, ignoring_eos, request, start, until,
};

#[test]
fn a_sequence_pauses_at_its_allowance_and_goes_on_when_it_is_raised() {
    let engine = start(EngineConfig::default());
    block_on(async {
        let expected = answer(&engine, Request { max_output: 20, ..endless() }).await;
        let request = Request { allowance: 5, max_output: 20, ..endless() };
        let mut sequence = engine.submit(request).unwrap();

        let paused = until(&engine, |state| state.paused == 1).await;
        assert_eq!((paused.running, paused.waiting), (1, 0), "it keeps its place");
        let Some(Event::Tokens { first: 0, ids, .. }) = sequence.next().await else {
            panic!("five tokens are paid for");
        };
        assert_eq!(ids, expected.ids[..5], "a slow reader gets all tokens at once");

        sequence.extend(3); // lower than before: no change
        sequence.extend(12);
        until(&engine, |state| state.paused == 1 && state.produced_tokens == 20 + 12).await;
        sequence.extend(20);
        let rest = collect(&mut sequence).await;
        assert_eq!(rest.ids, expected.ids[5..]);
        assert_eq!(rest.reason, FinishReason::Length);
    });
}

#[test]
fn a_paused_sequence_costs_nothing() {
    let engine = start(EngineConfig::default());
    block_on(async {
        let mut paused = engine.submit(Request { allowance: 2, ..endless() }).unwrap();
        let before = until(&engine, |state| state.paused == 1).await.accounts;
        let other = answer(&engine, request(&[4088, 280, 198], 8)).await;
        paused.stop(FinishReason::Budget);
        let paused = collect(&mut paused).await;

        assert_eq!(paused.usage.gpu, before.requests);
        let after = until(&engine, |state| state.running == 0).await.accounts;
        assert_eq!(after.requests, before.requests + other.usage.gpu);
    });
}

#[test]
fn a_lease_that_is_not_extended_ends_as_budget_at_the_exact_token() {
    let engine = start(EngineConfig::default());
    block_on(async {
        let mut sequence = engine.submit(Request { allowance: 7, ..endless() }).unwrap();
        until(&engine, |state| state.paused == 1).await;
        sequence.stop(FinishReason::Budget);
        sequence.stop(FinishReason::Cancelled); // too late: the first reason counts
        let answer = collect(&mut sequence).await;
        assert_eq!((answer.reason, answer.ids.len()), (FinishReason::Budget, 7));
        assert_eq!(answer.usage.completion_tokens, 7);
    });
}

#[test]
fn an_allowance_of_nothing_computes_nothing() {
    let engine = start(EngineConfig::default());
    block_on(async {
        let mut sequence = engine.submit(Request { allowance: 0, ..endless() }).unwrap();
        until(&engine, |state| state.paused == 1).await;
        sequence.stop(FinishReason::Budget);
        let answer = collect(&mut sequence).await;
        assert!(answer.ids.is_empty());
        assert_eq!(answer.usage.gpu.nanos(), 0);
    });
}

#[test]
fn the_stop_token_is_neither_sent_nor_counted() {
    let engine = start(EngineConfig::default());
    let case = golden().swap_remove(0);
    let stopped = block_on(answer(&engine, request(&case.prompt_token_ids, 100)));
    assert_eq!(stopped.reason, FinishReason::Stop);
    assert_eq!(stopped.usage.completion_tokens as usize, case.completion().len());
    assert_eq!(stopped.usage.prompt_tokens as usize, case.prompt_token_ids.len());

    let ignoring = Request { output: ignoring_eos(), ..request(&case.prompt_token_ids, 30) };
    let ignored = block_on(answer(&engine, ignoring));
    assert_eq!(ignored.ids[..case.completion().len()], *case.completion());
    assert_eq!(ignored.ids[case.completion().len()], 4089);
    assert_eq!((ignored.reason, ignored.ids.len()), (FinishReason::Length, 30));
}

#[test]
fn a_dropped_sequence_leaves_within_a_step_and_gives_its_blocks_back() {
    let engine = start(EngineConfig::default());
    block_on(async {
        let mut stays = engine.submit(Request { max_output: 1_000, ..endless() }).unwrap();
        let mut goes = engine.submit(endless()).unwrap();
        until(&engine, |state| state.running == 2).await;
        assert!(goes.next().await.is_some(), "it runs");

        // A report follows every step in which a sequence leaves.
        let before = until(&engine, |state| state.running == 2).await;
        drop(goes);
        let after = until(&engine, |state| state.running == 1).await;
        // Less is expected of the other one now, so there may be even more room.
        assert!(after.free_blocks >= before.free_blocks + 1_902_u32.div_ceil(32), "{after:?}");
        stays.stop(FinishReason::Cancelled);
        collect(&mut stays).await;
        let empty = until(&engine, |state| state.running == 0).await;
        assert_eq!(empty.free_blocks, empty.total_blocks);
    });
}

#[test]
fn a_stop_lets_at_most_the_step_in_flight_through() {
    // A step is a token.
    let engine = start(EngineConfig { lookup: false, ..EngineConfig::default() });
    block_on(async {
        let mut sequence = engine.submit(endless()).unwrap();
        let mut ids = 0;
        while ids < 5 {
            let Some(Event::Tokens { ids: more, .. }) = sequence.next().await else {
                panic!("runs on")
            };
            ids += more.len();
        }
        // Taken and stopped without a wait between, so that only steps after the last event are counted.
        sequence.stop(FinishReason::Cancelled);
        let rest = collect(&mut sequence).await;
        assert_eq!(rest.reason, FinishReason::Cancelled);
        assert!(rest.ids.len() <= 3, "{} tokens after the stop", rest.ids.len());
        assert_eq!(rest.usage.completion_tokens as usize, ids + rest.ids.len());
    });
}

#[test]
fn a_waiting_sequence_can_be_stopped_and_cancelled() {
    let engine = start(EngineConfig { max_sequences: 1, ..EngineConfig::default() });
    block_on(async {
        let running = engine.submit(endless()).unwrap();
        let mut stopped = engine.submit(endless()).unwrap();
        let cancelled = engine.submit(endless()).unwrap();
        until(&engine, |state| state.waiting == 2).await;
        stopped.stop(FinishReason::Cancelled);
        drop(cancelled);
        assert_eq!(collect(&mut stopped).await.usage.gpu.nanos(), 0);
        until(&engine, |state| state.waiting == 0 && state.running == 1).await;
        drop(running);
        until(&engine, |state| state.running == 0).await;
    });
}
