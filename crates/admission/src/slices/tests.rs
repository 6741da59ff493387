use std::collections::BTreeMap;

use domain::{NanoUsd, RuleId, ScopeId};
use proptest::prelude::*;

use super::slice::MINUTE_NANOS;
use super::*;
use crate::bank::{Standing, Wish};
use crate::claims::Rule;
use crate::tenancy::{Amount, LimitKind, WindowBounds};

/// The plainest bank there can be: gives whatever fits, and never less than the least; of all accounts or
/// of none.
#[derive(Default)]
struct PlainBank {
    taken: BTreeMap<AccountId, BTreeMap<GatewayId, (i64, i64)>>,
    messages: u32,
}

impl PlainBank {
    fn draw(&mut self, draw: &Draw) -> Drawn {
        self.messages += 1;
        let plans: Vec<_> = draw.wishes.iter().map(|wish| self.plan(draw.gateway, wish)).collect();
        let granted = plans.iter().all(|plan| plan.taken >= plan.least);
        let standings = draw.wishes.iter().zip(plans).map(|(wish, plan)| {
            // Of all, or of none.
            let taken = if granted { plan.taken } else { plan.taken.min(plan.before) };
            let gateways = self.taken.entry(wish.account).or_default();
            gateways.insert(draw.gateway, (taken, wish.spent));
            let left = plan.room - taken;
            let is_rate = matches!(wish.kind, AccountKind::Rate { .. });
            let taken = if is_rate { taken - plan.before } else { taken };
            let spare_elsewhere = plan.spare_elsewhere;
            Standing { taken, left, spare_elsewhere, wait_nanos: MINUTE_NANOS }
        });
        let standings = standings.collect();
        Drawn::Standings { granted, standings, called_in: false }
    }

    fn plan(&self, gateway: GatewayId, wish: &Wish) -> Plan {
        let nobody = BTreeMap::new();
        let gateways = self.taken.get(&wish.account).unwrap_or(&nobody);
        let others = gateways.iter().filter(|(other, _)| **other != gateway);
        let (elsewhere, spare_elsewhere) = others.fold((0, 0), |(taken, spare), (_, figures)| {
            (taken + figures.0, spare + figures.0 - figures.1)
        });
        let before = gateways.get(&gateway).map_or(0, |figures| figures.0);
        let (capacity, want, least) = match wish.kind {
            AccountKind::Pool { capacity } | AccountKind::Slots { capacity } => {
                (capacity, wish.want, wish.least)
            }
            AccountKind::Rate { per_minute } => {
                (per_minute, before + wish.want, before + wish.least)
            }
        };
        let room = capacity - elsewhere;
        let taken = if want <= before { want } else { want.min(room.max(before)) };
        Plan { before, taken, least, room, spare_elsewhere }
    }
}

/// What a gateway would have of an account, and what it needs.
struct Plan {
    before: i64,
    taken: i64,
    least: i64,
    room: i64,
    spare_elsewhere: i64,
}

fn settings() -> SliceSettings {
    SliceSettings { gateways: 2, request_timeout: Duration::from_mins(10) }
}

fn gateway(number: u128) -> Slices {
    Slices::new(GatewayId::from_u128(number), 0, settings())
}

fn organization() -> OrganizationId {
    OrganizationId::from_u128(1)
}

fn claim(rule: u128, kind: AccountKind, measure: Measure) -> Claim {
    let scope = ScopeId::Organization(organization());
    let account =
        AccountId { scope, rule: RuleId::from_u128(rule), window: Timestamp::from_millis(0) };
    let rule = match kind {
        AccountKind::Pool { capacity } => {
            Rule::Budget { amount: Amount::Money(NanoUsd::from_nanos(capacity)) }
        }
        AccountKind::Slots { capacity } => {
            Rule::Limit { kind: LimitKind::ConcurrentRequests, max: capacity.unsigned_abs() }
        }
        AccountKind::Rate { per_minute } => {
            Rule::Limit { kind: LimitKind::RequestsPerMinute, max: per_minute.unsigned_abs() }
        }
    };
    Claim { account, kind, measure, model: None, bounds: WindowBounds::FOR_EVER, rule }
}

