//! What every [`Quota`] must do. The memory implementation is the first to be held to it.

use std::sync::Arc;
use std::time::Duration;

use admission::{Ask, Budget, LimitKind, Limits, Place, Quota, Refusal, Spent};
use domain::{HoldId, ManualClock, NanoUsd, ScopeId};
use proptest::prelude::*;
use store::MemoryQuota;

use crate::world::{clock, scope};

fn memory() -> (Arc<dyn Quota>, Arc<ManualClock>) {
    let clock = clock();
    (Arc::new(MemoryQuota::new(Arc::clone(&clock) as _, [])), clock)
}

fn nanos(amount: i64) -> NanoUsd {
    NanoUsd::from_nanos(amount)
}

fn places(limits: Limits, budget: Option<i64>) -> [Place; 3] {
    let budget = budget.map(|amount| Budget { amount: nanos(amount) });
    scope().levels().map(|scope| Place { scope, limits, budget })
}

fn ask(places: [Place; 3], tokens: u32, least: i64, most: i64) -> Ask {
    Ask { hold: HoldId::generate(), places, tokens, least: nanos(least), most: nanos(most) }
}

#[tokio::test]
async fn a_refusal_by_one_place_takes_nothing_from_the_others() {
    let (quota, _) = memory();
    let mut uneven = places(Limits::default(), Some(1_000));
    uneven[2].budget = Some(Budget { amount: nanos(10) });

    let refused = quota.reserve(&ask(uneven, 1, 11, 11)).await.unwrap();
    assert_eq!(refused, Err(Refusal::Budget { scope: uneven[2].scope, amount: nanos(10) }));

    let all = ask(places(Limits::default(), Some(1_000)), 1, 1_000, 1_000);
    assert!(quota.reserve(&all).await.unwrap().is_ok(), "nothing was taken before");
}

