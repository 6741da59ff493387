//! What the cache holds is not computed again, changes nothing that is said, and is nobody else's.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::{CacheSalt, Format, GpuTime, OutputRules, Priority, ProjectId, Share};
use engine::{Engine, EngineConfig, Event, Request, Sequence};
use proptest::prelude::*;

use crate::support::{
    Answer, answer, answers, block_on, collect, demo_text, endless, ignoring_eos, request, start,
    until,
};

/// A prompt of so many tokens that begins like every other of its `kind`.
fn prompt(kind: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|position| 300 + (position * 7 + kind * 1_009) % 3_500).collect()
}

/// A request that tells log-probabilities, and is sampled or not.
fn telling(kind: u32, tokens: u32, max_output: u32) -> Request {
    let mut request = request(&prompt(kind, tokens), max_output);
    request.output = OutputRules { logprobs: Some(2), ..ignoring_eos() };
    request.sampling.temperature = if kind.is_multiple_of(2) { 0.0 } else { 1.1 };
    request.sampling.seed = u64::from(kind);
    request
}

fn salted(salt: u8, request: Request) -> Request {
    Request { salt: CacheSalt::from_bytes([salt; 16]), ..request }
}

/// What it says, and how sure it was.
fn said(answer: &Answer) -> (&[u32], &[domain::Logprobs]) {
    (&answer.ids, &answer.logprobs)
}

#[test]
fn a_prompt_that_was_there_before_is_hardly_computed_and_its_cached_tokens_are_told() {
    let engine = start(EngineConfig::default());
    let long = Request { max_output: 4, allowance: 4, ..telling(2, 1_500, 4) };
    block_on(async {
        let cold = answer(&engine, long.clone()).await;
        let warm = answer(&engine, long).await;

        assert_eq!(said(&warm), said(&cold));
        assert_eq!((cold.usage.cached_tokens, warm.usage.cached_tokens), (0, 1_472));
        assert_eq!(cold.usage.times.saved, GpuTime::ZERO);
        // By the model of work, not by the clock.
        assert!(warm.usage.times.saved > GpuTime::ZERO, "{:?}", warm.usage);
    });
}

#[test]
fn sequences_of_one_prompt_that_come_together_compute_it_once() {
    let engine = start(EngineConfig::default());
    let expected = block_on(answer(&start(EngineConfig::default()), telling(2, 200, 5)));
    block_on(async {
        let all = answers(&engine, vec![telling(2, 200, 5); 6]).await;

        let cached: u32 = all.iter().map(|answer| answer.usage.cached_tokens).sum();
        assert_eq!(cached, 5 * 192, "all but the first find what the first computes");
        assert!(all.iter().all(|answer| said(answer) == said(&expected)));
        let state = until(&engine, |state| state.running == 0).await;
        assert_eq!(state.free_blocks, state.total_blocks);
        // The prompt's full blocks once; the output of 5 tokens completes none.
        assert_eq!(state.cached_blocks, 200 / 32);
    });
}

#[test]
fn an_output_is_found_by_the_turn_that_follows_it() {
    let engine = start(EngineConfig::default());
    block_on(async {
        let first = answer(&engine, telling(2, 40, 60)).await;
        let mut next = telling(2, 40, 5);
        next.prompt = [&*next.prompt, &*first.ids, &[300, 301]].concat().into();

        let second = answer(&engine, next.clone()).await;

        assert_eq!(second.usage.cached_tokens, 96, "three blocks of 102 tokens");
        let cold = answer(&start(EngineConfig::default()), next).await;
        assert_eq!(said(&second), said(&cold));
    });
}

