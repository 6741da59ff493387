//! What must hold of a fleet whatever happens to its machines; the fleets themselves are in the package `fleet`.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::Priority;
use fastrand::Rng;
use fleet::{
    Arrival, Fault, Leave, Machine, Nature, Outcome, Replay, Scenario, azure, ideal_cached_tokens,
    mooncake, simulate,
};
use routing::{Policy, RouterSettings};

/// The seed of this run: given, or always the same.
fn seed() -> u64 {
    let seed = system_tests::told("TOLLGATE_SIMULATION_SEED");
    seed.and_then(|text| text.to_str()?.parse().ok()).unwrap_or(1)
}

/// A fleet of honest machines that a trace of the Azure service keeps about half busy.
fn fleet(machines: usize, requests: usize, seed: u64) -> Scenario {
    let speed = machines as f64 / 8.0;
    let replay = Replay { requests, copies: 1, speed, scale: 8, seed };
    Scenario {
        natures: vec![Nature::Honest; machines],
        machine: Machine::coarse(),
        router: RouterSettings { seed, ..RouterSettings::default() },
        leave: Leave::Late,
        arrivals: azure(replay).unwrap(),
        faults: Vec::new(),
    }
}

/// Plays it; nothing may have happened that must not.
fn play(seed: u64, scenario: &Scenario) -> Outcome {
    let outcome = simulate(scenario).unwrap();
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    assert_eq!(outcome.ended.len(), scenario.arrivals.len(), "seed {seed}: everybody is answered");
    outcome
}

/// Plays it; nobody may have been refused either.
fn play_without_failure(seed: u64, scenario: &Scenario) -> Outcome {
    let outcome = play(seed, scenario);
    let failures: Vec<_> =
        outcome.ended.iter().filter_map(|ended| ended.failure.as_ref()).collect();
    assert!(failures.is_empty(), "seed {seed}: {failures:#?}");
    outcome
}

fn went_on(outcome: &Outcome, cause: &str) -> u64 {
    outcome.went_on.iter().find(|(name, _)| *name == cause).unwrap().1
}

/// Moments spread over the run, by lot.
fn moments(random: &mut Rng, scenario: &Scenario, count: usize) -> Vec<Duration> {
    let end = scenario.arrivals.last().unwrap().at;
    let mut moments: Vec<_> = (0..count).map(|_| end.mul_f64(random.f64())).collect();
    moments.sort_unstable();
    moments
}

#[test]
fn a_quiet_fleet_answers_everybody_soon_and_computes_nothing_twice() {
    let seed = seed();
    let outcome = play_without_failure(seed, &fleet(8, 2_000, seed));

    assert_eq!(outcome.recomputed(), Duration::ZERO);
    let late = outcome.first_token_in(0.99);
    assert!(late < Duration::from_secs(5), "seed {seed}: {late:?}");
    assert!(outcome.imbalance() < 1.5, "seed {seed}: {}", outcome.imbalance());
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_not() {
    let run = |seed| {
        let mut scenario = fleet(4, 400, seed);
        let mut random = Rng::with_seed(seed);
        for (worker, at) in moments(&mut random, &scenario, 3).into_iter().enumerate() {
            let (notice, replaced_in) = (None, Some(Duration::from_secs(5)));
            scenario.faults.push((at, Fault::Evict { worker, notice, replaced_in }));
        }
        simulate(&scenario).unwrap()
    };
    let seed = seed();
    assert!(run(seed) == run(seed), "seed {seed}");
    assert!(run(seed) != run(seed + 1), "seed {seed}");
}

#[test]
fn spot_machines_that_are_taken_with_a_notice_or_without_one_lose_no_token() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let (mut lost, mut handed_over) = (0, 0);
    for leave in [Leave::Late, Leave::AtOnce, Leave::Never] {
        let mut scenario = Scenario { leave, ..fleet(8, 1_000, seed) };
        // Long enough for some not to end within a notice.
        scenario.arrivals.iter_mut().for_each(|arrival| arrival.output *= 3);
        for (number, at) in moments(&mut random, &scenario, 8).into_iter().enumerate() {
            let notice = (number % 2 == 0).then(|| Duration::from_millis(random.u64(500..3_000)));
            let replaced_in = Some(Duration::from_secs(random.u64(1..20)));
            // Those that came in the place of others may go too.
            let worker = random.usize(..8 + number / 2);
            scenario.faults.push((at, Fault::Evict { worker, notice, replaced_in }));
        }
        let outcome = play_without_failure(seed, &scenario);

        let here = went_on(&outcome, "handed_over");
        assert!(leave != Leave::Never || here == 0, "seed {seed}: {:?}", outcome.went_on);
        lost += went_on(&outcome, "lost");
        handed_over += here;
    }
    // Somewhere there was something to lose.
    assert!(lost > 0 && handed_over > 0, "seed {seed}: {lost} lost, {handed_over} handed over");
}

