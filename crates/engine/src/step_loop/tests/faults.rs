//! One sequence that makes the forward pass fail hurts no other.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::Failure;

/// What the decoder does with a step that has the token [`POISON`].
#[derive(Clone, Copy, Debug)]
enum Fault {
    Fails,
    Panics,
    /// All that is computed beside it is no number either.
    SpreadsNoNumber,
    /// Its own logits are no numbers.
    YieldsNoNumber,
}

const FAULTS: [Fault; 4] =
    [Fault::Fails, Fault::Panics, Fault::SpreadsNoNumber, Fault::YieldsNoNumber];

fn driver(fault: Option<Fault>, compute_threads: u32) -> Driver {
    let config = EngineConfig { compute_threads, prefill_chunk: 16, ..EngineConfig::default() };
    let rig = move |step: &Step, logits: &mut Vec<f32>| match fault {
        Some(fault) if step.tokens.contains(&POISON) => strike(fault, step, logits),
        _ => Ok(()),
    };
    Driver::new(config, Box::new(rig))
}

fn strike(fault: Fault, step: &Step, logits: &mut [f32]) -> candle_core::Result<()> {
    match fault {
        Fault::Fails => candle_core::bail!("the device does not answer"),
        Fault::Panics => panic!("a kernel went out of its bounds"),
        Fault::SpreadsNoNumber => logits.fill(f32::NAN),
        Fault::YieldsNoNumber => {
            let width = logits.len() / step.sampled.len().max(1);
            let rows = logits.chunks_exact_mut(width.max(1)).zip(&step.sampled);
            for (row, _) in rows.filter(|(_, at)| step.tokens[**at as usize] == POISON) {
                row.fill(f32::NAN);
            }
        }
    }
    Ok(())
}

/// Eleven sequences of all kinds; the fifth brings the poison as the last token of its prompt, after the others have
/// begun.
fn run(driver: &mut Driver) -> Vec<(Vec<u32>, Option<Event>)> {
    let mut sequences = Vec::new();
    for number in 0..11_u32 {
        let mut prompt: Vec<u32> = (0..5 + 9 * number).map(|at| 300 + number * 7 + at).collect();
        if number == CULPRIT as u32 {
            prompt.push(POISON);
        }
        let sampling = Sampling { temperature: 0.8, seed: u64::from(number), ..Sampling::greedy() };
        let request = Request { sampling, ..request(u128::from(number % 3), prompt, 12) };
        sequences.push(driver.submit(request).unwrap());
    }
    driver.finish();
    sequences.iter_mut().map(read).collect()
}

#[test]
fn who_makes_a_step_fail_fails_alone_and_the_others_never_notice() {
    for compute_threads in [1, 2] {
        let quiet = run(&mut driver(None, compute_threads));
        for fault in FAULTS {
            let mut driver = driver(Some(fault), compute_threads);
            let struck = run(&mut driver);

            for (number, ((ids, end), (quiet, _))) in struck.iter().zip(&quiet).enumerate() {
                if number == CULPRIT {
                    let failed = matches!(
                        end,
                        Some(Event::Failed {
                            failure: Failure::Forward(_) | Failure::NotANumber { .. },
                            ..
                        })
                    );
                    assert!(failed && ids.is_empty(), "{fault:?}: {end:?}");
                } else {
                    let whole =
                        matches!(end, Some(Event::Finished { reason: FinishReason::Length, .. }));
                    assert!(whole, "{fault:?}, {number}: {end:?}");
                    assert_eq!(ids, quiet, "{fault:?}: sequence {number} as if nothing happened");
                }
            }
        }
    }
}

#[test]
fn attempts_that_came_to_nothing_are_the_platforms_time() {
    for fault in FAULTS {
        let mut driver = driver(Some(fault), 1);
        let struck = run(&mut driver);

        let told = struck.iter().filter_map(|(_, end)| end.as_ref()?.usage());
        let told: GpuTime = told.map(|usage| usage.gpu).sum();
        let accounts = driver.accounts();
        assert_eq!(accounts.owned(), accounts.wall);
        assert_eq!(accounts.requests, told, "{fault:?}: what readers were told");
        assert!(accounts.overhead >= nanos(STEP_TIME), "{fault:?}: {accounts:?}");
    }
    let mut quiet = driver(None, 1);
    run(&mut quiet);
    assert_eq!(quiet.accounts().overhead, GpuTime::ZERO, "nothing else moves this clock");
}

#[test]
fn a_failure_that_does_not_come_again_fails_nobody() {
    let struck = AtomicBool::new(false);
    let rig = move |step: &Step, _: &mut Vec<f32>| {
        if step.tokens.len() > 30 && !struck.swap(true, Ordering::Relaxed) {
            candle_core::bail!("a cosmic ray");
        }
        Ok(())
    };
    let mut driver = Driver::new(EngineConfig::default(), Box::new(rig));
    let ends = run(&mut driver);
    assert!(ends.iter().all(|(ids, _)| ids.len() == 12), "{ends:?}");
    assert!(driver.accounts().overhead > GpuTime::ZERO, "the first attempt is ours");
}

#[test]
fn when_everything_fails_everybody_is_told() {
    let mut driver =
        Driver::new(EngineConfig::default(), Box::new(|_, _| candle_core::bail!("no device")));
    let ends = run(&mut driver);
    assert!(ends.iter().all(|(_, end)| matches!(end, Some(Event::Failed { .. }))));
    let accounts = driver.accounts();
    assert_eq!((accounts.requests, accounts.overhead), (GpuTime::ZERO, accounts.wall));
    assert_eq!(driver.steps.blocks.free(), driver.steps.blocks.total());
}

fn nanos(time: Duration) -> GpuTime {
    GpuTime::from_nanos(u64::try_from(time.as_nanos()).unwrap())
}

/// Occurs nowhere else, as far as the seeds go.
const POISON: u32 = 4001;
const CULPRIT: usize = 4;