fn budget(capacity: i64) -> Claim {
    claim(1, AccountKind::Pool { capacity }, Measure::Money)
}

fn ask(claims: &[Claim], least: i64, most: i64) -> Ask {
    let money = |amount| Quantity { money: NanoUsd::from_nanos(amount), ..Quantity::ZERO };
    Ask {
        hold: HoldId::generate(),
        organization: organization(),
        claims: claims.into(),
        least: money(least),
        most: money(most),
    }
}

/// Does what the slices say until they grant or refuse.
fn settle_on(slices: &mut Slices, bank: &mut PlainBank, ask: &Ask, now: u64) -> Step {
    let mut asked = Asked::NotYet;
    for _ in 0..8 {
        match slices.reserve(ask, asked, now) {
            Step::Learn(claims) => {
                let nothing: Vec<(Claim, i64)> =
                    claims.into_iter().map(|claim| (claim, 0)).collect();
                slices.adopt(ask.organization, &nothing, now);
            }
            Step::Draw => {
                exchange(slices, bank, Some(ask), now);
                asked = Asked::Answered;
            }
            Step::Wait => asked = Asked::LastWord,
            step => return step,
        }
    }
    panic!("no decision");
}

fn exchange(slices: &mut Slices, bank: &mut PlainBank, ask: Option<&Ask>, now: u64) {
    let wanted = ask.map(|ask| Wanted {
        claims: &ask.claims,
        least: &ask.least,
        most: &ask.most,
        begun: false,
    });
    if let Some(draw) = slices.draw(organization(), wanted, now) {
        let drawn = bank.draw(&draw);
        slices.apply(&draw, &drawn, (now, now));
    }
}

fn spent(amount: i64) -> Quantity {
    Quantity { money: NanoUsd::from_nanos(amount), tokens: 0, gpu: domain::GpuTime::ZERO }
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_steady_stream_of_requests_rarely_asks_the_bank() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let claims = [
        budget(1_000_000_000_000),
        claim(2, AccountKind::Rate { per_minute: 1_000_000 }, Measure::Requests),
        claim(3, AccountKind::Slots { capacity: 1_000 }, Measure::Running),
    ];

    for request in 0..10_000_u64 {
        let now = SECOND + request * SECOND / 1_000;
        let ask = ask(&claims, 100, 20_000);
        let step = settle_on(&mut slices, &mut bank, &ask, now);
        assert!(matches!(step, Step::Granted(_)), "{step:?}");
        slices.settle(ask.hold, &spent(10_000));
        if slices.is_due(organization(), now) {
            exchange(&mut slices, &mut bank, None, now);
        }
    }

    assert!(bank.messages < 500, "{} messages for 10,000 requests", bank.messages);
}

#[test]
fn a_refusal_by_one_rule_takes_nothing_from_the_others() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let (wide, narrow) =
        (budget(1_000), claim(2, AccountKind::Pool { capacity: 10 }, Measure::Money));

    let refused = settle_on(&mut slices, &mut bank, &ask(&[wide.clone(), narrow], 11, 11), SECOND);
    assert!(matches!(refused, Step::Refused(Refusal::Budget { .. })), "{refused:?}");

    let all = settle_on(&mut slices, &mut bank, &ask(&[wide], 1_000, 1_000), SECOND);
    assert!(matches!(all, Step::Granted(_)), "{all:?}");
}

#[test]
fn settling_twice_counts_once_and_gives_back_the_rest() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let first = ask(&[budget(100)], 60, 60);
    settle_on(&mut slices, &mut bank, &first, SECOND);
    slices.settle(first.hold, &spent(40));
    slices.settle(first.hold, &spent(40));

    let larger = settle_on(&mut slices, &mut bank, &ask(&[budget(100)], 61, 61), SECOND);
    assert!(matches!(larger, Step::Refused(_)), "{larger:?}");
    let rest = settle_on(&mut slices, &mut bank, &ask(&[budget(100)], 60, 60), SECOND);
    assert!(matches!(rest, Step::Granted(_)), "{rest:?}");
}

