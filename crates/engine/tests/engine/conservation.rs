//! The conservation law: whatever happens to sequences, every nanosecond has one owner, and what readers
//! were told is what the accounts say.

use std::time::Instant;

use domain::{FinishReason, GpuTime, Usage};
use engine::{Engine, EngineConfig, Event, Request, Sequence};
use proptest::prelude::*;
use tokio::task::JoinSet;

use crate::support::{answer, block_on, collect, endless, start, until};

/// What becomes of a sequence.
#[derive(Clone, Copy, Debug)]
enum Fate {
    ReadToItsEnd,
    StoppedAtOnce,
    StoppedAfterTokens(u32),
    /// Pauses at its allowance, is extended, and pauses again, until its budget ends it.
    StoppedAtItsBudget(u32),
    ContinuedFromElsewhere(u32),
    DroppedAtOnce,
    DroppedAfterTokens(u32),
    /// Ends by itself, and nobody reads it.
    LeftUnread,
    /// Pauses at its allowance, and nobody reads it.
    LeftPaused(u32),
    WaivedAtOnce,
    WaivedAfterTokens(u32),
    /// Ends by itself and is read; another worker was faster all the same.
    WaivedAfterItsEnd,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    prompt: u32,
    output: u32,
    fate: Fate,
}

/// What its reader has in the end.
enum Held {
    /// The last event.
    End(Usage),
    /// A sequence whose last event was not read.
    Unread(Sequence),
    /// The last event of a sequence that was waived, before it or after it.
    Waived(Usage),
    /// Nothing; its tokens had taken so long when it was dropped.
    Nothing { told: GpuTime },
}

impl Plan {
    async fn run(self, engine: Engine) -> Held {
        let mut sequence = engine.submit(self.request()).unwrap();
        match self.fate {
            Fate::ReadToItsEnd | Fate::ContinuedFromElsewhere(_) => {}
            Fate::StoppedAtOnce => sequence.stop(FinishReason::Cancelled),
            Fate::StoppedAfterTokens(count) => {
                read(&mut sequence, count).await;
                sequence.stop(FinishReason::Cancelled);
            }
            Fate::StoppedAtItsBudget(allowance) => {
                read(&mut sequence, allowance).await;
                sequence.extend(2 * allowance);
                read(&mut sequence, allowance).await;
                sequence.stop(FinishReason::Budget);
            }
            Fate::DroppedAtOnce => return Held::Nothing { told: GpuTime::ZERO },
            Fate::DroppedAfterTokens(count) => {
                return Held::Nothing { told: read(&mut sequence, count).await };
            }
            Fate::LeftUnread | Fate::LeftPaused(_) => return Held::Unread(sequence),
            Fate::WaivedAtOnce => return waived(sequence).await,
            Fate::WaivedAfterTokens(count) => {
                read(&mut sequence, count).await;
                return waived(sequence).await;
            }
            Fate::WaivedAfterItsEnd => {
                let usage = collect(&mut sequence).await.usage;
                sequence.waive();
                return Held::Waived(usage);
            }
        }
        Held::End(collect(&mut sequence).await.usage)
    }

    fn request(self) -> Request {
        let Self { prompt, output, fate } = self;
        let mut request = Request {
            prompt: (0..prompt).map(|position| 300 + position % 3_000).collect(),
            max_output: 1_500,
            allowance: 1_500,
            ..endless()
        };
        match fate {
            Fate::ReadToItsEnd | Fate::LeftUnread | Fate::WaivedAfterItsEnd => {
                request.max_output = output;
            }
            Fate::ContinuedFromElsewhere(before) => {
                request.generated = vec![500; before as usize];
                request.max_output = before + output;
            }
            Fate::StoppedAtItsBudget(allowance) | Fate::LeftPaused(allowance) => {
                request.allowance = allowance;
            }
            Fate::StoppedAtOnce
            | Fate::StoppedAfterTokens(_)
            | Fate::DroppedAtOnce
            | Fate::DroppedAfterTokens(_)
            | Fate::WaivedAtOnce
            | Fate::WaivedAfterTokens(_) => {}
        }
        request
    }

