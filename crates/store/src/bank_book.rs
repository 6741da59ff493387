//! The arithmetic of the bank: one organization's accounts, and what each gateway has taken of them.
//!
//! Promises what [`admission::bank::Bank`] promises, as plain functions of a message and a time. The
//! Lua in `bank_redis` is the same arithmetic, line for line; a differential test holds them together,
//! so change both or neither.
//!
//! A gateway's claims carry the number of the message it *joined* with. A gateway joins when it is first
//! heard, when it comes back after its time to live, and with every `complete` message; claims of an
//! earlier joining count for what is spent of them and no more, which the ledger is asked for. So a gateway that died, restarted or gave
//! everything back needs no walk over the accounts. A loss of memory starts a new *epoch* in the same way:
//! what an account knows of an earlier one is not believed until it is founded again.
//!
//! Knows nothing of clocks, locks or Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use admission::bank::{AccountId, AccountKind, Draw, Drawn, Founding, Standing, Wish};
use domain::GatewayId;

/// The accounts of one organization.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Grows with every loss of memory.
    epoch: u64,
    recovery: Option<Recovery>,
    gateways: BTreeMap<GatewayId, Gateway>,
    accounts: BTreeMap<AccountId, Account>,
    calls: Vec<Call>,
    /// Accounts that were left by the last sweep.
    swept: usize,
}

/// Who is waited for, and who has said what it has.
#[derive(Debug, Default)]
struct Recovery {
    /// With the millisecond until which it is waited for.
    waiting: BTreeMap<GatewayId, u64>,
    spoken: BTreeSet<GatewayId>,
}

#[derive(Clone, Copy, Debug)]
struct Gateway {
    number: u64,
    joined: u64,
    /// The millisecond from which its claims are void.
    expires: u64,
}

#[derive(Debug, Default)]
struct Account {
    epoch: u64,
    founded: bool,
    /// `Rate`: the microsecond at which the rate will be whole again (GCRA's theoretical arrival time).
    whole_at: u64,
    claims: BTreeMap<GatewayId, Claim>,
    /// The millisecond of the last message about it.
    touched: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Claim {
    joined: u64,
    taken: i64,
    spent: i64,
}

/// A gateway that was refused, or given little, while others held spare.
#[derive(Clone, Copy, Debug)]
struct Call {
    account: AccountId,
    by: GatewayId,
    until: u64,
    needs: i128,
}

/// Who speaks, and which of its claims count.
#[derive(Clone, Copy)]
struct Speaker {
    gateway: GatewayId,
    now: u64,
    /// The joining whose claims count so far; none if it was not here.
    before: Option<u64>,
    /// The joining that its claims are written under.
    joined: u64,
}

/// What a wish would come to.
#[derive(Clone, Copy, Default)]
struct Plan {
    growth: i128,
    wanted: i128,
    needed: i128,
    left: i128,
    spare_elsewhere: i128,
    short: bool,
}

impl Book {
    /// Answers `draw` at `now`, in microseconds since 1970.
    pub(crate) fn draw(&mut self, draw: &Draw, now: u64) -> Drawn {
        let Some(mut speaker) = self.join(draw, now) else {
            return Drawn::Outdated;
        };
        if let Some(retry_in) = self.recover(draw, &mut speaker) {
            return Drawn::Recovering { retry_in };
        }
        self.give_back(draw, speaker);
        let unknown = self.unknown(draw, now);
        if !unknown.is_empty() {
            return Drawn::Unknown(unknown);
        }

        let live = self.live(now);
        let mut plans: Vec<Plan> =
            draw.wishes.iter().map(|wish| self.plan(wish, speaker, live)).collect();
        let granted = plans.iter().all(|plan| !plan.short);
        for (wish, plan) in draw.wishes.iter().zip(&mut plans) {
            if granted {
                self.grant(wish, speaker, plan);
            } else {
                plan.growth = 0;
            }
        }
        self.call_in(draw, &plans, speaker);
        let standings = draw.wishes.iter().zip(&plans);
        Drawn::Standings {
            granted,
            standings: standings.map(|(wish, plan)| self.standing(wish, plan, speaker)).collect(),
            called_in: self.calls.iter().any(|call| call.by != draw.gateway),
        }
    }

