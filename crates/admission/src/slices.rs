//! A gateway's share of every quota, handed out without asking anybody.
//!
//! [`Slices`] keeps, for each account, how much of it this gateway has taken from the [bank](crate::bank),
//! how much of that is spent and how much is held by running requests. What is neither is spare, and is
//! handed out at once; when there is too little, a [`Draw`] takes more. While requests come, slices are
//! as large as about two seconds of demand, so that the bank is asked about once a second and never for
//! a single request; the bank makes them smaller near the end of a budget, and what lies idle goes back.
//!
//! Promises: a hold takes from every account or from none; what is held and spent of an account never
//! exceeds what the bank gave; settling twice counts once. When the bank is silent, what was taken is
//! still handed out, but no longer than the bank keeps it for us; then budgets refuse, and rates and
//! places are handed out at one part in as many as there are gateways.
//!
//! Invariant: decides only. It neither waits nor sends; whoever owns it does, with one message about an
//! organization under way at a time. Time is monotonic nanoseconds, handed in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{GatewayId, HoldId, OrganizationId, Timestamp};

use crate::bank::{AccountId, AccountKind, Draw, Drawn, Standing, Wish};
use crate::claims::{Claim, Measure, Quantity, Rule};
use crate::quota::{Ask, Grant, RateState, Rates, Refusal};
use crate::tenancy::LimitKind;

/// How a gateway shares quotas with others.
#[derive(Clone, Copy, Debug)]
pub struct SliceSettings {
    /// Gateways there are, for sharing rates while the bank is silent.
    pub gateways: u32,
    /// The longest that a request may run.
    pub request_timeout: Duration,
}

/// Every slice of one gateway, and the holds on them.
#[derive(Debug)]
pub struct Slices {
    gateway: GatewayId,
    settings: SliceSettings,
    /// The number of the last message about any organization.
    number: u64,
    purses: HashMap<OrganizationId, Purse>,
    holds: HashMap<HoldId, Held>,
}

/// What to do for an ask.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It is held.
    Granted(Grant),
    /// It is not, and asking the bank would not help.
    Refused(Refusal),
    /// Learn what was spent of these accounts before, then [`Slices::adopt`] them and ask again.
    Learn(Vec<Claim>),
    /// Take more: send [`Slices::draw`] to the bank, then ask again.
    Draw,
    /// Other gateways were asked to give back what they do not use; draw again in a moment.
    Wait,
    /// The bank is silent, and nothing is left of what it gave.
    Unavailable,
}

/// What an ask was told by the bank, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing: it has not been asked.
    NotYet,
    /// It answered.
    Answered,
    /// It was silent.
    Silent,
    /// It answered often enough; whatever it said last counts.
    LastWord,
}

/// What a message to the bank is to take.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Of which accounts.
    pub claims: &'a [Claim],
    /// The least that is of use.
    pub least: &'a Quantity,
    /// The most that is of use now.
    pub most: &'a Quantity,
    /// For a hold that runs already: only budgets bound it.
    pub begun: bool,
}

/// The slices of one organization's accounts: what one message to the bank is about.
#[derive(Debug, Default)]
struct Purse {
    slices: HashMap<AccountId, Slice>,
    /// The number of the message that is under way, or was last.
    sent: u64,
    /// Until when the bank keeps what we have taken.
    kept_until: u64,
    /// When the bank last answered.
    answered_at: u64,
    /// Others want what we do not use.
    called_in: bool,
    /// The bank has heard from us since we started, and has not lost its memory since.
    known: bool,
}

#[derive(Debug)]
struct Slice {
    /// The rule as last seen.
    claim: Claim,
    kind: AccountKind,
    ends: Timestamp,
    /// Pools and slots: everything taken in this window. Rates: units in hand; negative is a debt.
    taken: i64,
    /// Pools: gone for good.
    spent: i64,
    /// In running holds.
    held: i64,
    /// Pools and slots: what we have taken, as the bank last said. Rates: units given in this minute
    /// and in the one before it.
    told: i64,
    given: [i64; 2],
    minute: u64,
    /// Something the bank has not been told.
    unsaid: bool,
    /// The bank's last word, and when it came.
    standing: Standing,
    standing_at: u64,
    /// Use of the current stretch of time, and of the ones before, per second.
    used: i64,
    demand: i64,
    used_at: u64,
    /// While the bank is silent: when the local share of a rate is used up (GCRA).
    arrival: u64,
}

