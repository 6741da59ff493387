use domain::{CacheSalt, GpuTime, OutputRules, ProjectId, RequestId, Sampling, Share, Usage};

use super::*;

fn start(prompt: usize, max_output: u32) -> Start {
    Start {
        request: RequestId::generate(),
        model: domain::ModelDigest::new("m"),
        prompt: vec![1; prompt].into(),
        generated: Vec::new(),
        max_output,
        allowance: max_output,
        sampling: Sampling::greedy(),
        output: OutputRules::default(),
        share: Share::of(ProjectId::from_u128(1)),
        salt: CacheSalt::of(ProjectId::from_u128(1)),
    }
}

/// One that is to say some tokens, one each `pace`; says when it went, or `None` if it ended here.
async fn run(mut seat: Seat, max_output: u32, pace: Duration) -> Option<Duration> {
    let began = Instant::now();
    for first in 0..max_output {
        tokio::select! {
            () = seat.told_to_go() => {
                let reason = FinishReason::Cancelled;
                let told = seat.saw(Event::Finished { reason, usage: Usage::default() });
                assert!(matches!(told, Event::HandedOver { .. }), "{told:?}");
                return Some(began.elapsed());
            }
            () = tokio::time::sleep(pace) => {}
        }
        let gpu = GpuTime::from_nanos(1_000_000);
        seat.saw(Event::Tokens { first, ids: vec![1], gpu, logprobs: Vec::new(), cached: 0 });
    }
    let usage = Usage::default();
    seat.saw(Event::Finished { reason: FinishReason::Length, usage });
    None
}

const PACE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// A drain that decides by itself.
fn drain() -> Arc<Drain> {
    let drain = Drain::new();
    tokio::spawn(Arc::clone(&drain).evacuate());
    drain
}

#[tokio::test(start_paused = true)]
async fn who_can_end_in_time_ends_here_and_the_others_are_out_before_the_machine_goes() {
    let drain = drain();
    let short = tokio::spawn(run(drain.seat(&start(10, 100)), 100, PACE));
    let long = tokio::spawn(run(drain.seat(&start(10, 4_000)), 4_000, PACE));
    let longer = tokio::spawn(run(drain.seat(&start(500, 4_000)), 4_000, PACE));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut leaving = drain.watch();

    drain.leave(Some(Duration::from_secs(20)), PATIENCE);

    assert_eq!(leaving.borrow_and_update().stage, Stage::Draining);
    leaving.changed().await.unwrap();
    assert_eq!(leaving.borrow().stage, Stage::Evacuating);
    let told = Instant::now();
    assert_eq!(short.await.unwrap(), None, "it needs 4 s of 20");
    let (long, longer) = (long.await.unwrap().unwrap(), longer.await.unwrap().unwrap());
    assert!(longer < long, "the cheapest to compute again goes last: {longer:?}, {long:?}");
    // A second before the notice, 20 until the machine goes, 2 of them to spare.
    assert!(long <= Duration::from_secs(19), "{long:?}");
    assert!(longer >= Duration::from_secs(17), "as late as it can: {longer:?}");
    assert!(told.elapsed() <= Duration::from_secs(2), "watchers know it before the first one goes");
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_everything_ends_here_that_can_do_so_within_the_drain_timeout() {
    let drain = drain();
    let ends = tokio::spawn(run(drain.seat(&start(10, 500)), 500, PACE));
    let endless = tokio::spawn(run(drain.seat(&start(10, 5_000)), 5_000, PACE));
    tokio::time::sleep(Duration::from_secs(1)).await;

    drain.leave(None, PATIENCE);

    assert_eq!(drain.watch().borrow().leaves_at, None);
    assert_eq!(ends.await.unwrap(), None);
    assert!(endless.await.unwrap().unwrap() > Duration::from_secs(29));
}

#[tokio::test(start_paused = true)]
async fn a_sequence_that_turns_out_slower_than_it_was_goes_after_all() {
    let drain = drain();
    let mut seat = drain.seat(&start(10, 400));
    let says = |first| {
        let gpu = GpuTime::from_nanos(1);
        Event::Tokens { first, ids: vec![1], gpu, logprobs: Vec::new(), cached: 0 }
    };
    for first in 0..10 {
        tokio::time::sleep(PACE / 5).await;
        seat.saw(says(first));
    }
    drain.leave(Some(Duration::from_secs(20)), PATIENCE);

    for first in 10..400 {
        tokio::select! {
            () = seat.told_to_go() => return,
            () = tokio::time::sleep(PACE * 4) => {}
        }
        seat.saw(says(first));
    }

    panic!("it takes 80 s, and 20 were left");
}

#[tokio::test(start_paused = true)]
async fn a_sequence_that_waits_to_be_paid_for_is_handed_over_too() {
    let drain = drain();
    let mut seat = drain.seat(&Start { allowance: 1, ..start(10, 2) });
    let gpu = GpuTime::from_nanos(1);
    seat.saw(Event::Tokens { first: 0, ids: vec![1], gpu, logprobs: Vec::new(), cached: 0 });

    let began = Instant::now();
    drain.leave(Some(Duration::from_secs(20)), PATIENCE);

    seat.told_to_go().await;
    assert!(began.elapsed() >= Duration::from_secs(17), "it may be paid for yet");
}

#[tokio::test(start_paused = true)]
async fn what_has_produced_nothing_and_cannot_end_in_time_goes_at_once() {
    let drain = drain();
    let mut seat = drain.seat(&start(10, 100));
    let began = Instant::now();

    drain.leave(Some(Duration::from_secs(20)), PATIENCE);

    seat.told_to_go().await;
    assert!(began.elapsed() < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_asks_for_the_end_gets_it_even_if_the_sequence_was_told_to_go() {
    let drain = drain();
    let mut seat = drain.seat(&start(10, 100));
    drain.leave(Some(Duration::ZERO), PATIENCE);
    seat.told_to_go().await;

    seat.stop(FinishReason::Stop);
    seat.stop(FinishReason::Budget);
    let usage = Usage { completion_tokens: 7, ..Usage::default() };
    let told = seat.saw(Event::Finished { reason: FinishReason::Cancelled, usage });

    assert_eq!(told, Event::Finished { reason: FinishReason::Stop, usage });
}

#[tokio::test(start_paused = true)]
async fn the_nearest_deadline_counts() {
    let drain = drain();
    let left = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
    drain.leave(None, PATIENCE);
    drain.leave(Some(Duration::from_mins(1)), PATIENCE);
    assert_eq!(drain.watch().borrow().leaves_at, left(60));

    drain.leave(Some(Duration::from_secs(20)), PATIENCE);
    drain.leave(Some(Duration::from_secs(90)), PATIENCE);
    drain.leave(None, PATIENCE);

    assert_eq!(drain.watch().borrow().leaves_at, left(20));
}

#[tokio::test(start_paused = true)]
async fn it_is_out_once_nobody_can_want_blocks_of_what_was_handed_over() {
    let drain = drain();
    let began = Instant::now();
    drain.out().await;
    assert!(began.elapsed() < LINGER, "nothing was handed over");
    let seat = drain.seat(&start(10, 100));
    drain.leave(Some(Duration::from_mins(1)), PATIENCE);

    let gone = run(seat, 100, PACE * 100).await;

    assert!(gone.is_some());
    drain.out().await;
    assert!(began.elapsed() >= LINGER);
}