    /// Raises what was spent of each account to what `foundings` say, and makes the accounts known.
    pub(crate) fn found(&mut self, foundings: &[Founding], now: u64) {
        for founding in foundings {
            let account = self.account(founding.account, now);
            account.founded = true;
            for (gateway, spent) in &founding.spent {
                let claim = account.claims.entry(*gateway).or_default();
                claim.spent = claim.spent.max(*spent);
                claim.taken = claim.taken.max(claim.spent);
            }
            let Self { accounts, gateways, .. } = self;
            let Some(account) = accounts.get_mut(&founding.account) else { continue };
            for (id, claim) in &mut account.claims {
                if !claim.counts(gateways.get(id), now) {
                    claim.taken = claim.spent;
                }
            }
        }
    }

    /// Forgets what every gateway has, until it says so again or `time_to_live` has passed: those of
    /// `holders` and those that were here.
    pub(crate) fn lose(&mut self, holders: &[GatewayId], time_to_live: Duration, now: u64) {
        let until = expiry(now, time_to_live);
        let here = self.gateways.iter_mut().filter(|(_, gateway)| gateway.is_live(now));
        let here: Vec<GatewayId> = here
            .map(|(id, gateway)| {
                gateway.expires = 0;
                *id
            })
            .collect();
        let waiting = holders.iter().copied().chain(here).map(|id| (id, until)).collect();
        self.epoch += 1;
        self.calls.clear();
        self.recovery = Some(Recovery { waiting, spoken: BTreeSet::new() });
    }

    /// Takes note of the gateway, unless the message is an old one.
    fn join(&mut self, draw: &Draw, now: u64) -> Option<Speaker> {
        let known = self.gateways.get(&draw.gateway);
        if known.is_some_and(|known| draw.number <= known.number) {
            return None;
        }
        let before = known.filter(|known| known.is_live(now)).map(|known| known.joined);
        let joined = if draw.complete { draw.number } else { before.unwrap_or(draw.number) };
        let expires = expiry(now, draw.time_to_live);
        self.gateways.insert(draw.gateway, Gateway { number: draw.number, joined, expires });
        Some(Speaker { gateway: draw.gateway, now, before, joined })
    }

    /// While memory is being restored: writes down what the gateway has. Returns when to ask again, or
    /// none if everybody has spoken.
    fn recover(&mut self, draw: &Draw, speaker: &mut Speaker) -> Option<Duration> {
        let mut recovery = self.recovery.take()?;
        let first = !recovery.spoken.contains(&draw.gateway);
        let speaks = draw.complete || !first;
        if speaks {
            recovery.waiting.remove(&draw.gateway);
            recovery.spoken.insert(draw.gateway);
            for wish in &draw.wishes {
                self.write_down(wish, *speaker, first);
            }
            speaker.before = Some(speaker.joined);
        }
        let now = millis(speaker.now);
        recovery.waiting.retain(|_, until| now < *until);
        let last = *recovery.waiting.values().max()?;
        self.recovery = Some(recovery);
        Some(if speaks {
            Duration::from_millis((last - now).min(ASK_AGAIN_MILLIS))
        } else {
            Duration::ZERO
        })
    }

    fn write_down(&mut self, wish: &Wish, speaker: Speaker, first: bool) {
        let account = self.account(wish.account, speaker.now);
        match wish.kind {
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                let claim = account.claims.entry(speaker.gateway).or_default();
                claim.spent = claim.spent.max(wish.spent);
                claim.taken = wish.has.max(claim.spent);
                claim.joined = speaker.joined;
            }
            // Once: a rate adds up what gateways were given.
            AccountKind::Rate { per_minute } if first && wish.has > 0 && per_minute > 0 => {
                let used = Pace::of(per_minute).micros_for(wish.has);
                let whole_at = account.whole_at.max(speaker.now) + used;
                account.whole_at = whole_at.min(speaker.now + MINUTE_MICROS);
            }
            AccountKind::Rate { .. } => {}
        }
    }