#[derive(Debug)]
struct Held {
    organization: OrganizationId,
    claims: Arc<[Claim]>,
    amount: Quantity,
}

impl Slices {
    /// No slices yet. `number` is above every message number this gateway used before: the time will do.
    pub fn new(gateway: GatewayId, number: u64, settings: SliceSettings) -> Self {
        Self { gateway, settings, number, purses: HashMap::new(), holds: HashMap::new() }
    }

    /// Who this is.
    pub const fn gateway(&self) -> GatewayId {
        self.gateway
    }

    /// Holds that are not settled.
    pub fn open_holds(&self) -> usize {
        self.holds.len()
    }

    /// Organizations with slices.
    pub fn organizations(&self) -> Vec<OrganizationId> {
        self.purses.keys().copied().collect()
    }

    /// Holds what `ask` asks for, or says what to do first.
    pub fn reserve(&mut self, ask: &Ask, asked: Asked, now: u64) -> Step {
        let unknown = self.open_accounts(ask, now);
        if !unknown.is_empty() {
            return Step::Learn(unknown);
        }
        let purse = self.purses.entry(ask.organization).or_default();
        let mut amount = ask.most;
        for claim in ask.claims.iter() {
            if let Err(step) =
                purse.look(claim, &ask.least, &mut amount, (asked, now), self.settings)
            {
                return step;
            }
        }
        for claim in ask.claims.iter() {
            purse.take(claim, amount.of(claim.measure), now);
        }
        let rates = purse.rates(&ask.claims, now);
        let held = Held { organization: ask.organization, claims: Arc::clone(&ask.claims), amount };
        self.holds.insert(ask.hold, held);
        Step::Granted(Grant { amount, rates })
    }

    /// Adds to a hold, between `least` and `most` more. `None` if there is no such hold.
    ///
    /// Rates are counted and never refuse: a stream that runs is not cut by a rate.
    pub fn extend(
        &mut self,
        hold: HoldId,
        (least, most): (&Quantity, &Quantity),
        asked: Asked,
        now: u64,
    ) -> Option<Step> {
        let held = self.holds.get_mut(&hold)?;
        let purse = self.purses.entry(held.organization).or_default();
        let mut amount = *most;
        for claim in held.claims.iter().filter(|claim| claim.is_pool()) {
            if let Err(step) = purse.look(claim, least, &mut amount, (asked, now), self.settings) {
                return Some(step);
            }
        }
        let counted =
            |claim: &&Claim| !matches!(claim.measure, Measure::Requests | Measure::Running);
        for claim in held.claims.iter().filter(counted) {
            purse.take(claim, amount.of(claim.measure), now);
        }
        held.amount += amount;
        Some(Step::Granted(Grant { amount, rates: Rates::default() }))
    }

    /// Ends a hold: what was spent of it stays spent, the rest is spare again.
    pub fn settle(&mut self, hold: HoldId, spent: &Quantity) {
        // A hold that is gone was settled before: once is enough.
        let Some(held) = self.holds.remove(&hold) else { return };
        let Some(purse) = self.purses.get_mut(&held.organization) else { return };
        for claim in held.claims.iter() {
            let Some(slice) = purse.slices.get_mut(&claim.account) else { continue };
            let (amount, spent) = (held.amount.of(claim.measure), spent.of(claim.measure));
            slice.end(amount, spent);
        }
    }

    /// Takes up accounts, with what this gateway had spent of each before.
    pub fn adopt(&mut self, organization: OrganizationId, spent: &[(Claim, i64)], now: u64) {
        let purse = self.purses.entry(organization).or_default();
        for (claim, spent) in spent {
            purse.slices.entry(claim.account).or_insert_with(|| Slice {
                // Its own spending is taken, whatever the bank says.
                taken: *spent,
                spent: *spent,
                told: *spent,
                ..Slice::new(claim, now)
            });
        }
    }

