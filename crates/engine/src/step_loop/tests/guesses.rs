//! Guessed tokens: the same is said with them and without, in fewer steps where a text repeats itself, and at next to
//! no cost where it does not.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::Logprobs;
use proptest::prelude::*;

use super::*;

/// What a sequence said, how sure it was, and how it ended.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
    reason: Option<FinishReason>,
}

/// Reads what a sequence sent into `said`; what it was charged, once it ended.
fn listen(sequence: &mut Sequence, said: &mut Said) -> Option<GpuTime> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match pin!(sequence.next()).poll(&mut context) {
            Poll::Ready(Some(Event::Tokens { ids, logprobs, .. })) => {
                said.ids.extend(ids);
                said.logprobs.extend(logprobs);
            }
            Poll::Ready(Some(Event::Finished { reason, usage })) => {
                assert_eq!(usage.completion_tokens as usize, said.ids.len());
                said.reason = Some(reason);
                return Some(usage.gpu);
            }
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => return None,
        }
    }
}

/// What came of some requests.
#[derive(Debug, Default)]
struct Outcome {
    said: Vec<Said>,
    charged: GpuTime,
    steps: u64,
    drafted: u64,
    accepted: u64,
    /// Time of what was computed again by those who gave way.
    preemption: GpuTime,
}

/// Runs requests on a clock on which a token takes so long beside the step, and looks at the books after each pass.
fn run(mut driver: Driver, requests: &[Request]) -> Outcome {
    let block_tokens = driver.steps.config.block_tokens as usize;
    let mut sequences: Vec<_> =
        requests.iter().map(|request| driver.submit(request.clone()).unwrap()).collect();
    let mut outcome = Outcome { said: vec![Said::default(); requests.len()], ..Outcome::default() };
    let mut open = requests.len();
    while open > 0 {
        driver.steps.pass();
        for running in &driver.steps.running {
            let tokens = running.demand().tokens as usize;
            assert!(running.blocks.len() <= tokens.div_ceil(block_tokens), "only guesses need it");
            assert_eq!(running.drafted(), 0);
        }
        for (sequence, said) in sequences.iter_mut().zip(&mut outcome.said) {
            if said.reason.is_none()
                && let Some(charged) = listen(sequence, said)
            {
                outcome.charged += charged;
                open -= 1;
            }
        }
    }
    let accounts = driver.accounts();
    assert_eq!(accounts.owned(), accounts.wall);
    assert_eq!(accounts.requests, outcome.charged);
    assert_eq!(driver.steps.blocks.free(), driver.steps.blocks.total());
    outcome.preemption = accounts.preemption;
    outcome.steps = driver.steps.steps;
    outcome.drafted = driver.steps.guessing.drafted;
    outcome.accepted = driver.steps.guessing.accepted;
    outcome
}

fn quiet() -> Rig {
    Box::new(|_, _| Ok(()))
}

/// With the demo model's weights, on a machine on which a token more is nearly free.
fn real(config: EngineConfig) -> Driver {
    Driver::new(config, quiet()).paced(Duration::from_micros(2))
}

const fn without(mut config: EngineConfig) -> EngineConfig {
    config.lookup = false;
    config
}

