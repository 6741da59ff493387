//! A budget is never overspent and never blocks early.

use admission::{AdmitError, Extension, Outcome, Permit};
use domain::{FinishReason, GpuTime, NanoUsd, Usage};
use proptest::prelude::*;

use crate::world::{Limits, Rules, World, job};

/// Runs one stream the way the gateway does, as far as its budget allows: tokens produced.
async fn stream(permit: &Permit, prompt: u32, wanted: u32) -> u32 {
    for produced in 1..=wanted {
        let gpu = GpuTime::from_nanos(u64::from(produced));
        let usage =
            Usage { prompt_tokens: prompt, completion_tokens: produced, gpu, ..Usage::default() };
        assert!(produced <= permit.allowance(), "the worker would have stopped before");
        permit.record(usage, NanoUsd::ZERO);
        if permit.runs_short() && permit.extend().await == Extension::Refused && permit.is_used_up()
        {
            return produced;
        }
    }
    wanted
}

#[tokio::test]
async fn a_stream_ends_at_the_last_token_that_the_budget_pays_for() {
    let amount = NanoUsd::from_nanos(50_000);
    let rules = Rules { organization: (Limits::default(), Some(amount)), ..Rules::default() };
    let world = World::new(rules, 1).await;

    let permit = world.admission.reserve(&world.callers[0], &job(10, 10_000)).await.unwrap();
    let produced = stream(&permit, 10, 10_000).await;
    permit.settle(Outcome::Finished(FinishReason::Budget)).await;

    // (50 000 - 10 x 100) / 400 tokens, and not one less.
    assert_eq!(produced, 122);
    assert_eq!(world.ledger.charged(), NanoUsd::from_nanos(49_800));
    let refused = world.admission.reserve(&world.callers[0], &job(10, 1)).await;
    assert!(matches!(refused, Err(AdmitError::BudgetExceeded { .. })));
}

#[tokio::test]
async fn a_long_request_begins_on_a_budget_that_does_not_pay_for_its_longest_answer() {
    let amount = NanoUsd::from_nanos(1_000 + 400);
    let rules = Rules { key: (Limits::default(), Some(amount)), ..Rules::default() };
    let world = World::new(rules, 1).await;

    let permit = world.admission.reserve(&world.callers[0], &job(10, 10_000)).await.unwrap();

    assert_eq!(permit.allowance(), 1, "one token is paid for, so one token may be produced");
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Reserve { key: usize, prompt: u32, max_output: u32 },
    Produce { permit: usize, tokens: u32 },
    Settle { permit: usize },
    Drop { permit: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_usize..3, 1_u32..200, 1_u32..500)
            .prop_map(|(key, prompt, max_output)| Step::Reserve { key, prompt, max_output }),
        6 => (0_usize..8, 1_u32..100).prop_map(|(permit, tokens)| Step::Produce { permit, tokens }),
        2 => (0_usize..8).prop_map(|permit| Step::Settle { permit }),
        1 => (0_usize..8).prop_map(|permit| Step::Drop { permit }),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A permit and what its stream has come to.
struct Running {
    permit: Permit,
    prompt: u32,
    produced: u32,
    max_output: u32,
}

impl Running {
    async fn produce(&mut self, tokens: u32) {
        for _ in 0..tokens {
            if self.produced >= self.max_output || self.produced >= self.permit.allowance() {
                return;
            }
            self.produced += 1;
            let gpu = GpuTime::from_nanos(u64::from(self.produced));
            let usage = Usage {
                prompt_tokens: self.prompt,
                completion_tokens: self.produced,
                gpu,
                ..Usage::default()
            };
            self.permit.record(usage, NanoUsd::ZERO);
            if self.permit.runs_short() {
                self.permit.extend().await;
            }
        }
    }
}

/// Plays a history and returns the world, quiet again, and how many requests were admitted.
async fn play(history: Vec<Step>, rules: Rules) -> (World, usize) {
    let world = World::new(rules, 3).await;
    let mut running: Vec<Running> = Vec::new();
    let mut admitted = 0;
    for step in history {
        match step {
            Step::Reserve { key, prompt, max_output } if running.len() < 8 => {
                let job = job(prompt as usize, max_output);
                if let Ok(permit) = world.admission.reserve(&world.callers[key], &job).await {
                    admitted += 1;
                    running.push(Running { permit, prompt, produced: 0, max_output });
                }
            }
            Step::Produce { permit, tokens } if permit < running.len() => {
                running[permit].produce(tokens).await;
            }
            Step::Settle { permit } if permit < running.len() => {
                let ended = running.swap_remove(permit);
                ended.permit.settle(Outcome::Finished(FinishReason::Stop)).await;
            }
            Step::Drop { permit } if permit < running.len() => drop(running.swap_remove(permit)),
            _ => {}
        }
    }
    drop(running);
    world.admission.close().await;
    (world, admitted)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_no_budget_is_overspent_and_no_hold_is_left(
        history in steps(),
        organization in 0_i64..2_000_000,
        project in 0_i64..1_000_000,
        key in 0_i64..500_000,
    ) {
        let budget = |nanos| (Limits::default(), Some(NanoUsd::from_nanos(nanos)));
        let rules = Rules {
            organization: budget(organization),
            project: budget(project),
            key: budget(key),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (world, admitted) = play(history, rules).await;
            let rows = world.ledger.closed.lock().unwrap().clone();
            let charged: NanoUsd = rows.iter().map(|row| row.charge.charge).sum();
            prop_assert!(charged.nanos() <= organization.min(project));
            for caller in &world.callers {
                let own = rows.iter().filter(|row| row.admitted.scope.key == caller.scope().key);
                let own: NanoUsd = own.map(|row| row.charge.charge).sum();
                prop_assert!(own.nanos() <= key);
            }
            prop_assert!(rows.iter().all(|row| row.overrun == NanoUsd::ZERO));
            prop_assert_eq!(rows.len(), admitted);
            prop_assert_eq!(world.ledger.opened.lock().unwrap().len(), admitted);
            prop_assert_eq!(world.open_holds().await, 0);
            Ok(())
        })?;
    }
}
