//! What every bank must do, tried with each of them.

use std::sync::Arc;
use std::time::Duration;

use admission::bank::{
    AccountId, AccountKind, Bank, BankError, Draw, Drawn, Founding, Standing, Wish,
};
use domain::{Clock, GatewayId, OrganizationId, RuleId, ScopeId, SystemClock, Timestamp};
use store::{MemoryBank, RedisBank, RedisBankSettings};

use crate::databases::{Fresh, sqlite};

/// Gateways that share one bank, and an organization of their own.
struct Shared {
    members: Vec<Member>,
    organization: OrganizationId,
    _database: Option<Fresh>,
}

struct Member {
    id: GatewayId,
    bank: Arc<dyn Bank>,
    number: u64,
}

fn in_memory(gateways: usize) -> Shared {
    let bank: Arc<dyn Bank> = Arc::new(MemoryBank::new(Arc::new(SystemClock)));
    let member = |_| Member { id: GatewayId::generate(), bank: Arc::clone(&bank), number: 0 };
    let members = (0..gateways).map(member).collect();
    Shared { members, organization: OrganizationId::generate(), _database: None }
}

async fn in_redis(gateways: usize) -> Shared {
    let fresh = sqlite().await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let settings = RedisBankSettings {
        connect_deadline: PATIENT,
        response_deadline: PATIENT,
        ..RedisBankSettings::default()
    };
    let mut members = Vec::new();
    for _ in 0..gateways {
        let (id, database) = (GatewayId::generate(), fresh.database.clone());
        let bank = RedisBank::new(&redis(), id, database, Arc::clone(&clock), settings).unwrap();
        bank.greet().await.unwrap();
        members.push(Member { id, bank: Arc::new(bank), number: 0 });
    }
    Shared { members, organization: OrganizationId::generate(), _database: Some(fresh) }
}

#[expect(clippy::disallowed_methods, reason = "where the tests find servers is not configuration")]
pub(crate) fn redis() -> String {
    std::env::var("TOLLGATE_TEST_REDIS").expect(
        "TOLLGATE_TEST_REDIS must name a Redis to test with; `cargo xtask test` starts one and sets it",
    )
}

/// Makes a test of each function below for each bank.
macro_rules! for_each_bank {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::in_memory(3)).await;
            })+
        }

        mod redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::in_redis(3).await).await;
            })+
        }
    };
}

for_each_bank!(
    what_gateways_take_together_never_exceeds_the_capacity,
    amounts_are_exact_to_the_last_unit_however_large,
    a_message_that_comes_again_or_late_changes_nothing,
    what_is_given_back_can_be_taken_by_others,
    a_message_is_granted_as_a_whole_or_not_at_all,
    a_pool_has_to_be_founded_and_what_was_spent_before_counts,
    places_are_free_again_when_given_back,
    a_rate_gives_a_minutes_worth_and_says_when_there_is_more,
    a_complete_message_gives_up_what_it_does_not_name,
    what_a_silent_gateway_has_is_kept_until_its_time_to_live_has_passed,
    spare_of_others_is_called_in_when_somebody_runs_short,
    an_account_named_twice_is_refused,
);

impl Shared {
    /// One message of the gateway at `at`.
    async fn say(&mut self, at: usize, wishes: Vec<Wish>) -> Drawn {
        self.try_say(at, wishes, false, LASTING).await.unwrap()
    }

    async fn try_say(
        &mut self,
        at: usize,
        wishes: Vec<Wish>,
        complete: bool,
        time_to_live: Duration,
    ) -> Result<Drawn, BankError> {
        self.members[at].number += 1;
        let draw = self.message(at, wishes, complete, time_to_live);
        self.members[at].bank.draw(&draw).await
    }

    fn message(&self, at: usize, wishes: Vec<Wish>, complete: bool, ttl: Duration) -> Draw {
        let Member { id: gateway, number, .. } = self.members[at];
        let organization = self.organization;
        Draw { gateway, number, organization, complete, wishes, time_to_live: ttl }
    }

    /// Founds pools of which nothing was spent.
    async fn found(&mut self, accounts: &[AccountId]) {
        let foundings: Vec<Founding> =
            accounts.iter().map(|account| Founding { account: *account, spent: vec![] }).collect();
        // Signs in, so that the organization is known.
        self.say(0, vec![]).await;
        self.members[0].bank.found(self.organization, &foundings).await.unwrap();
    }
}

fn account(number: u128) -> AccountId {
    AccountId {
        scope: ScopeId::Project(domain::Id::from_u128(1)),
        rule: RuleId::from_u128(number),
        window: Timestamp::from_millis(0),
    }
}

fn pool(number: u128, capacity: i64, want: i64, least: i64) -> Wish {
    let kind = AccountKind::Pool { capacity };
    Wish { account: account(number), kind, spent: 0, has: 0, want, least }
}