#[test]
fn a_long_prompt_that_goes_on_elsewhere_is_waited_for_there_too() {
    let seed = seed();
    let long = |tenant: u32| Arrival {
        at: Duration::from_millis(u64::from(tenant)),
        prompt: (0..4_000).map(|at| at + tenant * 10_000).collect(),
        output: 100,
        tenant: u128::from(tenant),
        priority: Priority::Standard,
    };
    let evict = Fault::Evict { worker: 0, notice: None, replaced_in: None };
    let scenario = Scenario {
        arrivals: vec![long(1), long(2)],
        faults: vec![(Duration::from_secs(22), evict)],
        ..fleet(2, 1, seed)
    };
    let outcome = play_without_failure(seed, &scenario);

    assert_eq!(went_on(&outcome, "lost"), 1, "seed {seed}: {:?}", outcome.went_on);
    assert_eq!(went_on(&outcome, "stalled"), 0, "seed {seed}: {:?}", outcome.went_on);
    assert!(
        outcome.recomputed() > Duration::from_secs(10),
        "seed {seed}: it took longer than the least patience"
    );
}

#[test]
fn machines_that_cannot_be_reached_or_stand_still_for_a_while_lose_no_token() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let mut scenario = fleet(8, 1_000, seed);
    for (number, at) in moments(&mut random, &scenario, 12).into_iter().enumerate() {
        let (worker, time) = (random.usize(..8), Duration::from_secs(random.u64(1..40)));
        let fault = match number % 3 {
            0 => Fault::Cut { worker, time },
            1 => Fault::Silence { worker, time },
            _ => Fault::Freeze { worker, time },
        };
        scenario.faults.push((at, fault));
    }
    let outcome = play_without_failure(seed, &scenario);

    let moved = went_on(&outcome, "lost") + went_on(&outcome, "stalled");
    assert!(moved > 0, "seed {seed}: {:?}", outcome.went_on);
}

#[test]
fn machines_that_lie_garble_or_stall_make_nobody_fail_beside_honest_ones() {
    let seed = seed();
    for liar in [Nature::Boaster, Nature::Flatterer, Nature::Garbler, Nature::Staller] {
        let mut scenario = fleet(6, 600, seed);
        scenario.natures[..2].fill(liar);
        let outcome = play_without_failure(seed, &scenario);

        let honest = outcome.worked.iter().filter(|worked| worked.nature == Nature::Honest);
        let tokens: u64 = honest.map(|worked| worked.books.output_tokens).sum();
        let all: u64 = outcome.ended.iter().map(|ended| u64::from(ended.tokens)).sum();
        assert!(liar == Nature::Flatterer || tokens * 10 > all * 9, "seed {seed}: {liar:?}");
    }
}

#[test]
fn where_only_liars_are_everybody_gets_a_clear_error() {
    let seed = seed();
    let mut scenario = fleet(4, 60, seed);
    scenario.natures = vec![Nature::Garbler, Nature::Staller, Nature::Boaster, Nature::Garbler];
    let outcome = play(seed, &scenario);

    // A short output may be put together from what several of them said before they lied.
    assert!(outcome.failed() * 2 > outcome.ended.len(), "seed {seed}: {}", outcome.failed());
    for failure in outcome.ended.iter().filter_map(|ended| ended.failure.as_ref()) {
        let clear = failure.full || failure.words.starts_with("answer request: ");
        assert!(clear, "seed {seed}: {failure:?}");
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "how near it comes is worth knowing")]
fn conversations_find_their_prefixes_and_no_machine_is_a_hot_spot() {
    let seed = seed();
    // The default looks at more than caches.
    for (policy, least) in [("prefix", 0.95), ("balanced", 0.85)] {
        let replay = Replay { requests: 4_000, copies: 1, speed: 1.5, scale: 4, seed };
        // Room for every prefix of the trace on each machine: what is missed is missed by routing.
        let machine = Machine { blocks: 80_000, ..Machine::coarse() };
        let arrivals = mooncake(replay, machine.block_tokens).unwrap();
        let ideal = ideal_cached_tokens(&arrivals, machine.block_tokens);
        let policy = Policy::named(policy).unwrap();
        let router = RouterSettings { seed, policy, ..RouterSettings::default() };
        let scenario = Scenario { arrivals, machine, router, ..fleet(8, 1, seed) };
        let outcome = play_without_failure(seed, &scenario);

        let (found, uneven) = (outcome.cached_tokens() as f64 / ideal as f64, outcome.imbalance());
        let told = format!(
            "seed {seed}, {policy:?}: {:.1} % of the ideal, busiest {uneven:.2} of the mean, \
             first token in {:?} (p50), {:?} (p99)",
            found * 100.0,
            outcome.first_token_in(0.5),
            outcome.first_token_in(0.99),
        );
        println!("{told}");
        assert!(found >= least, "{told}");
        assert!(uneven <= 1.5, "{told}");
    }
}