    /// The message that takes what is `wanted` (or nothing: then it only says how things stand, and
    /// gives back what lies idle). What it gives back is gone from here before it is sent.
    pub fn draw(
        &mut self,
        organization: OrganizationId,
        wanted: Option<Wanted<'_>>,
        now: u64,
    ) -> Option<Draw> {
        let settings = self.settings;
        let purse = self.purses.get_mut(&organization)?;
        let mut wishes = Vec::new();
        if let Some(Wanted { claims, least, most, begun }) = wanted {
            for claim in claims.iter().filter(|claim| claim.is_pool() || !begun) {
                let Some(slice) = purse.slices.get_mut(&claim.account) else { continue };
                let (least, most) = (least.of(claim.measure), most.of(claim.measure));
                wishes.push(slice.wish(claim.account, (least, most), now));
            }
        }
        let asked: Vec<AccountId> = wishes.iter().map(|wish| wish.account).collect();
        let called_in = std::mem::take(&mut purse.called_in);
        let complete = !purse.known;
        let others = purse.slices.iter_mut().filter(|(account, _)| !asked.contains(account));
        for (account, slice) in others {
            if wishes.len() >= MAX_WISHES && !complete {
                break;
            }
            wishes.extend(slice.statement(*account, called_in, now));
        }
        if wishes.is_empty() {
            return None;
        }
        self.number += 1;
        purse.sent = self.number;
        Some(Draw {
            gateway: self.gateway,
            number: self.number,
            organization,
            complete,
            wishes,
            time_to_live: time_to_live(settings),
        })
    }

    /// Takes in the bank's answer to a message that was sent at `sent_at`. Whether it gave what was asked.
    pub fn apply(&mut self, draw: &Draw, drawn: &Drawn, (sent_at, now): (u64, u64)) -> bool {
        let Some(purse) = self.purses.get_mut(&draw.organization) else { return false };
        let Drawn::Standings { granted, standings, called_in } = drawn else {
            return false;
        };
        if purse.sent != draw.number {
            return false; // a later message said less; what this answer gave is given back by it
        }
        purse.kept_until = sent_at.saturating_add(nanos(fence(self.settings)));
        purse.answered_at = now;
        purse.called_in |= *called_in;
        purse.known |= draw.complete;
        for (wish, standing) in draw.wishes.iter().zip(standings) {
            if let Some(slice) = purse.slices.get_mut(&wish.account) {
                slice.hear(standing, now);
            }
        }
        *granted
    }

    /// The bank lost its memory: the next message says everything.
    pub fn forgotten(&mut self, organization: OrganizationId) {
        if let Some(purse) = self.purses.get_mut(&organization) {
            purse.known = false;
        }
    }

    /// Whether the bank answered a message about `organization` after `since`.
    pub fn was_answered_since(&self, organization: OrganizationId, since: u64) -> bool {
        self.purses.get(&organization).is_some_and(|purse| purse.answered_at > since)
    }

    /// The rule behind an account.
    pub fn claim(&self, organization: OrganizationId, account: AccountId) -> Option<Claim> {
        let slice = self.purses.get(&organization)?.slices.get(&account)?;
        Some(slice.claim.clone())
    }

    /// Whose a hold is, and what bounds it.
    pub fn claims_of(&self, hold: HoldId) -> Option<(OrganizationId, Arc<[Claim]>)> {
        let held = self.holds.get(&hold)?;
        Some((held.organization, Arc::clone(&held.claims)))
    }

    /// What could still be held of each claim, as far as this gateway knows.
    pub fn left(&self, organization: OrganizationId, claims: &[Claim]) -> Vec<Option<i64>> {
        let purse = self.purses.get(&organization);
        let left = |claim: &Claim| {
            let slice = purse?.slices.get(&claim.account)?;
            Some(slice.spare().saturating_add(slice.standing.left.max(0)))
        };
        claims.iter().map(left).collect()
    }

