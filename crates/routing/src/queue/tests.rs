use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn ticket(id: u64, lane: Lane, tenant: ProjectId, weight: u32, since: Instant) -> Ticket {
    let share = Share { tenant, weight, priority: Priority::Standard };
    Ticket::new(id, lane, share, 100, since)
}

const STANDARD: Lane = Lane::New(Priority::Standard);
const AGING: Duration = Duration::from_secs(5);

#[test]
fn tenants_are_served_in_proportion_to_their_weights() {
    let (heavy, light, now) = (ProjectId::generate(), ProjectId::generate(), Instant::now());
    let mut queue = FairQueue::new(1000, AGING);
    for id in 0..100 {
        queue.push(ticket(id, STANDARD, heavy, 3, now));
        queue.push(ticket(1000 + id, STANDARD, light, 1, now));
    }

    let served: Vec<_> = (0..80).filter_map(|_| queue.take(now)).collect();

    let heavy = served.iter().filter(|ticket| ticket.share.tenant == heavy).count();
    assert!((59..=61).contains(&heavy), "{heavy} of 80 at a weight of 3 to 1");
}

#[test]
fn urgent_requests_come_first_until_patient_ones_have_waited() {
    let (tenant, now) = (ProjectId::generate(), Instant::now());
    let mut queue = FairQueue::new(1000, AGING);
    queue.push(ticket(1, Lane::New(Priority::Batch), tenant, 1, now));
    queue.push(ticket(2, STANDARD, tenant, 1, now));
    queue.push(ticket(3, Lane::New(Priority::Interactive), tenant, 1, now + AGING * 3 / 2));
    queue.push(ticket(4, Lane::Continuation, tenant, 1, now + AGING * 9));

    let order: Vec<_> = std::iter::from_fn(|| queue.take(now)).map(|ticket| ticket.id).collect();

    assert_eq!(order, [4, 2, 3, 1]);
}

#[test]
fn a_flood_of_patient_requests_that_is_served_is_not_urgent() {
    let (flood, other, now) = (ProjectId::generate(), ProjectId::generate(), Instant::now());
    let mut queue = FairQueue::new(1000, AGING);
    for id in 0..100 {
        queue.push(ticket(id, STANDARD, flood, 1, now));
    }
    let later = now + AGING * 9;
    let next = |queue: &mut FairQueue, now| queue.take(now).map(|ticket| ticket.id);
    assert_eq!(next(&mut queue, later), Some(0));
    queue.push(ticket(100, Lane::New(Priority::Interactive), other, 1, later));
    queue.push(ticket(101, Lane::New(Priority::Interactive), other, 1, later));

    let refused = queue.take(later).unwrap();
    assert_eq!(refused.id, 100);
    queue.put_back(refused);
    assert_eq!(next(&mut queue, later), Some(100));
    assert_eq!(next(&mut queue, later + AGING * 2), Some(101), "it came first");
    queue.push(ticket(102, Lane::New(Priority::Interactive), flood, 1, later + AGING * 2));
    assert_eq!(next(&mut queue, later + AGING * 2), Some(1), "it was passed over for long enough");
    assert_eq!(next(&mut queue, later + AGING * 2), Some(102));
}

#[test]
fn a_flood_gives_way_to_others_when_the_queue_is_full() {
    let (flood, other, now) = (ProjectId::generate(), ProjectId::generate(), Instant::now());
    let mut queue = FairQueue::new(10, AGING);
    for id in 0..10 {
        assert_eq!(queue.push(ticket(id, STANDARD, flood, 1, now)), Queued::Waits);
    }

    assert_eq!(queue.push(ticket(10, STANDARD, flood, 1, now)), Queued::Refused);
    assert_eq!(queue.push(ticket(11, STANDARD, other, 1, now)), Queued::InPlaceOf(9));
    assert_eq!(queue.len(), 10);
}