    /// What never fails: telling what is spent, and giving back.
    fn give_back(&mut self, draw: &Draw, speaker: Speaker) {
        for wish in &draw.wishes {
            if matches!(wish.kind, AccountKind::Pool { .. })
                && !self.accounts.contains_key(&wish.account)
            {
                continue;
            }
            let account = self.account(wish.account, speaker.now);
            match wish.kind {
                AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                    let claim = account.claims.entry(speaker.gateway).or_default();
                    let counted = speaker.before == Some(claim.joined);
                    claim.spent = claim.spent.max(wish.spent);
                    let had = if counted { claim.taken.max(claim.spent) } else { claim.spent };
                    claim.taken = had.min(wish.want.max(claim.spent));
                    claim.joined = speaker.joined;
                }
                AccountKind::Rate { per_minute } if wish.want < 0 && per_minute > 0 => {
                    let given_back = Pace::of(per_minute).micros_back(wish.want.saturating_neg());
                    account.whole_at = account.whole_at.saturating_sub(given_back);
                }
                AccountKind::Rate { .. } => {}
            }
        }
    }

    /// Pools that were never founded in this epoch, and those of which a gateway had more than it said it
    /// spent when it died, restarted or fell silent: it may have spent that too, and the ledger knows.
    fn unknown(&self, draw: &Draw, now: u64) -> Vec<usize> {
        let told = |(id, claim): (&GatewayId, &Claim)| {
            claim.taken <= claim.spent || claim.counts(self.gateways.get(id), now)
        };
        let known = |wish: &Wish| {
            let account = self.accounts.get(&wish.account);
            account.is_some_and(|account| {
                account.founded && account.epoch == self.epoch && account.claims.iter().all(told)
            })
        };
        let wishes = draw.wishes.iter().enumerate();
        wishes
            .filter(|(_, wish)| matches!(wish.kind, AccountKind::Pool { .. }) && !known(wish))
            .map(|(index, _)| index)
            .collect()
    }

    fn plan(&self, wish: &Wish, speaker: Speaker, live: i128) -> Plan {
        let account = &self.accounts[&wish.account];
        let (wanted, needed, left, share, spare_elsewhere) = match wish.kind {
            AccountKind::Pool { capacity } | AccountKind::Slots { capacity } => {
                let (total, spare_elsewhere) = self.taken(account, speaker);
                let claim = account.claims[&speaker.gateway];
                let wanted = i128::from(wish.want) - i128::from(claim.taken);
                let needed = i128::from(wish.least) - i128::from(claim.taken);
                let left = (i128::from(capacity) - total).max(0);
                let pool = matches!(wish.kind, AccountKind::Pool { .. });
                let share = left / (live * if pool { POOL_PARTS } else { SLOTS_PARTS });
                (wanted, needed, left, share, spare_elsewhere)
            }
            AccountKind::Rate { per_minute } => {
                let left = i128::from(account.available(per_minute, speaker.now));
                let share = left / (live * RATE_PARTS);
                (wish.want.into(), wish.least.into(), left, share, 0)
            }
        };
        let wanted = wanted.max(0);
        let needed = needed.clamp(0, wanted);
        let growth = wanted.min(left).min(needed.max(share));
        Plan { growth, wanted, needed, left, spare_elsewhere, short: needed > left }
    }

    /// What all gateways have taken, and what others have taken and not spent.
    fn taken(&self, account: &Account, speaker: Speaker) -> (i128, i128) {
        let (mut total, mut spare_elsewhere) = (0, 0);
        for (id, claim) in &account.claims {
            let spent = i128::from(claim.spent);
            let counts = claim.counts(self.gateways.get(id), speaker.now);
            let taken = if counts { spent.max(claim.taken.into()) } else { spent };
            total += taken;
            if *id != speaker.gateway {
                spare_elsewhere += taken - spent;
            }
        }
        (total, spare_elsewhere)
    }

    fn grant(&mut self, wish: &Wish, speaker: Speaker, plan: &Plan) {
        let growth = clamp(plan.growth);
        let account = self.account(wish.account, speaker.now);
        match wish.kind {
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                let claim = account.claims.entry(speaker.gateway).or_default();
                claim.taken = claim.taken.saturating_add(growth);
            }
            AccountKind::Rate { per_minute } if growth > 0 => {
                let whole_at = account.whole_at.max(speaker.now);
                account.whole_at = whole_at + Pace::of(per_minute).micros_for(growth);
            }
            AccountKind::Rate { .. } => {}
        }
    }

    /// Marks what ran short while others hold spare; lifts marks that are served or old.
    fn call_in(&mut self, draw: &Draw, plans: &[Plan], speaker: Speaker) {
        let now = millis(speaker.now);
        self.calls.retain(|call| now < call.until);
        for (wish, plan) in draw.wishes.iter().zip(plans) {
            if matches!(wish.kind, AccountKind::Rate { .. }) {
                continue;
            }
            let left = plan.left - plan.growth;
            self.calls.retain(|call| {
                call.account != wish.account || (call.by != draw.gateway && left < call.needs)
            });
            let little = plan.growth < plan.wanted && left < plan.spare_elsewhere;
            if (plan.short || little) && plan.spare_elsewhere > 0 {
                if self.calls.len() >= MAX_CALLS {
                    self.calls.remove(0);
                }
                self.calls.push(Call {
                    account: wish.account,
                    by: draw.gateway,
                    until: now + CALL_MILLIS,
                    needs: if plan.short { plan.needed } else { plan.wanted - plan.growth },
                });
            }
        }
    }

    fn standing(&self, wish: &Wish, plan: &Plan, speaker: Speaker) -> Standing {
        let account = &self.accounts[&wish.account];
        let (taken, left, wait_nanos) = match wish.kind {
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                (account.claims[&speaker.gateway].taken, clamp(plan.left - plan.growth), 0)
            }
            AccountKind::Rate { per_minute } => {
                let left = account.available(per_minute, speaker.now);
                let wait = account.wait(wish.least, per_minute, speaker.now);
                (clamp(plan.growth), left, wait)
            }
        };
        Standing { taken, left, spare_elsewhere: clamp(plan.spare_elsewhere), wait_nanos }
    }

    /// How many gateways are here, the speaker among them.
    fn live(&self, now: u64) -> i128 {
        let live = self.gateways.values().filter(|gateway| gateway.is_live(now)).count();
        live as i128
    }

    /// The account, as this epoch knows it.
    fn account(&mut self, id: AccountId, now: u64) -> &mut Account {
        if !self.accounts.contains_key(&id) {
            self.sweep(now);
        }
        let epoch = self.epoch;
        let account = self.accounts.entry(id).or_default();
        account.touched = millis(now);
        if account.epoch != epoch {
            account.epoch = epoch;
            account.founded = false;
            account.whole_at = 0;
        }
        account
    }

    /// Forgets accounts that nobody asked about for long and of which nobody holds anything, each time
    /// that as many were made as the last sweep left.
    fn sweep(&mut self, now: u64) {
        if self.accounts.len() < 2 * self.swept.max(MIN_SWEEP) {
            return;
        }
        let Self { accounts, gateways, .. } = self;
        accounts.retain(|_, account| {
            account.touched + KEEP_MILLIS > millis(now)
                || account.claims.iter().any(|(id, claim)| {
                    claim.taken > claim.spent && claim.counts(gateways.get(id), now)
                })
        });
        gateways.retain(|_, gateway| gateway.expires + KEEP_MILLIS > millis(now));
        self.swept = self.accounts.len();
    }
}

