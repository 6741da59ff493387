//! Each policy against a table of workers.

use domain::{ModelFiles, ModelInfo};
use proto::{ScriptedWorker, WorkerState};

use super::*;
use crate::breaker::BreakerSettings;

fn member(slot: u32, state: WorkerState) -> Arc<Member> {
    let info = ModelInfo {
        name: domain::ModelName::new("m"),
        digest: ModelDigest::new("00"),
        context_length: 10,
        vocabulary: 10,
        stop_tokens: Vec::new(),
        weights: String::new(),
        kind: domain::ModelKind::Text,
    };
    let files = ModelFiles { tokenizer: (*b"{}").into(), chat_template: None };
    let worker = Arc::new(ScriptedWorker::new(info, files, 1));
    let member = Member::new(slot, format!("w{slot}"), worker, BreakerSettings::default());
    member.learn(state);
    Arc::new(member)
}

/// A worker that would give the first token in so many milliseconds and runs so many sequences.
fn worker(first_token_millis: u64, running: u32) -> WorkerState {
    WorkerState {
        running,
        free_blocks: 100,
        block_tokens: 16,
        first_token_in: Duration::from_millis(first_token_millis),
        prompt_token_time: Duration::from_millis(1),
        step_time: Duration::from_millis(4),
        ..WorkerState::default()
    }
}

fn priced(state: WorkerState, nanos: i64, capacity: Capacity) -> WorkerState {
    WorkerState { price_per_hour: NanoUsd::from_nanos(nanos), capacity, ..state }
}

fn asked() -> Asked {
    Asked {
        model: ModelDigest::new("model"),
        tokens: 160,
        priority: Priority::Standard,
        session: 1,
        room: Room::default(),
        due_in: Duration::from_secs(1),
        draw: 7,
        max_load_percent: 125,
        slow_start: Duration::ZERO,
        now: Instant::now(),
    }
}

fn choose(name: &str, asked: &Asked, states: &[WorkerState], matches: &[(u32, u32)]) -> usize {
    let members: Vec<_> = (0..).zip(states).map(|(at, state)| member(at, state.clone())).collect();
    let field = Field::new(asked, &members, &[], (&matches.to_vec(), 16));
    Policy::named(name).unwrap().choose(&field).unwrap()
}

#[test]
fn each_policy_chooses_what_it_says() {
    // Worker 1 holds the whole prompt, ten blocks of sixteen tokens.
    let held: &[(u32, u32)] = &[(1, 10)];
    let none: &[(u32, u32)] = &[];
    #[expect(clippy::type_complexity, reason = "a table of one test")]
    let cases: &[(&str, &[WorkerState], &[(u32, u32)], usize, &str)] = &[
        ("least_time", &[worker(9, 1), worker(5, 9), worker(7, 0)], none, 1, "the earliest"),
        ("least_time", &[worker(9, 1), worker(100, 1)], held, 1, "its cache saves 160 ms"),
        ("prefix", &[worker(0, 4), worker(900, 4)], held, 1, "below the guard nothing else counts"),
        ("prefix", &[worker(0, 4), worker(0, 9)], held, 1, "chance is no hot spot"),
        ("prefix", &[worker(0, 4), worker(0, 60)], held, 0, "a hot spot is left alone"),
        (
            "prefix",
            &[worker(9, 4), worker(0, 4)],
            &[(0, 10), (1, 10)],
            1,
            "all else equal, the earliest",
        ),
        (
            "prefix",
            &[worker(900, 4), worker(0, 4)],
            &[(0, 1)],
            0,
            "a block of ten is worth going for",
        ),
        ("balanced", &[worker(0, 4), worker(200, 4)], held, 1, "saved work counts twice"),
        ("balanced", &[worker(0, 4), worker(400, 4)], held, 0, "but a long wait is a long wait"),
        ("balanced", &[worker(0, 9), worker(0, 2), worker(0, 9)], none, 1, "the emptiest"),
        ("two_choices", &[worker(0, 9), worker(0, 2)], none, 1, "the better of the two"),
    ];
    for (policy, states, matches, expected, why) in cases {
        assert_eq!(choose(policy, &asked(), states, matches), *expected, "{policy}: {why}");
    }
}

