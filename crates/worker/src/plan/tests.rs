use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn running() -> impl Strategy<Value = Running> {
    let needs = prop::option::of((0..160_000_u32).prop_map(|millis| MS * millis));
    (prop_oneof![1 => Just(0), 4 => 1..5_000_u64], needs).prop_map(|(computed, needs)| Running {
        key: 0,
        computed,
        needs,
    })
}

fn fleet() -> impl Strategy<Value = Vec<Running>> {
    let number = |(key, running)| Running { key: key as u64, ..running };
    prop::collection::vec(running(), 0..40)
        .prop_map(move |all| all.into_iter().enumerate().map(number).collect())
}

fn window() -> impl Strategy<Value = Window> {
    let millis = |millis: (u32, u32)| Window { not_before: MS * millis.0, until: MS * millis.1 };
    (0..2_000_u32, 0..120_000_u32).prop_map(millis)
}

fn token_again() -> impl Strategy<Value = Duration> {
    (0..20_000_u64).prop_map(Duration::from_micros)
}

proptest! {
    #[test]
    fn everybody_is_out_in_time(all in fleet(), window in window(), again in token_again()) {
        let departures = plan(&all, window, again);

        let gone: BTreeSet<u64> = departures.iter().map(|departure| departure.key).collect();
        prop_assert_eq!(gone.len(), departures.len(), "nobody goes twice");
        for sequence in &all {
            let ends = sequence.needs.is_some_and(|needs| needs <= window.until);
            prop_assert_eq!(gone.contains(&sequence.key), !ends, "{:?}", sequence);
        }
        for departure in &departures {
            prop_assert!(departure.leaves_in <= window.until, "{:?}", departure);
        }
    }

    #[test]
    fn the_most_expensive_goes_first_and_no_slot_overlaps_the_next(
        all in fleet(), window in window(), again in token_again(),
    ) {
        let departures = plan(&all, window, again);

        let computed = |key: u64| all[key as usize].computed;
        let costly: Vec<&Departure> =
            departures.iter().filter(|departure| computed(departure.key) > 0).collect();
        for pair in costly.windows(2) {
            prop_assert!(computed(pair[0].key) >= computed(pair[1].key));
            // A nanosecond is what rounding may take.
            let free = pair[0].leaves_in + pair[0].slot;
            prop_assert!(pair[1].leaves_in + Duration::from_nanos(1) >= free, "{:?}", pair);
        }
        if let Some(first) = costly.first() {
            prop_assert!(first.leaves_in >= window.not_before.min(window.until));
        }
        let fresh = departures.iter().take_while(|departure| computed(departure.key) == 0);
        prop_assert_eq!(fresh.count(), departures.len() - costly.len(), "they go before all others");
    }

    #[test]
    fn deciding_again_after_a_departure_changes_nothing(
        all in fleet(), window in window(), again in token_again(),
    ) {
        let costly: Vec<Running> = all.into_iter()
            .filter(|sequence| sequence.computed > 0)
            .map(|sequence| Running { needs: None, ..sequence })
            .collect();
        let before = plan(&costly, window, again);
        let Some((first, rest)) = before.split_first() else { return Ok(()) };

        let left: Vec<Running> =
            costly.into_iter().filter(|sequence| sequence.key != first.key).collect();
        let until = window.until.saturating_sub(first.leaves_in);
        let after = plan(&left, Window { not_before: first.slot, until }, again);

        prop_assert_eq!(after.len(), rest.len());
        for (then, now) in rest.iter().zip(&after) {
            prop_assert_eq!(then.key, now.key);
            let (then, now) = (then.leaves_in.saturating_sub(first.leaves_in), now.leaves_in);
            let drift = then.abs_diff(now);
            prop_assert!(drift <= Duration::from_micros(1), "{:?} became {:?}", then, now);
        }
    }
}

#[test]
fn what_fits_stays_and_what_waits_goes_as_late_as_it_can() {
    let fits = Running { key: 1, computed: 500, needs: Some(MS * 1_000) };
    let long = Running { key: 2, computed: 400, needs: Some(MS * 10_000) };
    let unpaid = Running { key: 3, computed: 90, needs: None };
    let window = Window { not_before: Duration::ZERO, until: MS * 5_000 };

    let departures = plan(&[fits, long, unpaid], window, MS);

    // 10 ms to hand over, 1 ms for each token, twice.
    let (long, unpaid) = (MS * 2 * 410, MS * 2 * 100);
    let expected = [
        Departure { key: 2, leaves_in: (MS * 5_000).saturating_sub(long + unpaid), slot: long },
        Departure { key: 3, leaves_in: (MS * 5_000).saturating_sub(unpaid), slot: unpaid },
    ];
    assert_eq!(departures, expected);
}

#[test]
fn without_time_everybody_goes_now() {
    let one = Running { key: 1, computed: 500, needs: Some(MS * 100) };
    let window = Window { not_before: MS, until: Duration::ZERO };

    let departures = plan(&[one, Running { key: 2, ..one }], window, MS);

    assert!(departures.iter().all(|departure| departure.leaves_in.is_zero()), "{departures:?}");
    assert_eq!(departures.len(), 2);
}
