use proptest::prelude::*;

use super::*;

fn share(tenant: u128, weight: u32) -> Share {
    Share { weight, ..Share::of(ProjectId::from_u128(tenant)) }
}

/// Tenants that always have a sequence waiting, each served to its end before the next one begins.
struct Backlog {
    standings: Standings,
    places: Vec<Place>,
    now: Instant,
    came: u64,
}

impl Backlog {
    fn new(shares: &[Share]) -> Self {
        let now = Instant::now();
        let places = shares.iter().map(|share| Place::new(*share, now)).collect();
        Self { standings: Standings::default(), places, now, came: 0 }
    }

    /// Serves whoever is next; which it was.
    fn serve(&mut self, expected: u64, took: u64) -> usize {
        let waiting: Vec<Share> = self.places.iter().map(|place| place.share).collect();
        self.standings.look(waiting.into_iter(), std::iter::empty(), self.now);
        let rank = |at: &usize| self.standings.rank_waiting(&self.places[*at], self.now);
        let next = (0..self.places.len()).min_by_key(rank).unwrap();
        let mut place = self.places[next];
        self.standings.admit(&mut place, 1, GpuTime::from_nanos(expected), self.now);
        self.standings.charge(&mut place, GpuTime::from_nanos(took));
        self.standings.expect_no_more(&mut place);
        self.came += 1;
        self.places[next].number = self.came + self.places.len() as u64;
        next
    }

    fn had(&self, at: usize) -> u128 {
        self.standings.tenants[&self.places[at].share.tenant].had
    }
}

proptest! {
    #[test]
    fn of_tenants_that_wait_nobody_gets_ahead_by_more_than_one_charge(
        weights in prop::collection::vec(1_u32..50, 2..6),
        services in prop::collection::vec((0_u64..1_000_000, 1_u64..1_000_000), 1..200),
    ) {
        let shares = weights.iter().zip(1..).map(|(weight, tenant)| share(tenant, *weight));
        let shares: Vec<Share> = shares.collect();
        let mut backlog = Backlog::new(&shares);
        let mut largest = 0;
        for (expected, took) in services {
            let served = backlog.serve(expected, took);
            let charge = virtual_time(GpuTime::from_nanos(took), weights[served]);
            largest = largest.max(charge);
            let clocks: Vec<u128> = (0..shares.len()).map(|at| backlog.had(at)).collect();
            let apart = clocks.iter().max().unwrap() - clocks.iter().min().unwrap();
            prop_assert!(apart <= largest, "{apart} apart, the largest charge is {largest}");
        }
    }

    #[test]
    fn what_was_expected_and_not_used_leaves_nothing_behind(
        steps in prop::collection::vec((0_u64..1_000, 0_u64..1_000, any::<bool>()), 1..50),
    ) {
        let now = Instant::now();
        let mut standings = Standings::default();
        let one = share(1, 1);
        let mut sum = 0;
        for (expected, took, ends) in steps {
            standings.look(std::iter::once(one), std::iter::empty(), now);
            let mut place = Place::new(one, now);
            standings.admit(&mut place, 1, GpuTime::from_nanos(expected), now);
            if !ends {
                standings.charge(&mut place, GpuTime::from_nanos(took));
                sum += u128::from(took) * SCALE;
            }
            standings.expect_no_more(&mut place);
            let standing = &standings.tenants[&one.tenant];
            prop_assert_eq!((standing.had, standing.expected), (sum, GpuTime::ZERO));
        }
    }
}

#[test]
fn weights_are_shares() {
    let mut backlog = Backlog::new(&[share(1, 1), share(2, 3)]);
    let served: Vec<usize> = (0..80).map(|_| backlog.serve(70, 100)).collect();
    assert_eq!(served.iter().filter(|at| **at == 0).count(), 20);
}

#[test]
fn who_was_away_has_saved_up_no_more_than_its_leeway() {
    let (steady, returning) = (share(1, 1), share(2, 1));
    let mut backlog = Backlog::new(&[steady]);
    (0..50).for_each(|_| _ = backlog.serve(0, LEEWAY_NANOS / 4));
    backlog.places.push(Place { number: 1_000, ..Place::new(returning, backlog.now) });

    let served: Vec<usize> = (0..24).map(|_| backlog.serve(0, LEEWAY_NANOS / 4)).collect();

    assert_eq!(served[..4], [1; 4], "it is served first");
    let steady = served[4..].iter().filter(|at| **at == 0).count();
    assert!((9..=11).contains(&steady), "{served:?}");
}

#[test]
fn who_only_trickles_has_saved_up_no_more_either() {
    let (flood, trickle, now) = (share(1, 1), share(2, 1), Instant::now());
    let mut standings = Standings::default();
    let mut place = Place::new(flood, now);
    for _ in 0..100 {
        // The trickle always runs, and never waits.
        standings.look(std::iter::once(flood), std::iter::once((trickle, 1)), now);
        standings.charge(&mut place, GpuTime::from_nanos(LEEWAY_NANOS));
    }
    standings.look([flood, trickle].into_iter(), std::iter::once((trickle, 1)), now);
    let behind = standings.tenants[&flood.tenant].had - standings.tenants[&trickle.tenant].had;
    assert_eq!(behind, LEEWAY);
}

