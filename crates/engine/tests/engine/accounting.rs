//! Every nanosecond of the step thread has an owner.

use std::time::Instant;

use domain::{FinishReason, GpuTime};
use engine::{EngineConfig, Event, Request};

use crate::support::{answers, block_on, collect, endless, golden, request, start, until};

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
        assert_eq!(accounts.requests + accounts.idle + accounts.overhead, accounts.wall);
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
fn waiting_for_work_is_idle_time() {
    let engine = start(EngineConfig::default());
    block_on(async {
        // The first report comes right before the first wait.
        until(&engine, |state| state.total_blocks > 0).await;
        answers(&engine, vec![request(&[4088], 3)]).await;
        until(&engine, |state| state.running == 0 && state.accounts.idle.nanos() > 0).await;
    });
}