#[test]
fn the_cheapest_in_time_runs_it_and_batches_go_to_spot_machines() {
    let states = [
        priced(worker(0, 0), 300, Capacity::OnDemand),
        priced(worker(0, 0), 200, Capacity::Spot),
        priced(worker(0, 0), 100, Capacity::OnDemand),
        priced(worker(5_000, 0), 50, Capacity::OnDemand),
    ];
    let of = |priority, due| {
        let asked = Asked { priority, due_in: Duration::from_millis(due), ..asked() };
        choose("cheapest", &asked, &states, &[])
    };
    assert_eq!(of(Priority::Standard, 1_000), 2);
    assert_eq!(of(Priority::Standard, 60_000), 3);
    assert_eq!(of(Priority::Batch, 60_000), 1);
    assert_ne!(of(Priority::Standard, 1), 3, "none is in time: the nearest");
}

#[test]
fn a_conversation_moves_only_when_its_worker_goes() {
    let states = vec![worker(0, 0); 10];
    for session in 0..50 {
        let asked = Asked { session, draw: session, ..asked() };
        let all = choose("session", &asked, &states, &[]);
        let other_draw = Asked { draw: 99, ..asked.clone() };
        assert_eq!(choose("session", &other_draw, &states, &[]), all);

        let fewer = choose("session", &asked, &states[..9], &[]);
        assert!(fewer == all || all == 9);
    }
}

#[test]
fn the_same_draw_gives_the_same_choice_and_draws_spread() {
    let states = vec![worker(0, 0); 10];
    for policy in POLICIES {
        let draw = |draw| choose(policy.name, &Asked { draw, ..asked() }, &states, &[]);
        assert_eq!(draw(3), draw(3), "{policy:?}");
        let different: std::collections::BTreeSet<_> = (0..100).map(draw).collect();
        assert!(different.len() > 5 || policy.name == "session", "{policy:?}: {different:?}");
    }
}

#[test]
fn whoever_leaves_is_not_chosen() {
    let leaving = WorkerState { stage: domain::Stage::Draining, ..worker(0, 0) };
    for policy in POLICIES {
        assert_eq!(choose(policy.name, &asked(), &[leaving.clone(), worker(99, 9)], &[]), 1);
    }
}

#[test]
fn whoever_is_at_risk_is_chosen_only_where_nobody_else_has_room_or_makes_it_in_time() {
    let at_risk = |state| WorkerState { at_risk: true, ..state };
    let leaving = WorkerState { stage: domain::Stage::Draining, ..worker(0, 0) };
    for policy in POLICIES {
        // Tokens of the prompt add 160 ms, and it is due in a second.
        let of = |states: &[WorkerState]| choose(policy.name, &asked(), states, &[(0, 10)]);
        let idle = at_risk(priced(worker(0, 0), 0, Capacity::Spot));
        let busy = priced(worker(800, 50), 900, Capacity::OnDemand);
        assert_eq!(of(&[idle.clone(), busy.clone()]), 1, "{policy:?}: all else is worse");
        assert_eq!(of(&[idle.clone(), leaving.clone()]), 0, "{policy:?}: nobody else is left");
        assert_eq!(of(&[at_risk(worker(9_000, 0)), worker(9_000, 50)]), 1, "{policy:?}: all late");
        assert_eq!(of(&[idle.clone(), at_risk(worker(9_000, 9)), busy]), 2, "{policy:?}");
    }
    for policy in ["balanced", "least_time", "two_choices", "cheapest", "prefix"] {
        let states = [at_risk(worker(0, 0)), worker(9_000, 0)];
        assert_eq!(choose(policy, &asked(), &states, &[(0, 10)]), 0, "{policy}: in time");
    }
}

#[test]
fn figures_beyond_belief_overflow_nothing() {
    let liar = WorkerState {
        first_token_in: Duration::MAX,
        prompt_token_time: Duration::MAX,
        step_time: Duration::MAX,
        running: u32::MAX,
        waiting: u32::MAX,
        ..worker(0, 0)
    };
    for policy in POLICIES {
        let chosen = choose(policy.name, &asked(), &[liar.clone(), worker(9, 1)], &[]);
        assert!(chosen == 1 || policy.name == "session", "{policy:?}");
    }
}
