use proptest::prelude::*;

use super::*;

fn breaker() -> (Breaker, Instant) {
    let now = Instant::now();
    (Breaker::new(BreakerSettings::default(), now), now)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn three_failures_in_a_row_open_it_and_one_probe_closes_it() {
    let (mut breaker, now) = breaker();
    assert!(!breaker.fail(now) && !breaker.fail(now));
    assert!(breaker.fail(now), "the third one");
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert!(!breaker.take(now));

    let later = now + seconds(1);
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    assert!(breaker.take(later), "the probe");
    assert!(!breaker.take(later), "one at a time");
    breaker.succeed(later);

    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn a_probe_that_fails_doubles_the_pause() {
    let (mut breaker, now) = breaker();
    for _ in 0..3 {
        breaker.fail(now);
    }

    let later = now + seconds(1);
    assert!(breaker.take(later));
    assert!(breaker.fail(later));

    assert!(!breaker.admits(later + seconds(1)));
    assert!(breaker.admits(later + seconds(2)));
}

#[test]
fn half_of_many_failing_opens_it_though_never_in_a_row() {
    let (mut breaker, now) = breaker();
    let opened = (0..10).any(|_| {
        breaker.succeed(now);
        breaker.fail(now)
    });
    assert!(opened);
}

#[test]
fn failures_of_long_ago_are_forgotten() {
    let (mut breaker, now) = breaker();
    for at in 0..40 {
        let now = now + seconds(30 * at);
        breaker.succeed(now);
        assert!(!breaker.fail(now), "one in two, but one in a window");
    }
}

proptest! {
    #[test]
    fn it_is_never_open_for_longer_than_the_longest_pause(
        events in prop::collection::vec((0_u8..4, 0_u64..3_000), 1..200),
    ) {
        let (mut breaker, mut now) = breaker();
        for (event, pause) in events {
            now += Duration::from_millis(pause);
            match event {
                0 => breaker.succeed(now),
                1 => {
                    breaker.fail(now);
                }
                2 => {
                    breaker.take(now);
                }
                _ => breaker.pass(),
            }
            let closed = breaker.state(now) == BreakerState::Closed;
            prop_assert!(!closed || breaker.admits(now));
            prop_assert!(breaker.admits(now + BreakerSettings::default().max_pause * 2));
        }
    }
}