    /// Whether a message is due that says how things stand.
    pub fn is_due(&self, organization: OrganizationId, now: u64) -> bool {
        let Some(purse) = self.purses.get(&organization) else { return false };
        let since = now.saturating_sub(purse.answered_at);
        let near_end = || purse.slices.values().any(Slice::is_near_end);
        let due =
            since >= STATEMENT_NANOS || purse.called_in || (since >= SOON_NANOS && near_end());
        due && purse
            .slices
            .values()
            .any(|slice| slice.unsaid || slice.spare() > 0 || slice.held > 0)
    }

    /// Forgets accounts whose window has ended.
    pub fn forget_before(&mut self, now: Timestamp) {
        for purse in self.purses.values_mut() {
            purse.slices.retain(|_, slice| {
                slice.ends > now || slice.held > 0 || slice.unsaid || slice.spare() != 0
            });
        }
        self.purses.retain(|_, purse| !purse.slices.is_empty());
    }

    /// Pools that are not open yet; opens everything else.
    fn open_accounts(&mut self, ask: &Ask, now: u64) -> Vec<Claim> {
        let purse = self.purses.entry(ask.organization).or_default();
        let mut unknown = Vec::new();
        for claim in ask.claims.iter() {
            match purse.slices.get_mut(&claim.account) {
                // A limit may have been changed since.
                Some(slice) if slice.kind != claim.kind => {
                    (slice.kind, slice.claim) = (claim.kind, claim.clone());
                }
                Some(_) => {}
                None if claim.is_pool() => {
                    unknown.push(claim.clone());
                }
                None => {
                    purse.slices.insert(claim.account, Slice::new(claim, now));
                }
            }
        }
        unknown
    }
}

impl Purse {
    /// Bounds `amount` by what the claim's slice can give now, or says what to do.
    fn look(
        &mut self,
        claim: &Claim,
        least: &Quantity,
        amount: &mut Quantity,
        (asked, now): (Asked, u64),
        settings: SliceSettings,
    ) -> Result<(), Step> {
        let kept = now < self.kept_until;
        let Some(slice) = self.slices.get_mut(&claim.account) else {
            return Err(Step::Learn(vec![claim.clone()]));
        };
        let least = least.of(claim.measure);
        if larger_than_rate(claim, least) {
            return Err(Step::Refused(claim.larger(least)));
        }
        let spare = slice.spare();
        // A budget of nothing pays for nothing, not even for what is free.
        let opened =
            !matches!(claim.kind, AccountKind::Pool { capacity } if capacity <= slice.spent);
        if spare >= least && opened && (kept || !slice.is_kept_by_bank()) {
            amount.at_most(claim.measure, slice.share(least).min(spare));
            return Ok(());
        }
        match asked {
            Asked::NotYet if slice.was_just_refused(least, now) => {
                Err(Step::Refused(claim.refusal(slice, now)))
            }
            Asked::NotYet => Err(Step::Draw),
            Asked::Answered if slice.may_be_called_in(least) => Err(Step::Wait),
            Asked::Answered | Asked::LastWord => Err(Step::Refused(claim.refusal(slice, now))),
            Asked::Silent => slice.alone(claim, least, settings, now),
        }
    }

    fn take(&mut self, claim: &Claim, amount: i64, now: u64) {
        if let Some(slice) = self.slices.get_mut(&claim.account) {
            slice.take(amount, now);
        }
    }

    /// How the tightest rates stand.
    fn rates(&self, claims: &[Claim], now: u64) -> Rates {
        let mut rates = Rates::default();
        for claim in claims {
            let AccountKind::Rate { per_minute } = claim.kind else { continue };
            let place = match claim.measure {
                Measure::Requests => &mut rates.requests,
                Measure::Tokens => &mut rates.tokens,
                _ => continue,
            };
            let Some(slice) = self.slices.get(&claim.account) else { continue };
            let state = slice.rate_state(per_minute, now);
            if place.is_none_or(|tightest: RateState| state.remaining < tightest.remaining) {
                *place = Some(state);
            }
        }
        rates
    }
}