/// Requests of a few kinds and two tenants that repeat each other's prompts.
fn visits() -> impl Strategy<Value = Vec<(u8, u32, u32, u32)>> {
    let visit = (1..3_u8, 0..4_u32, 20..330_u32, 1..40_u32);
    prop::collection::vec(visit, 4..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn a_sequence_says_the_same_with_a_cold_cache_and_a_warm_one(
        visits in visits(),
        prefill_chunk in prop_oneof![1..40_u32, Just(64), Just(500)],
        max_sequences in 1..8_u32,
        kv_blocks in prop_oneof![Just(64_u32), Just(400)],
        block_tokens in prop_oneof![Just(16_u32), Just(32)],
    ) {
        let requests: Vec<Request> = visits
            .iter()
            .map(|&(salt, kind, tokens, output)| salted(salt, telling(kind, tokens, output)))
            .collect();
        let cold = start(EngineConfig::default());
        let mut expected = Vec::new();
        for (request, salt) in requests.iter().zip(100..) {
            // A tenant of its own finds nothing.
            expected.push(block_on(answer(&cold, salted(salt, request.clone()))));
        }
        prop_assert!(expected.iter().all(|answer| answer.usage.cached_tokens == 0));
        let kv_blocks = Some(kv_blocks);
        let config = EngineConfig { prefill_chunk, max_sequences, kv_blocks, block_tokens, ..EngineConfig::default() };
        let engine = start(config);
        for round in 0..2 {
            let all = block_on(answers(&engine, requests.clone()));
            for (found, expected) in all.iter().zip(&expected) {
                prop_assert_eq!(said(found), said(expected), "round {}", round);
                prop_assert!(found.usage.cached_tokens < found.usage.prompt_tokens);
            }
        }
        let state = block_on(until(&engine, |state| state.running == 0));
        prop_assert_eq!(state.free_blocks, state.total_blocks);
    }

    #[test]
    fn what_one_tenant_cached_is_no_hit_for_another(
        visits in visits(),
        mine in 20..330_u32,
        kind in 0..4_u32,
    ) {
        let engine = start(EngineConfig::default());
        block_on(async {
            for &(_, kind, tokens, output) in &visits {
                answer(&engine, salted(1, telling(kind, tokens, output))).await;
            }
            // The very same prompt, and its own again.
            let (theirs, own) = (telling(kind, mine, 3), telling(kind, 400, 3));
            answer(&engine, salted(1, theirs.clone())).await;

            let first = answer(&engine, salted(2, theirs.clone())).await;
            let known: Vec<_> = engine.block_names(&engine.info().digest, CacheSalt::from_bytes([2; 16]), &own.prompt);
            let known = engine.count_cached(known).await as u32;

            prop_assert_eq!((first.usage.cached_tokens, first.usage.times.saved), (0, GpuTime::ZERO));
            prop_assert_eq!(known, mine / 32, "it finds what it wrote itself, and no more");
            let again = answer(&engine, salted(1, theirs)).await;
            prop_assert_eq!(again.usage.cached_tokens, (mine - 1) / 32 * 32);
            Ok(())
        })?;
    }
}

/// Makes the engine believe that sequences say little of what they may.
async fn lull(engine: &Engine) {
    for _ in 0..80 {
        let mut short =
            engine.submit(Request { max_output: 200, allowance: 1, ..endless() }).unwrap();
        short.next().await;
        short.stop(domain::FinishReason::Stop);
        collect(&mut short).await;
    }
}

/// Room for sixteen blocks, and sequences that need seven each.
fn crowd() -> Vec<Request> {
    (0..6).map(|kind| telling(kind, 40, 170)).collect()
}

#[test]
fn who_gave_way_says_what_it_would_have_said_and_does_not_pay_twice() {
    let expected = block_on(answers(&start(EngineConfig::default()), crowd()));
    let engine = start(EngineConfig { kv_blocks: Some(16), ..EngineConfig::default() });
    block_on(async {
        lull(&engine).await;
        let before = until(&engine, |state| state.running == 0).await.accounts;

        let all = answers(&engine, crowd()).await;

        let state = until(&engine, |state| state.running == 0).await;
        let recomputed: GpuTime = all.iter().map(|answer| answer.usage.times.recompute).sum();
        let billed: GpuTime = all.iter().map(|answer| answer.usage.gpu).sum();
        assert!(recomputed.nanos() > 0, "somebody gave way");
        assert_eq!(state.accounts.preemption, recomputed);
        assert_eq!(state.accounts.requests, before.requests + billed);
        assert_eq!(state.accounts.owned(), state.accounts.wall);
        for (found, expected) in all.iter().zip(&expected) {
            assert_eq!(said(found), said(expected));
            assert_eq!(found.usage.cached_tokens, 0, "what it had itself is not a hit");
        }
        assert_eq!(state.free_blocks, state.total_blocks);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, max_shrink_iters: 4, ..ProptestConfig::default() })]

    #[test]
    fn blocks_come_back_whatever_becomes_of_sequences_that_crowd_each_other(
        fates in prop::collection::vec((0..5_u32, 1..60_u32, any::<bool>(), any::<bool>()), 6..16),
    ) {
        let engine = start(EngineConfig { kv_blocks: Some(16), max_sequences: 8, ..EngineConfig::default() });
        block_on(async {
            lull(&engine).await;
            let mut sequences: Vec<(Sequence, u32, bool)> = Vec::new();
            for &(kind, read, urgent, stays) in &fates {
                let priority = if urgent { Priority::Interactive } else { Priority::Batch };
                let share = Share { priority, ..Share::of(ProjectId::from_u128(1)) };
                let request = Request { share, ..telling(kind, 40 + kind * 9, 170) };
                sequences.push((engine.submit(request).unwrap(), read, stays));
            }
            for (sequence, read, stays) in &mut sequences {
                let mut left = *read;
                while left > 0 && let Some(Event::Tokens { ids, .. }) = sequence.next().await {
                    left = left.saturating_sub(ids.len() as u32);
                }
                if !*stays {
                    sequence.stop(domain::FinishReason::Cancelled);
                }
            }
            for (mut sequence, _, stays) in sequences {
                if stays {
                    collect_rest(&mut sequence).await;
                }
            }
            until(&engine, |state| (state.running, state.waiting, state.free_blocks) == (0, 0, 16)).await;
        });
    }
}