/// A request of every kind, by its number: with texts that repeat themselves, and with every option of sampling.
fn mixed(number: u32) -> Request {
    let passage: Vec<u32> = (0..9 + number % 7).map(|at| 300 + number * 17 + at * 31).collect();
    let prompt = passage.repeat(2 + number as usize % 4);
    let mut request = request(u128::from(number % 3), prompt, 20 + number * 7 % 40);
    request.output.logprobs = number.is_multiple_of(2).then_some(number % 4);
    request.output.ignore_eos = !number.is_multiple_of(5);
    request.output.min_tokens = if number.is_multiple_of(10) { 12 } else { 0 };
    if number % 7 == 3 {
        let passage = &request.prompt[..4];
        request.output.bad_words = [passage[..2].to_vec(), passage[1..].to_vec()].into();
        request.output.stop_token_ids = [passage[3] + 1].into();
        request.output.allowed_token_ids =
            Some((0..4096).filter(|id| id % 7 != number % 7).collect());
    }
    if number % 3 == 1 {
        request.sampling = Sampling {
            temperature: 0.6,
            top_p: 0.9,
            top_k: 50,
            logit_bias: vec![(310, 2.0), (13, -1.0)],
            seed: u64::from(number),
            ..Sampling::greedy()
        };
    }
    if number % 4 == 2 {
        // It can say little else, and so says it again and again.
        request.sampling.logit_bias =
            (0..6).map(|at| (300 + number * 17 + at * 31, 40.0)).collect();
    }
    if number % 4 == 1 {
        request.sampling.repetition_penalty = 1.05;
        request.sampling.presence_penalty = 0.1;
        request.sampling.frequency_penalty = 0.1;
    }
    request
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn what_is_guessed_changes_nothing_that_is_said(
        first in 0..100_u32,
        kv_blocks in 8..40_u32,
        prefill_chunk in 1..80_u32,
        step_tokens in 9..150_u32,
        max_sequences in 1..9_u32,
        compute_threads in 1..4_u32,
        block_tokens in prop_oneof![Just(16), Just(32)],
    ) {
        let requests: Vec<Request> = (first..first + 8).map(mixed).collect();
        let tight = EngineConfig {
            kv_blocks: Some(kv_blocks), prefill_chunk, step_tokens, max_sequences, compute_threads,
            block_tokens, ..EngineConfig::default()
        };
        let plain = without(EngineConfig { compute_threads: 1, ..EngineConfig::default() });
        let expected = run(real(plain), &requests);
        prop_assert_eq!(expected.drafted, 0);
        prop_assert_eq!(run(real(tight), &requests).said, expected.said);
    }
}

#[test]
fn much_is_guessed_right_and_wrong_where_sequences_give_way_and_nothing_changes() {
    let requests: Vec<Request> = (0..12).map(mixed).collect();
    let config = EngineConfig {
        kv_blocks: Some(12),
        block_tokens: 16,
        max_sequences: 6,
        compute_threads: 2,
        ..EngineConfig::default()
    };
    // As if outputs had been short lately, so that too many are admitted.
    let hasty = |config| {
        let mut driver = real(config);
        (0..60).for_each(|_| driver.steps.expectation.ended(1, 100));
        driver
    };

    let with = run(hasty(config.clone()), &requests);
    let plain = run(hasty(without(config)), &requests);

    assert_eq!(with.said, plain.said);
    let Outcome { drafted, accepted, .. } = with;
    assert!(accepted > 25 && accepted + 25 < drafted, "{accepted} of {drafted}");
    assert!(with.preemption > GpuTime::ZERO);
    assert!(with.steps < plain.steps, "{} and {}", with.steps, plain.steps);
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_steps_and_costs_less() {
    let passage: Vec<u32> = (0..24).map(|at| 300 + at * 37).collect();
    let asked = [request(1, passage.repeat(5), 200)];
    // Here a token takes half as long as a step does without it.
    let driver = |config| Driver::new(config, quiet());

    let with = run(driver(EngineConfig::default()), &asked);
    let plain = run(driver(without(EngineConfig::default())), &asked);

    assert_eq!(with.said, plain.said);
    assert!(with.steps * 2 < plain.steps, "{} and {} steps", with.steps, plain.steps);
    assert!(with.charged.nanos() * 10 < plain.charged.nanos() * 8, "{with:?} {plain:?}");
}

/// A decoder that says what `says` makes of a position, whatever came before.
fn scripted(config: EngineConfig, says: impl Fn(u32) -> u32 + Send + Sync + 'static) -> Driver {
    let rig = move |step: &Step, logits: &mut Vec<f32>| {
        let width = logits.len() / step.sampled.len().max(1);
        for (row, at) in logits.chunks_exact_mut(width.max(1)).zip(&step.sampled) {
            row[says(step.positions[*at as usize]) as usize] = 1.0;
        }
        Ok(())
    };
    Driver::with(config, Box::new(rig), true)
}

/// One of a few tokens, so that every pair of them was there before and says nothing of what comes next.
const fn noise(position: u32) -> u32 {
    let mut mixed = position.wrapping_mul(0x9E37_79B9);
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85EB_CA6B);
    mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xC2B2_AE35);
    300 + (mixed ^ (mixed >> 16)) % 8
}