impl Slice {
    fn new(claim: &Claim, now: u64) -> Self {
        Self {
            claim: claim.clone(),
            kind: claim.kind,
            ends: claim.bounds.end,
            taken: 0,
            spent: 0,
            held: 0,
            told: 0,
            given: [0; 2],
            minute: 0,
            unsaid: false,
            standing: Standing { taken: 0, left: 0, spare_elsewhere: 0, wait_nanos: 0 },
            standing_at: 0,
            used: 0,
            demand: 0,
            used_at: now,
            arrival: 0,
        }
    }

    /// What can be handed out.
    const fn spare(&self) -> i64 {
        match self.kind {
            AccountKind::Rate { .. } => self.taken,
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                self.taken - self.spent - self.held
            }
        }
    }

    /// Whether what we have in spare matters to others.
    const fn is_near_end(&self) -> bool {
        self.is_kept_by_bank()
            && self.spare() > 0
            && self.standing.left < self.spare().saturating_mul(SHARE_OF_REST)
    }

    /// Units of a rate are ours once taken; the rest is only kept for us.
    const fn is_kept_by_bank(&self) -> bool {
        !matches!(self.kind, AccountKind::Rate { .. })
    }

    /// The most for one hold: near the end of a pool, a part of what is left, so that many share it.
    fn share(&self, least: i64) -> i64 {
        match self.kind {
            AccountKind::Pool { .. } => {
                let rest = self.spare().saturating_add(self.standing.left.max(0));
                (rest / SHARE_OF_REST).max(least)
            }
            AccountKind::Slots { .. } | AccountKind::Rate { .. } => i64::MAX,
        }
    }

    fn take(&mut self, amount: i64, now: u64) {
        match self.kind {
            AccountKind::Rate { .. } => self.taken -= amount,
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => self.held += amount,
        }
        self.note_use(amount, now);
    }

    fn end(&mut self, amount: i64, spent: i64) {
        match self.kind {
            AccountKind::Pool { .. } => {
                self.held -= amount;
                self.spent += spent.min(amount);
                self.unsaid = true;
            }
            AccountKind::Slots { .. } => self.held -= amount,
            AccountKind::Rate { per_minute } => {
                self.taken = (self.taken + amount - spent).clamp(-per_minute, per_minute);
            }
        }
    }

    fn note_use(&mut self, amount: i64, now: u64) {
        let elapsed = now.saturating_sub(self.used_at);
        if elapsed >= DEMAND_NANOS {
            let seconds = i64::try_from(elapsed / DEMAND_NANOS).unwrap_or(i64::MAX).max(1);
            let lately = self.used / seconds;
            // Rises at once, falls by halves.
            self.demand = lately.max(self.demand.checked_shr(seconds as u32).unwrap_or(0));
            (self.used, self.used_at) = (0, now);
        }
        self.used = self.used.saturating_add(amount);
    }

    /// What is worth having in hand: two seconds of demand, or a few requests' worth at the beginning.
    fn ahead(&self, most: i64) -> i64 {
        let demand = self.demand.max(self.used).saturating_mul(AHEAD_SECONDS);
        match self.kind {
            // Every place is somebody's request.
            AccountKind::Slots { .. } => demand.min(MAX_PLACES_AHEAD).max(most),
            _ => demand.max(most.saturating_mul(FIRST_REQUESTS)),
        }
    }

    /// A wish for at least `least` spare.
    fn wish(&mut self, account: AccountId, (least, most): (i64, i64), now: u64) -> Wish {
        let ahead = self.ahead(most);
        self.unsaid = false;
        let has = self.has(now);
        match self.kind {
            AccountKind::Rate { .. } => Wish {
                account,
                kind: self.kind,
                spent: 0,
                has,
                want: (least + ahead - self.taken).max(0),
                least: (least - self.taken).max(0),
            },
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                let used = self.spent + self.held;
                Wish {
                    account,
                    kind: self.kind,
                    spent: self.spent,
                    has,
                    want: (used + least).saturating_add(ahead).max(self.taken),
                    least: used + least,
                }
            }
        }
    }

    /// How it stands, if there is news, and what lies idle for giving back.
    fn statement(&mut self, account: AccountId, called_in: bool, now: u64) -> Option<Wish> {
        self.note_use(0, now);
        let keep = if called_in { 0 } else { self.ahead(0) };
        let idle = (self.spare() - keep).max(0);
        let in_use = self.held > 0 || self.spare() != 0;
        if idle == 0 && !self.unsaid && !in_use {
            return None;
        }
        self.unsaid = false;
        self.taken -= idle;
        let (kind, has) = (self.kind, self.has(now));
        Some(match kind {
            AccountKind::Rate { .. } => {
                self.given[0] = (self.given[0] - idle).max(0);
                Wish { account, kind, spent: 0, has, want: -idle, least: -idle }
            }
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                let (want, spent) = (self.taken, self.spent);
                Wish { account, kind, spent, has, want, least: want }
            }
        })
    }

    /// What the bank gave us, for a bank that does not know any more.
    fn has(&mut self, now: u64) -> i64 {
        match self.kind {
            AccountKind::Rate { .. } => {
                self.turn_minute(now);
                self.given[0] + self.given[1]
            }
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                self.told.max(self.spent + self.held)
            }
        }
    }

    fn turn_minute(&mut self, now: u64) {
        let minute = now / MINUTE_NANOS;
        match minute - self.minute {
            0 => return,
            1 => self.given = [0, self.given[0]],
            _ => self.given = [0; 2],
        }
        self.minute = minute;
    }

    fn hear(&mut self, standing: &Standing, now: u64) {
        match self.kind {
            AccountKind::Rate { .. } => {
                let given = standing.taken.max(0);
                self.turn_minute(now);
                self.taken += given;
                self.given[0] += given;
            }
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                self.told = standing.taken;
                // Never less than is in use: what is spent is spent, whatever the bank says.
                self.taken = standing.taken.max(self.spent + self.held);
            }
        }
        (self.standing, self.standing_at) = (*standing, now);
    }

    /// Whether the bank said a moment ago that there is too little, so that asking it again is idle.
    fn was_just_refused(&self, least: i64, now: u64) -> bool {
        if self.standing_at == 0 {
            return false;
        }
        let since = now.saturating_sub(self.standing_at);
        let missing = least - self.spare();
        match self.kind {
            AccountKind::Rate { .. } => {
                self.standing.wait_nanos > since && self.standing.left < missing
            }
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                let others = self.standing.left.saturating_add(self.standing.spare_elsewhere);
                since < REFUSAL_NANOS && others < missing
            }
        }
    }

    /// Whether what others hold in spare would be enough.
    fn may_be_called_in(&self, least: i64) -> bool {
        let missing = least - self.spare();
        let Standing { left, spare_elsewhere, .. } = self.standing;
        self.is_kept_by_bank() && spare_elsewhere > 0 && left + spare_elsewhere >= missing
    }

    /// What a gateway does on its own: budgets fail closed, rates and places go on at its share.
    fn alone(
        &mut self,
        claim: &Claim,
        least: i64,
        settings: SliceSettings,
        now: u64,
    ) -> Result<(), Step> {
        let gateways = i64::from(settings.gateways.max(1));
        match self.kind {
            AccountKind::Pool { .. } => Err(Step::Unavailable),
            AccountKind::Slots { capacity } => {
                if self.held < capacity / gateways {
                    self.taken = self.taken.max(self.held + least);
                    return Ok(());
                }
                Err(Step::Refused(claim.refusal(self, now)))
            }
            AccountKind::Rate { per_minute } => {
                let local = (per_minute / gateways).max(1);
                let cost = (least - self.taken).max(0).unsigned_abs()
                    * (MINUTE_NANOS / local.unsigned_abs());
                let arrival = self.arrival.max(now).saturating_add(cost);
                if per_minute == 0 || arrival > now + MINUTE_NANOS {
                    self.standing.wait_nanos = arrival.saturating_sub(now + MINUTE_NANOS);
                    return Err(Step::Refused(claim.refusal(self, now)));
                }
                self.arrival = arrival;
                self.taken = self.taken.max(least);
                Ok(())
            }
        }
    }

    fn rate_state(&self, per_minute: i64, now: u64) -> RateState {
        let since = i64::try_from(now.saturating_sub(self.standing_at)).unwrap_or(i64::MAX);
        let refilled = if self.standing_at == 0 {
            per_minute
        } else {
            let share = i128::from(per_minute) * i128::from(since) / i128::from(MINUTE_NANOS);
            i64::try_from(share).unwrap_or(i64::MAX)
        };
        let remaining = self.standing.left.saturating_add(refilled).saturating_add(self.taken);
        let remaining = remaining.clamp(0, per_minute);
        let missing = (per_minute - remaining).unsigned_abs();
        let reset_in = match per_minute {
            0 => MINUTE_NANOS,
            per_minute => missing.saturating_mul(MINUTE_NANOS / per_minute.unsigned_abs()),
        };
        RateState {
            limit: per_minute.unsigned_abs(),
            remaining: remaining.unsigned_abs(),
            reset_in: Duration::from_nanos(reset_in),
        }
    }
}