fn slots(capacity: i64, want: i64) -> Wish {
    let kind = AccountKind::Slots { capacity };
    Wish { account: account(2), kind, spent: 0, has: 0, want, least: want }
}

fn rate(per_minute: i64, want: i64) -> Wish {
    let kind = AccountKind::Rate { per_minute };
    Wish { account: account(3), kind, spent: 0, has: 0, want, least: want }
}

fn given(drawn: &Drawn) -> (bool, &[Standing]) {
    let Drawn::Standings { granted, standings, .. } = drawn else { panic!("{drawn:?}") };
    (*granted, standings)
}

async fn what_gateways_take_together_never_exceeds_the_capacity(mut shared: Shared) {
    shared.found(&[account(1)]).await;
    let mut taken = [0; 3];
    let (mut at, mut refused) = (0, 0);
    while refused < 3 {
        let own = &mut taken[at];
        let drawn = shared.say(at, vec![pool(1, 1_000, *own + 90, *own + 1)]).await;
        let (granted, standings) = given(&drawn);
        *own = standings[0].taken;
        refused = if granted { 0 } else { refused + 1 };
        at = (at + 1) % 3;
        assert!(taken.iter().sum::<i64>() <= 1_000, "{taken:?}");
    }
    assert_eq!(taken.iter().sum::<i64>(), 1_000, "and all of it can be taken");
}

async fn amounts_are_exact_to_the_last_unit_however_large(mut shared: Shared) {
    shared.found(&[account(1)]).await;
    // A double cannot tell these from their neighbours.
    let capacity = 9_007_199_254_740_993_i64 * 1_000 + 1;
    let first = capacity / 3;

    let drawn = shared.say(0, vec![pool(1, capacity, first, first)]).await;
    assert_eq!(given(&drawn).1[0].taken, first);
    assert_eq!(given(&drawn).1[0].left, capacity - first);

    let rest = capacity - first;
    let granted = given(&shared.say(1, vec![pool(1, capacity, rest + 1, rest + 1)]).await).0;
    assert!(!granted, "one more than there is");
    let drawn = shared.say(1, vec![pool(1, capacity, rest, rest)]).await;
    assert_eq!((given(&drawn).1[0].taken, given(&drawn).1[0].left), (rest, 0));
}

async fn a_message_that_comes_again_or_late_changes_nothing(mut shared: Shared) {
    shared.found(&[account(1)]).await;
    shared.say(0, vec![pool(1, 100, 10, 10)]).await;
    let late = shared.message(0, vec![pool(1, 100, 10, 10)], false, LASTING);
    shared.say(0, vec![pool(1, 100, 50, 50)]).await;

    let again = shared.members[0].bank.draw(&late).await.unwrap();

    assert_eq!(again, Drawn::Outdated);
    let drawn = shared.say(1, vec![pool(1, 100, 51, 51)]).await;
    assert!(!given(&drawn).0, "the first still has its 50");
}

async fn what_is_given_back_can_be_taken_by_others(mut shared: Shared) {
    shared.found(&[account(1)]).await;
    shared.say(0, vec![pool(1, 100, 100, 100)]).await;
    assert!(!given(&shared.say(1, vec![pool(1, 100, 60, 60)]).await).0);

    let kept = Wish { spent: 30, ..pool(1, 100, 40, 40) };
    shared.say(0, vec![kept]).await;

    assert!(given(&shared.say(1, vec![pool(1, 100, 60, 60)]).await).0);
    assert!(!given(&shared.say(2, vec![pool(1, 100, 1, 1)]).await).0);
}

async fn a_message_is_granted_as_a_whole_or_not_at_all(mut shared: Shared) {
    shared.found(&[account(1), account(4)]).await;

    let drawn = shared.say(0, vec![pool(1, 100, 10, 10), pool(4, 5, 10, 10)]).await;

    let (granted, standings) = given(&drawn);
    assert!(!granted);
    assert_eq!((standings[0].taken, standings[1].taken), (0, 0));
    assert!(given(&shared.say(1, vec![pool(1, 100, 100, 100)]).await).0, "nothing was kept");
}

async fn a_pool_has_to_be_founded_and_what_was_spent_before_counts(mut shared: Shared) {
    let wish = pool(1, 100, 50, 50);
    let told = shared.say(0, vec![slots(9, 1), wish]).await;
    assert_eq!(told, Drawn::Unknown(vec![1]));

    let earlier = GatewayId::generate();
    let spent = vec![(earlier, 40), (shared.members[1].id, 20)];
    let founding = Founding { account: account(1), spent };
    for _ in 0..2 {
        let founding = std::slice::from_ref(&founding);
        shared.members[0].bank.found(shared.organization, founding).await.unwrap();
    }

    assert!(!given(&shared.say(0, vec![wish]).await).0, "only 40 are left");
    let drawn = shared.say(0, vec![pool(1, 100, 40, 40)]).await;
    assert_eq!(given(&drawn).1[0].left, 0);
}