impl Claim {
    /// Whether all that was taken counts, and not only what is spent of it.
    fn counts(&self, gateway: Option<&Gateway>, now: u64) -> bool {
        gateway.is_some_and(|gateway| gateway.is_live(now) && gateway.joined == self.joined)
    }
}

impl Gateway {
    const fn is_live(&self, now: u64) -> bool {
        millis(now) < self.expires
    }
}

impl Account {
    fn available(&self, per_minute: i64, now: u64) -> i64 {
        let owed = self.whole_at.saturating_sub(now);
        Pace::of(per_minute).units_in(MINUTE_MICROS.saturating_sub(owed))
    }

    /// Nanoseconds until `units` can be taken.
    fn wait(&self, units: i64, per_minute: i64, now: u64) -> u64 {
        if units <= 0 {
            return 0;
        }
        if units > per_minute.min(MOST_UNITS) {
            return Standing::NEVER;
        }
        let owed = self.whole_at.saturating_sub(now);
        let micros = owed + Pace::of(per_minute).micros_for(units);
        micros.saturating_sub(MINUTE_MICROS) * NANOS_PER_MICRO
    }
}

/// How fast a rate refills, in numbers whose products a double holds exactly: Redis has no others. Units are
/// counted by `step`, so of the fastest rates a hundred-millionth is the least that is told apart; what is
/// taken is rounded up and what is given back is rounded down.
#[derive(Clone, Copy)]
struct Pace {
    /// Units that are counted as one.
    step: u64,
    /// Steps per minute; zero for a rate of nothing.
    steps_per_minute: u64,
}