impl Claim {
    const fn is_pool(&self) -> bool {
        matches!(self.kind, AccountKind::Pool { .. })
    }

    /// Why `slice` gives nothing.
    fn refusal(&self, slice: &Slice, now: u64) -> Refusal {
        let scope = self.account.scope;
        match self.rule {
            Rule::Budget { amount } => {
                Refusal::Budget { scope, amount, renewed_at: self.renewal() }
            }
            Rule::Limit { kind, max } => {
                let since = now.saturating_sub(slice.standing_at);
                let retry_in = match kind {
                    LimitKind::ConcurrentRequests => CONCURRENCY_RETRY,
                    LimitKind::TokensPerDay => Duration::ZERO, // told by `renewed_at`
                    _ if max == 0 => Duration::from_nanos(MINUTE_NANOS),
                    _ => {
                        Duration::from_nanos(slice.standing.wait_nanos.saturating_sub(since).max(1))
                    }
                };
                Refusal::Limit { scope, limit: kind, max, retry_in, renewed_at: self.renewal() }
            }
        }
    }

    /// The same where nothing more is known than that it gives nothing.
    pub(crate) fn refused(&self) -> Refusal {
        self.refusal(&Slice::new(self, 0), 0)
    }

    fn larger(&self, least: i64) -> Refusal {
        let Rule::Limit { kind, max } = self.rule else {
            unreachable!("only limits are rates");
        };
        let asked = least.unsigned_abs();
        Refusal::LargerThanLimit { scope: self.account.scope, limit: kind, asked, max }
    }