#[test]
fn a_newcomer_stands_before_a_flood_that_came_first() {
    let (flood, calm, now) = (share(1, 1), share(2, 1), Instant::now());
    let mut standings = Standings::default();
    let first = Place::new(flood, now);
    standings.look(std::iter::repeat_n(flood, 9), std::iter::repeat_n((flood, 1), 5), now);
    standings.charge(&mut first.clone(), GpuTime::from_nanos(5_000));
    let waiting = std::iter::repeat_n(flood, 9).chain([calm]);
    standings.look(waiting, std::iter::repeat_n((flood, 1), 5), now);

    let newcomer = Place { number: 10, ..Place::new(calm, now) };

    assert!(standings.rank_waiting(&newcomer, now) < standings.rank_waiting(&first, now));
}

#[test]
fn urgent_requests_come_first_until_patient_ones_have_waited() {
    let (now, standings) = (Instant::now(), Standings::default());
    let place = |priority, since| Place::new(Share { priority, ..share(1, 1) }, since);
    let rank = |place: Place, at| standings.rank_waiting(&place, at);
    let (interactive, standard, batch) =
        (Priority::Interactive, Priority::Standard, Priority::Batch);

    assert!(rank(place(interactive, now), now) < rank(place(standard, now), now));
    assert!(rank(place(standard, now), now) < rank(place(batch, now), now));
    let later = now + AGING * 2;
    let old = Place { number: 0, ..place(batch, now) };
    let fresh = Place { number: 1, ..place(interactive, later) };
    assert!(rank(old, later) < rank(fresh, later), "it waited for two classes");
}

#[test]
fn a_queue_that_moves_is_no_more_urgent_for_being_long() {
    let (now, mut standings) = (Instant::now(), Standings::default());
    let standard = |tenant| Share { priority: Priority::Standard, ..share(tenant, 1) };
    let (flood, calm) = (standard(1), standard(2));
    let later = now + AGING * 10;
    standings.look(std::iter::repeat_n(flood, 9), std::iter::empty(), now);
    standings.admit(&mut Place::new(flood, now), 1, GpuTime::ZERO, later);
    standings.charge(&mut Place::new(flood, now), GpuTime::from_nanos(5_000));
    standings.look([flood, calm].into_iter(), std::iter::empty(), later);

    let old = Place::new(flood, now);
    let fresh = Place { number: 1, ..Place::new(calm, later) };
    assert!(standings.rank_waiting(&fresh, later) < standings.rank_waiting(&old, later));
    let after = later + AGING;
    let fresh = Place { number: 1, ..Place::new(calm, after) };
    assert!(standings.rank_waiting(&old, after) < standings.rank_waiting(&fresh, after));
}

/// Standings in which a flood and a calm tenant have so many sequences of ten blocks each.
fn running(flood: usize, calm: usize) -> Standings {
    let mut standings = Standings::default();
    let flood = std::iter::repeat_n((FLOOD, 10), flood);
    let calm = std::iter::repeat_n((CALM, 10), calm);
    standings.look(std::iter::empty(), flood.chain(calm), Instant::now());
    standings
}

#[test]
fn extra_places_are_for_those_with_less_than_their_share() {
    let all = Room { places: 32, blocks: 100_000 };
    let extra = Room { places: extra_places(32), blocks: 90_000 };
    let room = Room { places: extra_places(32) + 1, ..extra };

    assert!(running(31, 1).allows(FLOOD, 10, room, all));
    assert!(!running(31, 1).allows(FLOOD, 10, extra, all));
    assert!(running(31, 1).allows(CALM, 10, extra, all));
    assert!(running(15, 17).allows(FLOOD, 10, extra, all), "it has less than its share");
    assert!(!running(32, 0).allows(FLOOD, 10, extra, all), "it is alone");
    assert!(running(31, 0).allows(FLOOD, 10, room, all), "it is alone");
    assert_eq!(extra_places(1), 0);
}

#[test]
fn the_last_blocks_are_for_those_with_less_than_their_share() {
    let all = Room { places: 1_000, blocks: 320 };
    let last = Room { places: 900, blocks: 25 };

    assert!(!running(28, 1).allows(FLOOD, 10, last, all));
    assert!(running(28, 1).allows(CALM, 10, last, all));
    assert!(running(28, 0).allows(FLOOD, 10, last, all));
    assert!(running(0, 29).allows(FLOOD, 25, last, all), "who holds nothing may have all there is");
}

#[test]
fn a_tenant_that_was_away_for_long_is_forgotten() {
    let (mut standings, now) = (running(1, 1), Instant::now());
    standings.look(std::iter::empty(), std::iter::once((FLOOD, 1)), now);
    assert_eq!(standings.tenants.len(), 2, "it may come back any moment");
    standings.look(std::iter::empty(), std::iter::once((FLOOD, 1)), now + LATELY * 2);
    assert_eq!(standings.tenants.len(), 1);

    let many = |round: u128| (0..=MAX_ABSENT as u128).map(move |id| share((round << 64) | id, 1));
    standings.look(many(1), std::iter::empty(), now);
    standings.look(many(2), std::iter::empty(), now);
    assert!(standings.tenants.len() <= MAX_ABSENT + 1, "{}", standings.tenants.len());
}

const LEEWAY_NANOS: u64 = (LEEWAY / SCALE) as u64;
const FLOOD: Share = Share::of(ProjectId::from_u128(1));
const CALM: Share = Share::of(ProjectId::from_u128(2));