async fn collect_rest(sequence: &mut Sequence) {
    loop {
        match sequence.next().await.expect("it has an end") {
            Event::Tokens { .. } => {}
            Event::Finished { .. } => return,
            Event::Failed { failure, .. } => panic!("{failure}"),
        }
    }
}

/// Sequences of a few tenants and lengths; some keep to a format.
fn crowds() -> impl Strategy<Value = Vec<Request>> {
    let one = (0..4_u32, 1..3_u8, 20..120_u32, 40..160_u32, any::<bool>());
    let one = one.prop_map(|(kind, salt, tokens, max_output, formatted)| {
        let mut request = salted(salt, telling(kind, tokens, max_output));
        if formatted {
            request.output.ignore_eos = false;
            request.output.format = Format::Regex("([a-z]{1,9} ){30}".into());
        }
        request
    });
    prop::collection::vec(one, 4..9)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 4, ..ProptestConfig::default() })]

    #[test]
    fn a_sequence_says_the_same_however_often_it_gave_way(
        crowd in crowds(),
        kv_blocks in 10..22_u32,
        prefill_chunk in 1..100_u32,
    ) {
        let cold = start(EngineConfig::default());
        let mut expected = Vec::new();
        for (request, salt) in crowd.iter().zip(100..) {
            expected.push(block_on(answer(&cold, salted(salt, request.clone()))));
        }
        let config = EngineConfig { kv_blocks: Some(kv_blocks), prefill_chunk, ..EngineConfig::default() };
        let engine = start(config);
        let (all, state) = block_on(async {
            lull(&engine).await;
            let all = answers(&engine, crowd.clone()).await;
            (all, until(&engine, |state| state.running == 0).await)
        });
        for (found, expected) in all.iter().zip(&expected) {
            prop_assert_eq!(said(found), said(expected));
        }
        let recomputed: GpuTime = all.iter().map(|answer| answer.usage.times.recompute).sum();
        prop_assert_eq!(state.accounts.preemption, recomputed);
        prop_assert_eq!(state.accounts.owned(), state.accounts.wall);
        prop_assert_eq!(state.free_blocks, kv_blocks);
    }
}

