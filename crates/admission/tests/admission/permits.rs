//! Every way out of a request settles exactly once.

use admission::tenancy::Record;
use admission::{AdmitError, Outcome};
use domain::{ErrorKind, FinishReason, GpuTime, NanoUsd, Price, Timestamp, Usage};

use crate::world::{Limits, Rules, World, job, priced_job};

fn used(prompt_tokens: u32, completion_tokens: u32) -> Usage {
    let gpu = GpuTime::from_nanos(1000);
    Usage { prompt_tokens, completion_tokens, gpu, ..Usage::default() }
}

#[tokio::test]
async fn a_settled_permit_leaves_one_row_and_no_hold() {
    let world = World::new(Rules::default(), 1).await;

    let permit = world.admission.reserve(&world.callers[0], &job(10, 100)).await.unwrap();
    permit.record(used(10, 7), NanoUsd::from_nanos(5));
    let receipt = permit.settle(Outcome::Finished(FinishReason::Stop)).await;

    // 10 x 100 + 7 x 400 nano-dollars
    assert_eq!(receipt.entry.charge.charge, NanoUsd::from_nanos(3_800));
    assert_eq!(receipt.entry.charge.cost, NanoUsd::from_nanos(5));
    assert_eq!(world.ledger.closed.lock().unwrap().as_slice(), &[receipt.entry]);
    assert_eq!(world.open_holds().await, 0);
}

#[tokio::test]
async fn a_dropped_permit_settles_what_was_used_so_far() {
    let world = World::new(Rules::default(), 1).await;

    let permit = world.admission.reserve(&world.callers[0], &job(10, 100)).await.unwrap();
    permit.record(used(10, 3), NanoUsd::ZERO);
    drop(permit);
    world.admission.close().await;

    let rows = world.ledger.closed.lock().unwrap().clone();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].outcome, Outcome::ClientGone);
    assert_eq!(rows[0].charge.charge, NanoUsd::from_nanos(2_200));
    assert_eq!(world.open_holds().await, 0);
}

#[tokio::test]
async fn a_request_that_was_never_computed_pays_nothing() {
    let world = World::new(Rules::default(), 1).await;

    let permit = world.admission.reserve(&world.callers[0], &job(10, 100)).await.unwrap();
    let receipt = permit.settle(Outcome::failed(ErrorKind::Overloaded)).await;

    assert_eq!(receipt.entry.charge.charge, NanoUsd::ZERO);
    assert_eq!(receipt.entry.outcome.name(), "overloaded");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_cannot_be_written_now_is_written_later_and_the_hold_waits_for_it() {
    let world = World::new(Rules::default(), 1).await;

    let permit = world.admission.reserve(&world.callers[0], &job(10, 100)).await.unwrap();
    permit.record(used(10, 1), NanoUsd::ZERO);
    *world.ledger.failures.lock().unwrap() = 3;
    permit.settle(Outcome::Finished(FinishReason::Stop)).await;
    assert_eq!(world.open_holds().await, 1, "the row is not written yet");
    world.admission.close().await;

    assert_eq!(world.ledger.closed.lock().unwrap().len(), 1);
    assert_eq!(world.open_holds().await, 0);
}

#[tokio::test]
async fn a_request_that_cannot_be_noted_is_not_admitted() {
    let world = World::new(Rules::default(), 1).await;

    *world.ledger.failures.lock().unwrap() = 1;
    let refused = world.admission.reserve(&world.callers[0], &job(10, 100)).await;

    assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Unavailable));
    assert_eq!(world.open_holds().await, 0);
}

#[tokio::test]
async fn a_concurrency_slot_is_free_when_settled() {
    let limits = Limits { concurrent_requests: Some(1), ..Limits::default() };
    let world = World::new(Rules { project: (limits, None), ..Rules::default() }, 2).await;
    let [first, second] = [&world.callers[0], &world.callers[1]];

    let permit = world.admission.reserve(first, &job(1, 1)).await.unwrap();
    let refused = world.admission.reserve(second, &job(1, 1)).await;
    assert!(matches!(refused, Err(AdmitError::LimitReached { .. })), "one project, one slot");
    permit.settle(Outcome::Finished(FinishReason::Stop)).await;

    assert!(world.admission.reserve(second, &job(1, 1)).await.is_ok());
}

#[tokio::test]
async fn a_model_priced_by_gpu_time_is_never_free_and_never_beyond_its_hold() {
    let rules =
        Rules { key: (Limits::default(), Some(NanoUsd::from_dollars(1))), ..Rules::default() };
    let world = World::new(rules, 1).await;
    let price = Price::GpuTime { per_hour: NanoUsd::from_dollars(4), markup_percent: 150 };

    let permit =
        world.admission.reserve(&world.callers[0], &priced_job(10, 5, price)).await.unwrap();
    let hour = GpuTime::from_nanos(3_600_000_000_000);
    permit.record(Usage { gpu: hour, ..used(10, 5) }, NanoUsd::from_dollars(4));
    let entry = permit.settle(Outcome::Finished(FinishReason::Length)).await.entry;

    assert!(entry.charge.charge > NanoUsd::ZERO);
    assert!(entry.charge.charge < NanoUsd::from_dollars(1), "more than was held");
    assert_eq!(entry.charge.charge + entry.overrun, NanoUsd::from_dollars(6));
}

#[tokio::test]
async fn a_revoked_key_is_refused_after_the_next_refresh_and_stays_refused() {
    let world = World::new(Rules::default(), 1).await;
    let key = world.keys[0].expose();
    let before = world.tenants.0.lock().unwrap().clone();

    {
        let mut snapshot = world.tenants.0.lock().unwrap();
        snapshot.revision += 1;
        let Some(Record::Key(key)) = snapshot.records.last_mut() else { panic!("no key") };
        key.revoked_at = Some(Timestamp::from_millis(1));
    }
    world.directory.refresh().await.unwrap();
    assert!(matches!(world.directory.identify(key), Err(AdmitError::KeyRevoked { .. })));

    // An older state that arrives late, from a lagging replica say, changes nothing.
    *world.tenants.0.lock().unwrap() = before;
    world.directory.refresh().await.unwrap();
    assert!(matches!(world.directory.identify(key), Err(AdmitError::KeyRevoked { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_minute_later_there_is_room_again() {
    let limits = Limits { requests_per_minute: Some(2), ..Limits::default() };
    let world = World::new(Rules { key: (limits, None), ..Rules::default() }, 1).await;
    let caller = &world.callers[0];

    for _ in 0..2 {
        let permit = world.admission.reserve(caller, &job(1, 1)).await.unwrap();
        permit.settle(Outcome::Finished(FinishReason::Stop)).await;
    }
    let Err(AdmitError::LimitReached { retry_in, .. }) =
        world.admission.reserve(caller, &job(1, 1)).await
    else {
        panic!("the third request of a minute was admitted")
    };
    world.clock.advance(retry_in);
    tokio::time::advance(retry_in).await;

    assert!(world.admission.reserve(caller, &job(1, 1)).await.is_ok());
}