#[test]
fn while_the_bank_is_silent_slices_go_on_then_budgets_fail_closed() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let claims = [budget(1_000)];
    settle_on(&mut slices, &mut bank, &ask(&claims, 10, 10), SECOND);

    let within = slices.reserve(&ask(&claims, 10, 10), Asked::NotYet, SECOND);
    assert!(matches!(within, Step::Granted(_)), "what was taken is handed out");
    let beyond = slices.reserve(&ask(&claims, 500, 500), Asked::Silent, SECOND);
    assert_eq!(beyond, Step::Unavailable);
    let long_after = SECOND + nanos(fence(settings()));
    let late = slices.reserve(&ask(&claims, 1, 1), Asked::Silent, long_after);
    assert_eq!(late, Step::Unavailable, "the bank may have given it to others by now");
}

#[test]
fn while_the_bank_is_silent_rates_go_on_at_this_gateways_share() {
    let mut slices = gateway(1);
    let claims = [claim(1, AccountKind::Rate { per_minute: 100 }, Measure::Requests)];

    let alone = |slices: &mut Slices, now| {
        let step = slices.reserve(&ask(&claims, 0, 0), Asked::Silent, now);
        matches!(step, Step::Granted(_))
    };
    let admitted = (0..100).filter(|_| alone(&mut slices, SECOND)).count();

    assert_eq!(admitted, 50, "one of two gateways");
    assert!(alone(&mut slices, 3 * SECOND), "and refills");
}

#[test]
fn what_lies_idle_goes_back() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let first = ask(&[budget(1_000_000)], 10, 100);
    settle_on(&mut slices, &mut bank, &first, SECOND);
    slices.settle(first.hold, &spent(10));

    for second in 2..20 {
        if slices.is_due(organization(), second * SECOND) {
            exchange(&mut slices, &mut bank, None, second * SECOND);
        }
    }

    let taken: Vec<_> = bank.taken.values().flat_map(BTreeMap::values).collect();
    assert_eq!(taken, [&(10, 10)]);
    assert!(!slices.is_due(organization(), 30 * SECOND), "there is nothing left to say");
}

/// One operation of a random history.
#[derive(Clone, Debug)]
enum Operation {
    Reserve { gateway: usize, least: i64, more: i64 },
    Extend { hold: usize, least: i64, more: i64 },
    Settle { hold: usize, percent: i64 },
    Statement { gateway: usize, answer_lost: bool },
    Wait { millis: u64 },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        4 => (0_usize..3, 0_i64..300, 0_i64..300)
            .prop_map(|(gateway, least, more)| Operation::Reserve { gateway, least, more }),
        2 => (0_usize..20, 0_i64..100, 0_i64..100)
            .prop_map(|(hold, least, more)| Operation::Extend { hold, least, more }),
        4 => (0_usize..20, 0_i64..=100)
            .prop_map(|(hold, percent)| Operation::Settle { hold, percent }),
        2 => (0_usize..3, any::<bool>())
            .prop_map(|(gateway, answer_lost)| Operation::Statement { gateway, answer_lost }),
        1 => (0_u64..3_000).prop_map(|millis| Operation::Wait { millis }),
    ];
    proptest::collection::vec(operation, 1..300)
}

