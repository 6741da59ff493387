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

mod slice;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use domain::{GatewayId, HoldId, OrganizationId, Timestamp};

use crate::bank::{AccountId, AccountKind, Draw, Drawn};
use crate::claims::{Claim, Measure, Quantity};
use crate::quota::{Ask, Grant, RateState, Rates, Refusal};
use slice::{Slice, larger_than_rate};

/// How a gateway shares quotas with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    purses: BTreeMap<OrganizationId, Purse>,
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
    /// In an order that does not change from run to run: what a message has room for depends on it.
    slices: BTreeMap<AccountId, Slice>,
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
    /// The bank waits for us, even if we have nothing.
    called: bool,
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
        Self { gateway, settings, number, purses: BTreeMap::new(), holds: HashMap::new() }
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
        let terms = (asked, now, self.settings);
        if let Err(step) = purse.look(ask.claims.iter(), &ask.least, &mut amount, terms) {
            return step;
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
        let pools = held.claims.iter().filter(|claim| claim.is_pool());
        if let Err(step) = purse.look(pools, least, &mut amount, (asked, now, self.settings)) {
            return Some(step);
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
                confirmed: *spent,
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
        let mut others: Vec<(&AccountId, &mut Slice)> = others.collect();
        if wishes.len() + others.len() > MAX_WISHES {
            // What was not spoken of for longest goes first, so that every slice is spoken of in its turn.
            others.sort_by_key(|(_, slice)| slice.said_at);
        }
        for (account, slice) in others {
            if wishes.len() >= MAX_WISHES && !complete {
                break;
            }
            wishes.extend(slice.statement(*account, (complete, called_in), now));
        }
        if wishes.is_empty() && !(complete && purse.called) {
            return None;
        }
        purse.called = false;
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
                slice.hear(standing, wish.spent, now);
            }
        }
        *granted
    }

    /// The next message gives back everything that is not held.
    pub fn call_in(&mut self, organization: OrganizationId) {
        if let Some(purse) = self.purses.get_mut(&organization) {
            purse.called_in = true;
        }
    }

    /// The bank lost its memory and waits for us: the next message says everything, be it nothing.
    pub fn called(&mut self, organization: OrganizationId) {
        let purse = self.purses.entry(organization).or_default();
        (purse.known, purse.called) = (false, true);
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
            .any(|slice| slice.is_unsaid() || slice.spare() > 0 || slice.held > 0)
    }

    /// Forgets accounts whose window has ended.
    pub fn forget_before(&mut self, now: Timestamp) {
        for purse in self.purses.values_mut() {
            purse.slices.retain(|_, slice| {
                slice.ends > now || slice.held > 0 || slice.is_unsaid() || slice.spare() != 0
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
    /// Bounds `amount` by what every claim's slice can give now, or says what to do.
    ///
    /// The bank gives of all accounts or of none, so one that has plenty gets nothing when another runs
    /// short: that one is told.
    fn look<'a>(
        &mut self,
        claims: impl Iterator<Item = &'a Claim>,
        least: &Quantity,
        amount: &mut Quantity,
        terms: (Asked, u64, SliceSettings),
    ) -> Result<(), Step> {
        let mut innocent = None;
        for claim in claims {
            match self.look_at(claim, least, amount, terms) {
                Ok(()) => {}
                Err(Step::Refused(refusal)) if self.has_plenty(claim, least) => {
                    innocent.get_or_insert(refusal);
                }
                Err(step) => return Err(step),
            }
        }
        match (innocent, terms.0) {
            (None, _) => Ok(()),
            (Some(refusal), Asked::LastWord) => Err(Step::Refused(refusal)),
            (Some(_), _) => Err(Step::Wait), // what ran short a moment ago does no longer
        }
    }

    /// Whether the bank, when it last spoke, had enough for this claim alone.
    fn has_plenty(&self, claim: &Claim, least: &Quantity) -> bool {
        let slice = self.slices.get(&claim.account);
        slice.is_some_and(|slice| slice.has_plenty(least.of(claim.measure)))
    }

    /// Bounds `amount` by what the claim's slice can give now, or says what to do.
    fn look_at(
        &mut self,
        claim: &Claim,
        least: &Quantity,
        amount: &mut Quantity,
        (asked, now, settings): (Asked, u64, SliceSettings),
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

/// A quiet account is spoken of once in so long; one of which little is left, more often.
const STATEMENT_NANOS: u64 = 1_000_000_000;
const SOON_NANOS: u64 = 200_000_000;
const MARGIN: Duration = Duration::from_mins(2);
const MAX_WISHES: usize = 256;

#[cfg(test)]
mod tests;