#[test]
fn the_urgent_keep_their_blocks_and_the_paused_give_theirs_up_first() {
    let engine = start(EngineConfig { kv_blocks: Some(16), ..EngineConfig::default() });
    block_on(async {
        lull(&engine).await;
        let urgent =
            Share { priority: Priority::Interactive, ..Share::of(ProjectId::from_u128(1)) };
        // The oldest of them waits for its allowance.
        let mut paused = engine.submit(Request { allowance: 100, ..telling(0, 40, 170) }).unwrap();
        until(&engine, |state| state.paused == 1).await;
        let mut crowd = Vec::new();
        for kind in 1..4 {
            let share = if kind == 3 { urgent } else { Share::of(ProjectId::from_u128(1)) };
            crowd.push(engine.submit(Request { share, ..telling(kind, 40, 170) }).unwrap());
        }
        let mut ends = Vec::new();
        for mut sequence in crowd {
            ends.push(collect(&mut sequence).await.usage.times.recompute);
        }
        paused.extend(170);
        let paused = collect(&mut paused).await;

        assert_eq!(ends[2], GpuTime::ZERO, "the urgent one kept its blocks: {ends:?}");
        assert!(paused.usage.times.recompute > GpuTime::ZERO, "{ends:?}");
        assert_eq!(paused.ids.len(), 170);
    });
}

#[test]
fn blocks_of_one_engine_serve_another() {
    let (here, there) = (start(EngineConfig::default()), start(EngineConfig::default()));
    let asked = telling(3, 150, 20);
    block_on(async {
        let expected = answer(&here, asked.clone()).await;
        let names = here.block_names(&here.info().digest, asked.salt, &asked.prompt);
        assert_eq!(here.count_cached(names.clone()).await, 4);
        let block_bytes = until(&there, |state| state.block_bytes > 0).await.block_bytes;

        for name in &names {
            let content = here.export_block(*name).await.expect("it was just computed");
            assert_eq!(content.len() as u64, block_bytes);
            assert!(!there.import_block(*name, content[1..].to_vec()).await, "too short");
            assert!(there.import_block(*name, content).await);
        }

        assert_eq!(there.count_cached(names.clone()).await, 4);
        assert_eq!(there.export_block(names[0]).await, here.export_block(names[0]).await);
        let found = answer(&there, asked).await;
        assert_eq!(said(&found), said(&expected));
        assert_eq!(found.usage.cached_tokens, 128, "{}", demo_text(&found.ids));
        here.shutdown();
        assert_eq!(here.export_block(names[0]).await, None, "nobody is there to ask");
    });
}

#[test]
fn nobody_finds_what_a_failed_sequence_computed() {
    let engine = start(EngineConfig::default());
    let asked = telling(2, 100, 3);
    block_on(async {
        let mut failing = asked.clone();
        failing.sampling.logit_bias = vec![(5, f32::INFINITY)];
        let mut failing = engine.submit(failing).unwrap();
        let end = failing.next().await;
        assert!(matches!(end, Some(Event::Failed { .. })), "{end:?}");

        let after = answer(&engine, asked.clone()).await;

        assert_eq!(after.usage.cached_tokens, 0);
        assert_eq!(answer(&engine, asked).await.usage.cached_tokens, 96);
    });
}

#[test]
fn readers_know_what_the_cache_holds() {
    let engine = start(EngineConfig { kv_blocks: Some(16), ..EngineConfig::default() });
    block_on(async {
        let mut reader = engine.cached_blocks();
        let mut known = BTreeSet::new();
        assert!(reader.next().await.unwrap().reset);
        for kind in 0..6 {
            answer(&engine, telling(kind, 140, 30)).await;
        }
        let state = until(&engine, |state| state.running == 0).await;
        let all = engine.cached_blocks().next().await.unwrap();
        let all = BTreeSet::from_iter(all.added);

        while known != all {
            let change = tokio::time::timeout(DEADLINE, reader.next()).await;
            let change = change.expect("it hears of everything").unwrap();
            known.extend(change.added);
            known.retain(|block| !change.removed.contains(block));
        }

        assert_eq!(known.len(), state.cached_blocks as usize);
        let last = telling(5, 140, 30);
        let names = engine.block_names(&engine.info().digest, last.salt, &last.prompt);
        assert!(names.iter().all(|name| known.contains(&name.short())), "the last text is there");
        let first = telling(0, 140, 30);
        let names = engine.block_names(&engine.info().digest, first.salt, &first.prompt);
        assert!(!known.contains(&names[3].short()), "the first text had to go");
    });
}

/// Much longer than any test; a test that would hang fails instead.
const DEADLINE: Duration = Duration::from_mins(1);