#[tokio::test]
async fn settling_twice_counts_once_and_gives_back_the_rest() {
    let (quota, _) = memory();
    let places = places(Limits::default(), Some(100));

    let first = ask(places, 1, 60, 60);
    quota.reserve(&first).await.unwrap().unwrap();
    let spent = Spent { amount: nanos(40), tokens: 1 };
    quota.settle(first.hold, spent).await.unwrap();
    quota.settle(first.hold, spent).await.unwrap();

    assert!(quota.reserve(&ask(places, 1, 61, 61)).await.unwrap().is_err());
    assert!(quota.reserve(&ask(places, 1, 60, 60)).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_budget_remembers_what_was_spent_before() {
    let spent = scope().levels().map(|scope| (scope, nanos(90)));
    let quota = MemoryQuota::new(clock(), spent);
    let places = places(Limits::default(), Some(100));

    assert!(quota.reserve(&ask(places, 1, 11, 11)).await.unwrap().is_err());
    assert!(quota.reserve(&ask(places, 1, 10, 10)).await.unwrap().is_ok());
}

#[tokio::test]
async fn holds_get_smaller_near_the_end_of_a_budget_so_that_many_can_share_it() {
    let (quota, _) = memory();
    let places = places(Limits::default(), Some(1_000));

    let mut admitted = 0;
    while quota.reserve(&ask(places, 1, 10, 1_000)).await.unwrap().is_ok() {
        admitted += 1;
    }

    assert!(admitted > 20, "{admitted} requests shared the budget");
}

#[tokio::test]
async fn a_running_hold_is_extended_up_to_the_last_nano_dollar() {
    let (quota, _) = memory();
    let places = places(Limits::default(), Some(100));
    let first = ask(places, 1, 10, 10);
    quota.reserve(&first).await.unwrap().unwrap();

    let mut held = 10;
    while let Ok(grant) = quota.extend(first.hold, nanos(1), nanos(50), 1).await.unwrap() {
        held += grant.amount.nanos();
    }

    assert_eq!(held, 100);
    let unknown = quota.extend(HoldId::generate(), nanos(1), nanos(1), 1).await;
    assert!(unknown.is_err(), "a hold that is not open cannot be extended");
}

#[tokio::test]
async fn a_minute_holds_as_many_requests_as_the_limit_and_not_one_more() {
    let (quota, clock) = memory();
    let places = places(Limits { requests_per_minute: Some(5), ..Limits::default() }, None);

    for _ in 0..5 {
        assert!(quota.reserve(&ask(places, 1, 0, 0)).await.unwrap().is_ok());
    }
    let refused = quota.reserve(&ask(places, 1, 0, 0)).await.unwrap();
    let Err(Refusal::Limit { scope, limit, retry_in, .. }) = refused else {
        panic!("the sixth request was admitted")
    };
    assert_eq!((scope, limit), (places[0].scope, LimitKind::Requests));

    clock.advance(retry_in.checked_sub(Duration::from_millis(1)).unwrap());
    assert!(quota.reserve(&ask(places, 1, 0, 0)).await.unwrap().is_err(), "not a moment early");
    clock.advance(Duration::from_millis(1));
    assert!(quota.reserve(&ask(places, 1, 0, 0)).await.unwrap().is_ok(), "as promised");
}

#[tokio::test]
async fn tokens_that_were_held_and_not_used_are_given_back() {
    let (quota, _) = memory();
    let places = places(Limits { tokens_per_minute: Some(100), ..Limits::default() }, None);

    let first = ask(places, 90, 0, 0);
    quota.reserve(&first).await.unwrap().unwrap();
    assert!(quota.reserve(&ask(places, 20, 0, 0)).await.unwrap().is_err());
    quota.settle(first.hold, Spent { amount: NanoUsd::ZERO, tokens: 10 }).await.unwrap();

    assert!(quota.reserve(&ask(places, 90, 0, 0)).await.unwrap().is_ok());
}

#[tokio::test]
async fn what_no_minute_can_hold_is_told_apart_from_what_must_wait() {
    let (quota, _) = memory();
    let places = places(Limits { tokens_per_minute: Some(100), ..Limits::default() }, None);

    let refused = quota.reserve(&ask(places, 101, 0, 0)).await.unwrap();

    assert_eq!(refused, Err(Refusal::LargerThanLimit { scope: places[0].scope, max: 100 }));
}

#[tokio::test]
async fn a_scope_with_a_limit_of_zero_admits_nothing() {
    let (quota, _) = memory();
    for limits in [
        Limits { requests_per_minute: Some(0), ..Limits::default() },
        Limits { concurrent_requests: Some(0), ..Limits::default() },
    ] {
        assert!(quota.reserve(&ask(places(limits, None), 1, 0, 0)).await.unwrap().is_err());
    }
    let broke = ask(places(Limits::default(), Some(0)), 1, 0, 0);
    assert!(quota.reserve(&broke).await.unwrap().is_err(), "a budget of nothing pays for nothing");
}

/// One operation of a random history.
#[derive(Clone, Debug)]
enum Operation {
    Reserve { tokens: u32, least: i64, more: i64 },
    Extend { hold: usize, least: i64, more: i64 },
    Settle { hold: usize, share: u8 },
    Wait { millis: u64 },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation =
        prop_oneof![
            (1_u32..50, 0_i64..300, 0_i64..300)
                .prop_map(|(tokens, least, more)| Operation::Reserve { tokens, least, more }),
            (0_usize..20, 0_i64..100, 0_i64..100)
                .prop_map(|(hold, least, more)| Operation::Extend { hold, least, more }),
            (0_usize..20, any::<u8>()).prop_map(|(hold, share)| Operation::Settle { hold, share }),
            (0_u64..5_000).prop_map(|millis| Operation::Wait { millis }),
        ];
    proptest::collection::vec(operation, 1..200)
}

proptest! {
    #[test]
    fn held_plus_spent_never_exceeds_a_budget(history in operations(), budget in 0_i64..3_000) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (quota, clock) = memory();
            let places = places(Limits::default(), Some(budget));
            let mut holds: Vec<(HoldId, i64)> = Vec::new();
            let mut spent = 0;
            for operation in history {
                match operation {
                    Operation::Reserve { tokens, least, more } => {
                        let ask = ask(places, tokens, least, least + more);
                        if let Ok(grant) = quota.reserve(&ask).await.unwrap() {
                            prop_assert!(grant.amount >= ask.least && grant.amount <= ask.most);
                            holds.push((ask.hold, grant.amount.nanos()));
                        } else {
                            let held: i64 = holds.iter().map(|(_, amount)| amount).sum();
                            let left = budget - held - spent;
                            prop_assert!(left < least || left <= 0, "refused with {left} left");
                        }
                    }
                    Operation::Extend { hold, least, more } if hold < holds.len() => {
                        let (id, amount) = &mut holds[hold];
                        let wanted = quota.extend(*id, nanos(least), nanos(least + more), 1).await;
                        if let Ok(grant) = wanted.unwrap() { *amount += grant.amount.nanos() }
                    }
                    Operation::Settle { hold, share } if hold < holds.len() => {
                        let (id, amount) = holds.swap_remove(hold);
                        let used = amount * i64::from(share) / 255;
                        let used_up = Spent { amount: nanos(used), tokens: 1 };
                        quota.settle(id, used_up).await.unwrap();
                        spent += used;
                    }
                    Operation::Wait { millis } => clock.advance(Duration::from_millis(millis)),
                    _ => {}
                }
                let held: i64 = holds.iter().map(|(_, amount)| amount).sum();
                prop_assert!(held + spent <= budget);
                prop_assert_eq!(quota.open_holds().await.unwrap(), holds.len());
            }
            Ok(())
        })?;
    }
}

#[test]
fn scopes_read_back_what_they_print() {
    for scope in scope().levels() {
        assert_eq!(scope.to_string().parse::<ScopeId>(), Ok(scope));
    }
}