impl Pace {
    fn of(per_minute: i64) -> Self {
        let per_minute = per_minute.clamp(0, MOST_UNITS).unsigned_abs();
        let step = per_minute.div_ceil(MOST_STEPS).max(1);
        Self { step, steps_per_minute: per_minute / step }
    }

    /// How long `units` take to refill: taking them never gives more than the rate.
    fn micros_for(self, units: i64) -> u64 {
        let steps = clamped(units).div_ceil(self.step).min(self.steps_per_minute);
        (steps * MINUTE_MICROS).div_ceil(self.steps_per_minute.max(1))
    }

    /// The same, rounded down: giving them back never returns more than was taken.
    fn micros_back(self, units: i64) -> u64 {
        let steps = (clamped(units) / self.step).min(self.steps_per_minute);
        steps * MINUTE_MICROS / self.steps_per_minute.max(1)
    }

    /// Units that refill in so long.
    fn units_in(self, micros: u64) -> i64 {
        (micros * self.steps_per_minute / MINUTE_MICROS * self.step).cast_signed()
    }
}

fn clamped(units: i64) -> u64 {
    units.clamp(0, MOST_UNITS).unsigned_abs()
}

/// Rounded up twice: what is taken stays taken at least as long as was promised.
fn expiry(now: u64, time_to_live: Duration) -> u64 {
    let lasting = u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX).saturating_add(2);
    millis(now).saturating_add(lasting)
}

const fn millis(micros: u64) -> u64 {
    micros / 1_000
}

fn clamp(amount: i128) -> i64 {
    amount.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// A rate holds a minute's worth.
const MINUTE_MICROS: u64 = 60_000_000;
const NANOS_PER_MICRO: u64 = 1_000;

/// Faster rates than a double can count are as good as none.
const MOST_UNITS: i64 = (1 << 53) - 1;

/// Times a minute's microseconds, a double still counts it.
const MOST_STEPS: u64 = 100_000_000;

/// At once a gateway gets this part of what is left of a pool, divided by the gateways: spare shrinks as
/// the pool does, and the last of it is shared.
const POOL_PARTS: i128 = 8;

/// What refills can be handed out faster.
const RATE_PARTS: i128 = 4;

/// Places come back by themselves.
const SLOTS_PARTS: i128 = 1;

/// Others may speak before the last deadline.
const ASK_AGAIN_MILLIS: u64 = 250;

/// Long enough for every gateway to come by.
const CALL_MILLIS: u64 = 1_000;

/// An organization has few accounts that run short at a time; the oldest mark gives way.
const MAX_CALLS: usize = 32;

/// Accounts that nobody holds and nobody asked about are kept so long.
const KEEP_MILLIS: u64 = 60 * 60 * 1_000;

/// Fewer accounts are not worth a sweep.
const MIN_SWEEP: usize = 64;