#[test]
fn where_guesses_are_wrong_hardly_any_are_computed() {
    let asked = [Request { max_output: 1_500, allowance: 1_500, ..request(1, vec![300; 8], 1) }];

    let with = run(scripted(EngineConfig::default(), noise), &asked);
    let plain = run(scripted(without(EngineConfig::default()), noise), &asked);

    assert_eq!(with.said, plain.said);
    let wasted = with.drafted - with.accepted;
    assert!(wasted > 0 && wasted < 90, "{wasted} of {}", with.drafted);
    let (cost, before) = (with.charged.nanos() as f64, plain.charged.nanos() as f64);
    assert!(cost < before * 1.02, "{} times as dear", cost / before);
}

#[test]
fn a_busy_engine_guesses_nothing_and_guesses_when_it_is_calm_again() {
    let busy: Vec<Request> = (0..32).map(|tenant| request(tenant, vec![300; 40], 120)).collect();
    let mut driver = scripted(EngineConfig::default(), |position| 400 + position % 5);
    let mut sequences: Vec<_> =
        busy.into_iter().map(|request| driver.submit(request).unwrap()).collect();
    for _ in 0..60 {
        driver.steps.pass();
    }
    // Until it has learnt what a token takes it may think some are free.
    let learnt = driver.steps.guessing.drafted;
    for _ in 0..15 {
        driver.steps.pass();
    }
    assert_eq!(driver.steps.running.len(), 32);
    // Each would take as long as a turn, but for what measuring leaves open.
    let guessed = driver.steps.guessing.drafted - learnt;
    assert!(guessed < 15 * 32 / 20, "{guessed}");

    sequences.truncate(1);
    driver.finish();
    assert!(driver.steps.guessing.accepted > learnt, "{}", driver.steps.guessing.accepted);
}

#[test]
fn what_a_sequence_may_not_say_yet_is_not_computed() {
    let mut driver = scripted(EngineConfig::default(), |position| 400 + position % 5);
    let asked = Request { allowance: 50, ..request(1, vec![300; 4], 100) };
    let mut sequence = driver.submit(asked).unwrap();
    let mut said = Said::default();
    for allowance in [50, 51, 53, 90] {
        sequence.extend(allowance);
        loop {
            driver.steps.pass();
            assert_eq!(listen(&mut sequence, &mut said), None);
            assert!(said.ids.len() <= allowance as usize);
            if driver.steps.running[0].need().paused {
                break;
            }
        }
        let running = &driver.steps.running[0];
        assert_eq!((running.demand().tokens, running.computed()), (4 + allowance, 3 + allowance));
        assert_eq!(said.ids.len(), allowance as usize);
    }
    assert!(driver.steps.guessing.accepted > 20);
    sequence.extend(100);
    driver.finish();
    assert!(listen(&mut sequence, &mut said).is_some());
    assert_eq!((said.ids.len(), said.reason), (100, Some(FinishReason::Length)));
}

#[test]
fn penalties_of_a_run_are_those_of_its_tokens_one_by_one() {
    // Each time it says a token that one becomes less likely, until it says something else.
    for (period, frequency, repetition) in [(6, 0.07, 1.0), (2, 0.03, 1.0), (1, 0.013, 1.1)] {
        let prompt = (0..30).map(|at| 400 + (at + period - 1) % period).collect();
        let mut asked = request(1, prompt, 200);
        asked.sampling.frequency_penalty = frequency;
        asked.sampling.repetition_penalty = repetition;
        let driver = |config| scripted(config, move |position| 400 + position % period);

        let with = run(driver(EngineConfig::default()), &[asked.clone()]);
        let plain = run(driver(without(EngineConfig::default())), &[asked.clone()]);

        assert_eq!(with.said, plain.said);
        assert!(with.accepted > 20, "{} accepted", with.accepted);
    }
}