    const fn stays_in_the_engine(self) -> bool {
        matches!(self.fate, Fate::LeftPaused(_))
    }
}

/// Waives a sequence, and reads how it ends.
async fn waived(mut sequence: Sequence) -> Held {
    sequence.waive();
    Held::Waived(collect(&mut sequence).await.usage)
}

/// Reads at least `count` tokens; the time they took.
async fn read(sequence: &mut Sequence, count: u32) -> GpuTime {
    let (mut read, mut time) = (0, GpuTime::ZERO);
    while read < count {
        let Some(Event::Tokens { ids, gpu, .. }) = sequence.next().await else {
            panic!("it runs on")
        };
        read += ids.len() as u32;
        time += gpu;
    }
    time
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let tokens = 1..12_u32;
    let fate = prop_oneof![
        4 => Just(Fate::ReadToItsEnd),
        1 => Just(Fate::StoppedAtOnce),
        1 => tokens.clone().prop_map(Fate::StoppedAfterTokens),
        1 => tokens.clone().prop_map(Fate::StoppedAtItsBudget),
        2 => (1..60_u32).prop_map(Fate::ContinuedFromElsewhere),
        1 => Just(Fate::DroppedAtOnce),
        1 => tokens.clone().prop_map(Fate::DroppedAfterTokens),
        1 => Just(Fate::LeftUnread),
        // Fewer than there are places, or nobody else would ever run.
        1 => tokens.clone().prop_map(Fate::LeftPaused),
        1 => Just(Fate::WaivedAtOnce),
        1 => tokens.prop_map(Fate::WaivedAfterTokens),
        1 => Just(Fate::WaivedAfterItsEnd),
    ];
    let plan = (1..200_u32, 1..25_u32, fate).prop_map(|(prompt, output, fate)| Plan {
        prompt,
        output,
        fate,
    });
    let few_stay = |plans: &Vec<Plan>| {
        plans.iter().filter(|plan| plan.stays_in_the_engine()).count() < PLACES as usize
    };
    prop::collection::vec(plan, 10..40).prop_filter("somebody must be able to run", few_stay)
}

/// Everything that readers hold after a load.
#[derive(Default)]
struct Outcome {
    ends: Vec<Usage>,
    unread: Vec<Sequence>,
    waived: Vec<Usage>,
    told_before_dropping: GpuTime,
}

async fn run_all(engine: &Engine, plans: &[Plan]) -> Outcome {
    let mut tasks = JoinSet::new();
    for plan in plans {
        tasks.spawn(plan.run(engine.clone()));
    }
    let mut outcome = Outcome::default();
    for held in tasks.join_all().await {
        match held {
            Held::End(usage) => outcome.ends.push(usage),
            Held::Unread(sequence) => outcome.unread.push(sequence),
            Held::Waived(usage) => outcome.waived.push(usage),
            Held::Nothing { told } => outcome.told_before_dropping += told,
        }
    }
    outcome
}