    /// When the window ends, if it does.
    fn renewal(&self) -> Option<Timestamp> {
        (self.bounds.end < Timestamp::from_millis(u64::MAX)).then_some(self.bounds.end)
    }
}

/// Whether no minute can hold so much.
fn larger_than_rate(claim: &Claim, least: i64) -> bool {
    matches!(claim.kind, AccountKind::Rate { per_minute } if per_minute > 0 && least > per_minute)
}

/// How long the bank keeps what a silent gateway has taken: until it has long stopped admitting, and
/// everything it admitted has ended.
fn time_to_live(settings: SliceSettings) -> Duration {
    settings.request_timeout * 2 + MARGIN
}

/// How long after the bank's last word a gateway admits on what it has taken.
fn fence(settings: SliceSettings) -> Duration {
    settings.request_timeout + MARGIN / 2
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const MINUTE_NANOS: u64 = 60_000_000_000;
const DEMAND_NANOS: u64 = 1_000_000_000;
/// A quiet account is spoken of once in so long; one of which little is left, more often.
const STATEMENT_NANOS: u64 = 1_000_000_000;
const SOON_NANOS: u64 = 200_000_000;
/// How long a refusal is repeated without asking the bank again.
const REFUSAL_NANOS: u64 = 100_000_000;
const MARGIN: Duration = Duration::from_mins(2);
const AHEAD_SECONDS: i64 = 2;
/// Before anything is known of demand.
const FIRST_REQUESTS: i64 = 4;
const MAX_PLACES_AHEAD: i64 = 64;
const MAX_WISHES: usize = 256;
const SHARE_OF_REST: i64 = 8;
/// A place frees up when a request ends, which nobody can know; a second is a polite guess.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