async fn places_are_free_again_when_given_back(mut shared: Shared) {
    assert!(given(&shared.say(0, vec![slots(3, 2)]).await).0);
    assert!(!given(&shared.say(1, vec![slots(3, 2)]).await).0);
    assert!(given(&shared.say(0, vec![slots(3, 1)]).await).0, "gives one back");
    assert!(given(&shared.say(1, vec![slots(3, 2)]).await).0);
}

async fn a_rate_gives_a_minutes_worth_and_says_when_there_is_more(mut shared: Shared) {
    let mut taken = 0;
    loop {
        let drawn = shared.say(taken as usize % 3, vec![rate(12, 1)]).await;
        let (granted, standings) = given(&drawn);
        if !granted {
            let wait = standings[0].wait_nanos;
            assert!(wait > 0 && wait <= 5_000_000_000, "one in five seconds: {wait}");
            break;
        }
        taken += standings[0].taken;
    }
    assert_eq!(taken, 12);
    let drawn = shared.say(0, vec![rate(12, 13)]).await;
    assert_eq!(given(&drawn).1[0].wait_nanos, Standing::NEVER);

    shared.say(1, vec![rate(12, -3)]).await;
    assert!(
        given(&shared.say(2, vec![rate(12, 3)]).await).0,
        "what is given back is there at once"
    );
    assert!(!given(&shared.say(2, vec![rate(12, 1)]).await).0);
}

async fn a_complete_message_gives_up_what_it_does_not_name(mut shared: Shared) {
    shared.found(&[account(1), account(4)]).await;
    shared.say(0, vec![pool(1, 100, 100, 100), slots(1, 1)]).await;

    shared.try_say(0, vec![], true, LASTING).await.unwrap();

    assert!(given(&shared.say(1, vec![slots(1, 1)]).await).0);
    // It may have spent what it had: the ledger has to say.
    assert_eq!(shared.say(1, vec![pool(1, 100, 1, 1)]).await, Drawn::Unknown(vec![0]));
    let founding = Founding { account: account(1), spent: vec![(shared.members[0].id, 30)] };
    shared.members[1].bank.found(shared.organization, &[founding]).await.unwrap();
    assert!(given(&shared.say(1, vec![pool(1, 100, 70, 70)]).await).0);
    assert!(!given(&shared.say(1, vec![pool(1, 100, 71, 71)]).await).0);
}

async fn what_a_silent_gateway_has_is_kept_until_its_time_to_live_has_passed(mut shared: Shared) {
    let short = Duration::from_millis(1);
    shared.try_say(0, vec![slots(1, 1)], false, short).await.unwrap();
    assert!(given(&shared.say(1, vec![slots(1, 0)]).await).0);

    // Waits for the state: a few milliseconds of the bank's own clock.
    while !given(&shared.say(1, vec![slots(1, 1)]).await).0 {}
    assert!(!given(&shared.say(2, vec![slots(1, 1)]).await).0);
}

async fn spare_of_others_is_called_in_when_somebody_runs_short(mut shared: Shared) {
    shared.found(&[account(1)]).await;
    shared.say(0, vec![pool(1, 100, 100, 100)]).await;

    let short = shared.say(1, vec![pool(1, 100, 10, 10)]).await;
    let (granted, standings) = given(&short);
    assert!(!granted);
    assert_eq!(standings[0].spare_elsewhere, 100);

    let told = shared.say(0, vec![pool(1, 100, 100, 100)]).await;
    assert!(matches!(told, Drawn::Standings { called_in: true, .. }), "{told:?}");
    shared.say(0, vec![pool(1, 100, 20, 20)]).await;
    assert!(given(&shared.say(1, vec![pool(1, 100, 10, 10)]).await).0);
    let told = shared.say(0, vec![pool(1, 100, 20, 20)]).await;
    assert!(matches!(told, Drawn::Standings { called_in: false, .. }), "{told:?}");
}

async fn an_account_named_twice_is_refused(mut shared: Shared) {
    let refused = shared.try_say(0, vec![slots(5, 1), slots(5, 1)], false, LASTING).await;
    let cause = std::error::Error::source(&refused.unwrap_err()).unwrap().to_string();
    assert!(cause.contains("named twice"), "{cause}");
}

/// Longer than a test runs.
const LASTING: Duration = Duration::from_hours(1);
/// Deadlines that a Redis which answers never meets, however busy the machine is.
const PATIENT: Duration = Duration::from_mins(1);