#[test]
fn what_shares_a_prompt_that_is_being_computed_goes_where_that_is() {
    let seed = seed();
    let arrival = |millis: u64, document: u32, tokens: u32| Arrival {
        at: Duration::from_millis(millis),
        prompt: (0..tokens).map(|at| at + document * 10_000).chain([millis as u32]).collect(),
        output: 20,
        tenant: 1,
        priority: Priority::Standard,
    };
    // Every machine has told of a prefix before the documents come, each of them to be read in several seconds.
    let before = (0..32).map(|number| arrival(u64::from(number), number, 64));
    let documents = (100..120).map(|document| (u64::from(document - 90) * 2_000, document));
    let twice = documents.flat_map(|(at, document)| [(at, document), (at + 200, document)]);
    let arrivals = before.chain(twice.map(|(at, document)| arrival(at, document, 800))).collect();
    let policy = Policy::named("prefix").unwrap();
    let router = RouterSettings { seed, policy, ..RouterSettings::default() };
    let scenario = Scenario { arrivals, router, ..fleet(8, 1, seed) };
    let outcome = play_without_failure(seed, &scenario);

    let ideal = ideal_cached_tokens(&scenario.arrivals, scenario.machine.block_tokens);
    let found = outcome.cached_tokens();
    assert!(found * 10 >= ideal * 9, "seed {seed}: {found} of {ideal} tokens");
}

#[test]
fn a_cache_without_end_has_what_came_before_as_far_as_it_is_the_same() {
    let arrival = |tenant, prompt: &[u32]| Arrival {
        at: Duration::ZERO,
        prompt: prompt.into(),
        output: 1,
        tenant,
        priority: Priority::Standard,
    };
    let arrivals = [
        arrival(1, &[1, 2, 3, 4, 5]),
        arrival(1, &[1, 2, 9, 9, 5]),
        arrival(1, &[1, 2, 9, 9, 5, 6, 7]),
        arrival(2, &[1, 2, 3, 4]),
        arrival(1, &[9, 9, 3, 4]),
    ];
    assert_eq!(ideal_cached_tokens(&arrivals, 2), 2 + 4);
}

#[test]
fn one_tenants_flood_does_not_make_others_wait() {
    let seed = seed();
    let mut scenario = fleet(4, 300, seed);
    let quiet = play_without_failure(seed, &scenario);
    let end = scenario.arrivals.last().unwrap().at;
    let mut random = Rng::with_seed(seed);
    // Several times what the fleet can do, of one tenant.
    let flood = (0..6_000).map(|_| Arrival {
        at: end.mul_f64(random.f64()),
        prompt: (0..40).map(|_| random.u32(..)).collect(),
        output: 40,
        tenant: FLOODING,
        priority: Priority::Standard,
    });
    scenario.arrivals.extend(flood);
    scenario.arrivals.sort_by_key(|arrival| arrival.at);
    let outcome = play(seed, &scenario);

    let mut failed: BTreeMap<bool, usize> = BTreeMap::new();
    for ended in outcome.ended.iter().filter(|ended| ended.failure.is_some()) {
        assert!(ended.failure.as_ref().unwrap().full, "seed {seed}: {ended:?}");
        *failed.entry(ended.tenant == FLOODING).or_default() += 1;
    }
    assert_eq!(failed.get(&false), None, "seed {seed}: nobody else is sent away");
    assert!(failed.get(&true).is_some_and(|failed| *failed > 0), "seed {seed}: it was a flood");
    let mut waits: Vec<_> = outcome.ended.iter().filter(|ended| ended.tenant != FLOODING).collect();
    waits.sort_by_key(|ended| ended.first_token_in);
    let wait = waits[waits.len() / 2].first_token_in.unwrap();
    let before = quiet.first_token_in(0.5);
    assert!(wait < before + Duration::from_secs(2), "seed {seed}: {wait:?}, {before:?} before");
}

const FLOODING: u128 = 1 << 100;