#[test]
fn an_end_token_is_drawn_in_a_run_as_soon_as_it_may_be() {
    let says = |position| if position % 6 == 1 { END } else { 400 + position % 6 };
    for min_tokens in 30..42 {
        let mut asked = request(1, (0..30).map(|at| 400 + (at + 5) % 6).collect(), 60);
        (asked.output.ignore_eos, asked.output.min_tokens) = (false, min_tokens);

        let with = run(scripted(EngineConfig::default(), says), &[asked.clone()]);
        let plain = run(scripted(without(EngineConfig::default()), says), &[asked]);

        assert_eq!(with.said, plain.said);
        assert_eq!(plain.said[0].reason, Some(FinishReason::Stop));
        assert!(with.accepted > 5, "{} accepted", with.accepted);
    }
}

#[test]
fn an_end_token_behind_right_guesses_ends_a_sequence_and_nothing_follows_it() {
    // Its answer takes up what it said before, and ends in the midst of that.
    let says = |position| if position == 63 { END } else { 400 + position % 6 };
    let asked = |ignore_eos| {
        let mut request = request(1, (0..30).map(|at| 400 + at % 6).collect(), 60);
        request.output.ignore_eos = ignore_eos;
        request
    };
    let with = run(scripted(EngineConfig::default(), says), &[asked(false)]);
    assert!(with.accepted > 10, "{with:?}");
    assert_eq!((with.said[0].ids.len(), with.said[0].reason), (34, Some(FinishReason::Stop)));
    let with = run(scripted(EngineConfig::default(), says), &[asked(true)]);
    assert_eq!((with.said[0].ids.len(), with.said[0].ids[34]), (60, END));
}

#[test]
fn a_guess_makes_nobody_give_way() {
    // Each ends when it fills four blocks, and would go on for many more; one is ahead of the other.
    let says = |position| if position == 63 { END } else { 400 + position % 6 };
    let asked = [34, 24, 14].map(|prompt| {
        let mut request = request(1, (0..prompt).map(|at| 400 + (at + 5) % 6).collect(), 150);
        request.output.ignore_eos = false;
        request
    });
    let driver = |lookup| {
        let config = EngineConfig {
            kv_blocks: Some(12),
            block_tokens: 16,
            compute_threads: 1,
            lookup,
            ..EngineConfig::default()
        };
        let mut driver = scripted(config, says).paced(Duration::from_micros(2));
        for _ in 0..200 {
            driver.steps.expectation.ended(1, 100);
        }
        driver
    };

    let with = run(driver(true), &asked);
    let plain = run(driver(false), &asked);

    assert_eq!(with.said, plain.said);
    assert_eq!((plain.preemption, with.preemption), (GpuTime::ZERO, GpuTime::ZERO));
    let Outcome { drafted, accepted, .. } = with;
    assert!(accepted > 20 && drafted > accepted, "{accepted} of {drafted}");
}

#[test]
fn a_step_that_fails_for_its_guesses_is_computed_without_them() {
    let failures = Arc::new(AtomicU64::new(0));
    let passage: Vec<u32> = (0..24).map(|at| 300 + at * 37).collect();
    let alone = vec![request(1, passage.repeat(5), 80)];
    let some: Vec<Request> = (0..3).map(mixed).collect();
    for (requests, spoils) in [(&alone, false), (&alone, true), (&some, false), (&some, true)] {
        let expected = run(real(without(EngineConfig::default())), requests);
        let counted = failures.clone();
        let rig = move |step: &Step, logits: &mut Vec<f32>| {
            // So many rows of logits only guesses ask for.
            if step.sampled.len() > 3 {
                counted.fetch_add(1, Ordering::Relaxed);
                if !spoils {
                    candle_core::bail!("too many rows");
                }
                logits.fill(f32::NAN);
            }
            Ok(())
        };
        let config = EngineConfig { compute_threads: 1, ..EngineConfig::default() };
        let driver = Driver::new(config, Box::new(rig)).paced(Duration::from_micros(2));
        let struck = run(driver, requests);
        assert_eq!(struck.said, expected.said);
        assert!(failures.swap(0, Ordering::Relaxed) > 0);
    }
}

/// The demo model's.
const END: u32 = 4089;