fn check_conservation(plans: &[Plan]) -> Result<(), TestCaseError> {
    let begin = Instant::now();
    let config =
        EngineConfig { max_sequences: PLACES, prefill_chunk: 16, ..EngineConfig::default() };
    let engine = start(config);
    let staying = plans.iter().filter(|plan| plan.stays_in_the_engine()).count() as u32;
    let (outcome, before, after) = block_on(async {
        let mut outcome = run_all(&engine, plans).await;
        let before = until(&engine, |state| {
            (state.running, state.paused, state.waiting) == (staying, staying, 0)
        });
        let before = before.await;
        outcome.unread.clear();
        // What comes after the drops is done after them: nothing has to be waited for that may never come.
        outcome.ends.push(answer(&engine, Request { max_output: 1, ..endless() }).await.usage);
        let after = until(&engine, |state| {
            state.running == 0 && state.produced_tokens == before.produced_tokens + 1
        });
        let after = after.await;
        (outcome, before.accounts, after.accounts)
    });

    let delivered: GpuTime = outcome.ends.iter().map(|usage| usage.gpu).sum();
    let recomputed: GpuTime = outcome.ends.iter().map(|usage| usage.times.recompute).sum();
    let waived: GpuTime = outcome.waived.iter().map(|usage| usage.gpu).sum();
    for usage in &outcome.ends {
        prop_assert_eq!(usage.gpu, usage.times.prefill + usage.times.decode);
    }
    prop_assert_eq!(after.requests, delivered, "what readers were told is what requests took");
    prop_assert_eq!(after.migration, recomputed);
    prop_assert_eq!(after.preemption, GpuTime::ZERO);
    let last = outcome.ends.last().map_or(GpuTime::ZERO, |usage| usage.gpu);
    let unread = before.requests + last - delivered;
    prop_assert_eq!(after.hedge, waived, "what was waived is a hedge's, whoever read it");
    let moved = after.abandoned + after.hedge;
    prop_assert_eq!(moved, before.abandoned + before.hedge + unread, "what nobody read was moved");
    prop_assert!(before.abandoned >= outcome.told_before_dropping, "{before:?}");
    for accounts in [before, after] {
        prop_assert_eq!(accounts.owned(), accounts.wall);
        prop_assert!(u128::from(accounts.wall.nanos()) <= begin.elapsed().as_nanos());
    }
    Ok(())
}

proptest! {
    // A case takes a second, and a smaller one that fails is not worth a minute.
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_becomes_of_sequences_every_nanosecond_has_one_owner(plans in plans()) {
        check_conservation(&plans)?;
    }
}

#[test]
fn time_that_nobody_hears_of_is_abandoned_at_that_moment() {
    let engine = start(EngineConfig::default());
    block_on(async {
        // One pauses, one is over.
        let paused = engine.submit(Request { allowance: 3, ..endless() }).unwrap();
        let paused_alone = until(&engine, |state| state.paused == 1).await.accounts.requests;
        let over = engine.submit(Request { max_output: 4, ..endless() }).unwrap();
        let both = until(&engine, |state| state.running == 1 && state.produced_tokens == 7).await;
        assert_eq!(both.accounts.abandoned, GpuTime::ZERO, "their readers may still come");

        drop(over);
        let over = both.accounts.requests - paused_alone;
        let accounts = until(&engine, |state| state.accounts.abandoned.nanos() > 0).await.accounts;
        assert_eq!((accounts.requests, accounts.abandoned), (paused_alone, over));
        assert_eq!(accounts.owned(), accounts.wall);

        drop(paused);
        let accounts = until(&engine, |state| state.running == 0).await.accounts;
        assert_eq!(
            (accounts.requests, accounts.abandoned),
            (GpuTime::ZERO, both.accounts.requests)
        );
    });
}

#[test]
fn a_waived_sequence_is_a_hedges_once_whoever_lets_go_of_it_when() {
    let engine = start(EngineConfig::default());
    block_on(async {
        // One pauses, one is over and nobody has read that.
        let paused = engine.submit(Request { allowance: 3, ..endless() }).unwrap();
        let paused_alone = until(&engine, |state| state.paused == 1).await.accounts.requests;
        let over = engine.submit(Request { max_output: 4, ..endless() }).unwrap();
        let both = until(&engine, |state| state.running == 1 && state.produced_tokens == 7).await;
        let over_alone = both.accounts.requests - paused_alone;

        over.waive();
        over.waive();
        drop(over);
        let accounts = until(&engine, |state| state.accounts.hedge.nanos() > 0).await.accounts;
        assert_eq!((accounts.requests, accounts.hedge), (paused_alone, over_alone));

        // It ends by that alone, also while somebody may still read it.
        paused.waive();
        let accounts = until(&engine, |state| state.running == 0).await.accounts;
        drop(paused);
        assert_eq!((accounts.requests, accounts.hedge), (GpuTime::ZERO, both.accounts.requests));
        assert_eq!((accounts.abandoned, accounts.owned()), (GpuTime::ZERO, accounts.wall));
    });
}

const PLACES: u32 = 6;