#[test]
fn a_flood_is_not_ahead_of_others() {
    let (flood, other, now) = (ProjectId::generate(), ProjectId::generate(), Instant::now());
    let mut queue = FairQueue::new(1000, AGING);
    for id in 0..100 {
        queue.push(ticket(id, STANDARD, flood, 1, now));
    }
    queue.push(ticket(200, Lane::New(Priority::Interactive), flood, 1, now));
    queue.take(now);
    for served in 0..3 {
        assert_eq!(queue.take(now).map(|ticket| ticket.id), Some(served));
    }
    let next = |tenant, weight| ticket(300, STANDARD, tenant, weight, now);

    assert_eq!(queue.ahead_of(&next(flood, 1)), 97);
    assert_eq!(queue.ahead_of(&next(other, 1)), 0);
    queue.push(ticket(201, STANDARD, other, 1, now));
    queue.push(ticket(202, STANDARD, other, 1, now));
    // Its own two, and those of the flood whose turn comes between them.
    assert_eq!(queue.ahead_of(&next(other, 1)), 4);
    queue.push(ticket(203, Lane::New(Priority::Interactive), flood, 1, now));
    assert_eq!(queue.ahead_of(&next(other, 1)), 5, "what is more urgent comes first");
}

#[test]
fn one_that_found_no_room_keeps_its_turn() {
    let (one, other, now) = (ProjectId::generate(), ProjectId::generate(), Instant::now());
    let mut queue = FairQueue::new(10, AGING);
    queue.push(ticket(1, STANDARD, one, 1, now));
    queue.push(ticket(2, STANDARD, other, 1, now));
    let first = queue.take(now).unwrap();

    queue.put_back(first);

    assert_eq!(queue.take(now).map(|ticket| ticket.id), Some(first.id));
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize, u8),
    Take,
    PutBack,
    Remove(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..4, 0_u8..4).prop_map(|(lane, tenant)| Step::Push(lane, tenant)),
        3 => Just(Step::Take),
        1 => Just(Step::PutBack),
        1 => (0_usize..50).prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    #[test]
    fn nobody_is_lost_or_served_twice_and_the_bound_holds(steps in steps()) {
        let tenants: Vec<_> = (0..4).map(|_| ProjectId::generate()).collect();
        let now = Instant::now();
        let mut queue = FairQueue::new(20, AGING);
        let (mut waiting, mut taken) = (Vec::<Ticket>::new(), Vec::<Ticket>::new());
        // What was taken and comes back has its place, whoever took it meanwhile.
        let mut came_back = 0;
        for (id, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(lane, tenant) => {
                    let tenant = tenants[usize::from(tenant)];
                    let since = now + Duration::from_millis(id as u64);
                    let new = ticket(id as u64, Lane::ALL[lane], tenant, 1 + id as u32 % 3, since);
                    match queue.push(new) {
                        Queued::Refused => continue,
                        Queued::InPlaceOf(out) => waiting.retain(|ticket| ticket.id != out),
                        Queued::Waits => {}
                    }
                    waiting.push(new);
                    prop_assert!(queue.len() <= 20 + came_back);
                }
                Step::Take => {
                    let next = queue.take(now);
                    prop_assert_eq!(next.is_some(), !waiting.is_empty());
                    if let Some(next) = next {
                        let before = waiting.len();
                        waiting.retain(|ticket| ticket.id != next.id);
                        prop_assert_eq!(waiting.len() + 1, before);
                        taken.push(next);
                    }
                }
                Step::PutBack => if let Some(ticket) = taken.pop() {
                    queue.put_back(ticket);
                    waiting.push(ticket);
                    came_back += 1;
                },
                Step::Remove(at) => if at < waiting.len() {
                    prop_assert!(queue.remove(waiting.swap_remove(at)));
                },
            }
            prop_assert_eq!(queue.len(), waiting.len());
        }
        let rest: HashSet<_> = std::iter::from_fn(|| queue.take(now)).map(|ticket| ticket.id).collect();
        prop_assert_eq!(rest, waiting.iter().map(|ticket| ticket.id).collect::<HashSet<_>>());
    }

    #[test]
    fn nobody_starves_whatever_comes_after(lane in 1_usize..4, weight in 1_u32..100) {
        let (patient, flood) = (ProjectId::generate(), ProjectId::generate());
        let now = Instant::now();
        let mut queue = FairQueue::new(100_000, AGING);
        queue.push(ticket(0, Lane::ALL[lane], patient, 1, now));
        let mut served = false;
        for second in 0..600_u64 {
            let since = now + Duration::from_secs(second);
            // More comes than is served, all of it urgent.
            for more in 0..2 {
                let id = 1 + second * 2 + more;
                queue.push(ticket(id, Lane::New(Priority::Interactive), flood, weight, since));
            }
            served |= queue.take(now).is_some_and(|ticket| ticket.id == 0);
        }
        prop_assert!(served);
    }
}