proptest! {
    #[test]
    fn gateways_together_never_hold_and_spend_more_than_a_budget(
        history in operations(),
        capacity in 0_i64..3_000,
    ) {
        let mut bank = PlainBank::default();
        let mut gateways: Vec<Slices> = (0..3).map(gateway).collect();
        let mut holds: Vec<(usize, HoldId, i64)> = Vec::new();
        let (mut now, mut gone) = (SECOND, 0);
        for operation in history {
            match operation {
                Operation::Reserve { gateway, least, more } => {
                    let ask = ask(&[budget(capacity)], least, least + more);
                    let slices = &mut gateways[gateway];
                    if let Step::Granted(grant) = settle_on(slices, &mut bank, &ask, now) {
                        let amount = grant.amount.money.nanos();
                        prop_assert!(amount >= least && amount <= least + more);
                        holds.push((gateway, ask.hold, amount));
                    }
                }
                Operation::Extend { hold, least, more } if hold < holds.len() => {
                    let (gateway, id, held) = &mut holds[hold];
                    let (least, most) = (spent(least), spent(least + more));
                    let step = gateways[*gateway].extend(*id, (&least, &most), Asked::NotYet, now);
                    if let Some(Step::Granted(grant)) = step {
                        *held += grant.amount.money.nanos();
                    }
                }
                Operation::Settle { hold, percent } if hold < holds.len() => {
                    let (gateway, id, held) = holds.swap_remove(hold);
                    gateways[gateway].settle(id, &spent(held * percent / 100));
                    gone += held * percent / 100;
                }
                Operation::Statement { gateway, answer_lost } => {
                    if let Some(draw) = gateways[gateway].draw(organization(), None, now) {
                        let drawn = bank.draw(&draw);
                        if !answer_lost {
                            gateways[gateway].apply(&draw, &drawn, (now, now));
                        }
                    }
                }
                Operation::Wait { millis } => now += millis * 1_000_000,
                Operation::Extend { .. } | Operation::Settle { .. } => {}
            }
            let held: i64 = holds.iter().map(|(_, _, held)| held).sum();
            prop_assert!(held + gone <= capacity, "{held} held, {gone} spent of {capacity}");
        }
    }
}

#[test]
fn what_was_said_in_a_message_that_was_lost_is_said_again() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let ask = ask(&[budget(1_000)], 10, 10);
    assert!(matches!(settle_on(&mut slices, &mut bank, &ask, 1), Step::Granted(_)));
    slices.settle(ask.hold, &ask.most);
    let later = 10 * MINUTE_NANOS;

    let lost = slices.draw(organization(), None, later).unwrap();
    assert_eq!(lost.wishes[0].spent, 10);

    assert!(slices.is_due(organization(), later));
    let again = slices.draw(organization(), None, later).unwrap();
    assert_eq!(again.wishes[0].spent, 10);
    slices.apply(&again, &bank.draw(&again), (later, later));
    assert!(!slices.is_due(organization(), later + MINUTE_NANOS), "the bank knows it all");
}

#[test]
fn a_complete_message_leaves_out_nothing_that_was_spent() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let ask = ask(&[budget(1_000)], 10, 10);
    assert!(matches!(settle_on(&mut slices, &mut bank, &ask, 1), Step::Granted(_)));
    slices.settle(ask.hold, &ask.most);
    let later = 10 * MINUTE_NANOS;
    let said = slices.draw(organization(), None, later).unwrap();
    slices.apply(&said, &bank.draw(&said), (later, later));

    slices.forgotten(organization());
    let complete = slices.draw(organization(), None, later).unwrap();

    assert!(complete.complete);
    assert_eq!(complete.wishes[0].spent, 10, "the ledger may not have it yet");
}

#[test]
fn a_gateway_that_goes_away_gives_back_all_that_is_not_held() {
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let claims = [budget(1_000)];
    let (ended, running) = (ask(&claims, 10, 10), ask(&claims, 20, 20));
    for ask in [&ended, &running] {
        assert!(matches!(settle_on(&mut slices, &mut bank, ask, 1), Step::Granted(_)));
    }
    slices.settle(ended.hold, &Quantity::ZERO);

    slices.call_in(organization());
    let draw = slices.draw(organization(), None, 2).unwrap();

    assert_eq!(draw.wishes[0].want, 20);
}

#[test]
fn a_refusal_names_what_ran_short_and_not_what_was_asked_for_with_it() {
    let rate = claim(7, AccountKind::Rate { per_minute: 100 }, Measure::Requests);
    let claims = [rate, budget(10)];
    let (mut slices, mut bank) = (gateway(1), PlainBank::default());
    let all = ask(&claims, 10, 10);
    assert!(matches!(settle_on(&mut slices, &mut bank, &all, 1), Step::Granted(_)));
    // Nothing of the rate is in hand, as after a minute in which nobody asked.
    slices
        .purses
        .get_mut(&organization())
        .unwrap()
        .slices
        .get_mut(&claims[0].account)
        .unwrap()
        .taken = 0;

    let refused = settle_on(&mut slices, &mut bank, &ask(&claims, 1, 1), 2);

    assert!(matches!(refused, Step::Refused(Refusal::Budget { .. })), "{refused:?}");
}
