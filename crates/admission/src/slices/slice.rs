//! One account's slice: what was taken of it, what is spent and held, and what is worth having in hand.

use std::time::Duration;

use domain::Timestamp;

use super::{SliceSettings, Step};
use crate::bank::{AccountId, AccountKind, Standing, Wish};
use crate::claims::{Claim, Rule};
use crate::quota::{RateState, Refusal};
use crate::tenancy::LimitKind;

#[derive(Debug)]
pub(super) struct Slice {
    /// The rule as last seen.
    pub(super) claim: Claim,
    pub(super) kind: AccountKind,
    pub(super) ends: Timestamp,
    /// Pools and slots: everything taken in this window. Rates: units in hand; negative is a debt.
    pub(super) taken: i64,
    /// Pools: gone for good.
    pub(super) spent: i64,
    /// In running holds.
    pub(super) held: i64,
    /// Pools and slots: what we have taken, as the bank last said. Rates: units given in this minute
    /// and in the one before it.
    pub(super) told: i64,
    pub(super) given: [i64; 2],
    pub(super) minute: u64,
    /// Pools: what the bank has confirmed to know of `spent`.
    pub(super) confirmed: i64,
    /// When it was last spoken of.
    pub(super) said_at: u64,
    /// The bank's last word, and when it came.
    pub(super) standing: Standing,
    pub(super) standing_at: u64,
    /// Use of the current stretch of time, and of the ones before, per second.
    pub(super) used: i64,
    pub(super) demand: i64,
    pub(super) used_at: u64,
    /// While the bank is silent: when the local share of a rate is used up (GCRA).
    pub(super) arrival: u64,
}

impl Slice {
    pub(super) fn new(claim: &Claim, now: u64) -> Self {
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
            confirmed: 0,
            said_at: 0,
            standing: Standing { taken: 0, left: 0, spare_elsewhere: 0, wait_nanos: 0 },
            standing_at: 0,
            used: 0,
            demand: 0,
            used_at: now,
            arrival: 0,
        }
    }

    /// What can be handed out.
    pub(super) const fn spare(&self) -> i64 {
        match self.kind {
            AccountKind::Rate { .. } => self.taken,
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                self.taken - self.spent - self.held
            }
        }
    }

    /// Whether what we have in spare matters to others.
    pub(super) const fn is_near_end(&self) -> bool {
        self.is_kept_by_bank()
            && self.spare() > 0
            && self.standing.left < self.spare().saturating_mul(SHARE_OF_REST)
    }

    /// Units of a rate are ours once taken; the rest is only kept for us.
    pub(super) const fn is_kept_by_bank(&self) -> bool {
        !matches!(self.kind, AccountKind::Rate { .. })
    }

    /// The most for one hold: near the end of a pool, a part of what is left, so that many share it.
    pub(super) fn share(&self, least: i64) -> i64 {
        match self.kind {
            AccountKind::Pool { .. } => {
                let rest = self.spare().saturating_add(self.standing.left.max(0));
                (rest / SHARE_OF_REST).max(least)
            }
            AccountKind::Slots { .. } | AccountKind::Rate { .. } => i64::MAX,
        }
    }

    pub(super) fn take(&mut self, amount: i64, now: u64) {
        match self.kind {
            AccountKind::Rate { .. } => self.taken -= amount,
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => self.held += amount,
        }
        self.note_use(amount, now);
    }

    pub(super) fn end(&mut self, amount: i64, spent: i64) {
        match self.kind {
            AccountKind::Pool { .. } => {
                self.held -= amount;
                self.spent += spent.min(amount);
            }
            AccountKind::Slots { .. } => self.held -= amount,
            AccountKind::Rate { per_minute } => {
                self.taken = (self.taken + amount - spent).clamp(-per_minute, per_minute);
            }
        }
    }

    pub(super) fn note_use(&mut self, amount: i64, now: u64) {
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
    pub(super) fn ahead(&self, most: i64) -> i64 {
        let demand = self.demand.max(self.used).saturating_mul(AHEAD_SECONDS);
        match self.kind {
            // Every place is somebody's request.
            AccountKind::Slots { .. } => demand.min(MAX_PLACES_AHEAD).max(most),
            _ => demand.max(most.saturating_mul(FIRST_REQUESTS)),
        }
    }

    /// A wish for at least `least` spare.
    pub(super) fn wish(&mut self, account: AccountId, (least, most): (i64, i64), now: u64) -> Wish {
        let ahead = self.ahead(most);
        self.said_at = now;
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

    /// Whether the bank has not confirmed how it stands: a message, or its answer, may be lost.
    pub(super) const fn is_unsaid(&self) -> bool {
        self.is_kept_by_bank() && (self.spent != self.confirmed || self.taken < self.told)
    }

    /// How it stands, if there is news, and what lies idle for giving back; in a `complete` message, also
    /// what is no news: what is left out there is believed only as far as the ledger has it.
    pub(super) fn statement(
        &mut self,
        account: AccountId,
        (complete, called_in): (bool, bool),
        now: u64,
    ) -> Option<Wish> {
        self.note_use(0, now);
        let keep = if called_in { 0 } else { self.ahead(0) };
        let idle = (self.spare() - keep).max(0);
        let in_use = self.held > 0 || self.spare() != 0;
        let matters = in_use || self.is_unsaid() || (complete && self.spent != 0);
        if idle == 0 && !matters {
            return None;
        }
        self.said_at = now;
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
    pub(super) fn has(&mut self, now: u64) -> i64 {
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

    pub(super) fn turn_minute(&mut self, now: u64) {
        let minute = now / MINUTE_NANOS;
        match minute - self.minute {
            0 => return,
            1 => self.given = [0, self.given[0]],
            _ => self.given = [0; 2],
        }
        self.minute = minute;
    }

    /// Takes in the answer to a message that told that `spent` is spent.
    pub(super) fn hear(&mut self, standing: &Standing, spent: i64, now: u64) {
        match self.kind {
            AccountKind::Rate { .. } => {
                let given = standing.taken.max(0);
                self.turn_minute(now);
                self.taken += given;
                self.given[0] += given;
            }
            AccountKind::Pool { .. } | AccountKind::Slots { .. } => {
                (self.told, self.confirmed) = (standing.taken, spent);
                // Never less than is in use: what is spent is spent, whatever the bank says.
                self.taken = standing.taken.max(self.spent + self.held);
            }
        }
        (self.standing, self.standing_at) = (*standing, now);
    }

    /// Whether the bank said a moment ago that there is too little, so that asking it again is idle.
    pub(super) fn was_just_refused(&self, least: i64, now: u64) -> bool {
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

    /// Whether the bank, when it last spoke, had what is missing.
    pub(super) fn has_plenty(&self, least: i64) -> bool {
        self.standing_at > 0 && self.standing.left >= (least - self.spare()).max(1)
    }

    /// Whether what others hold in spare would be enough, and is needed.
    pub(super) fn may_be_called_in(&self, least: i64) -> bool {
        let missing = least - self.spare();
        let Standing { left, spare_elsewhere, .. } = self.standing;
        let helps = spare_elsewhere > 0 && left.saturating_add(spare_elsewhere) >= missing;
        self.is_kept_by_bank() && helps && !self.has_plenty(least)
    }

    /// What a gateway does on its own: budgets fail closed, rates and places go on at its share.
    pub(super) fn alone(
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

    pub(super) fn rate_state(&self, per_minute: i64, now: u64) -> RateState {
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
    pub(super) const fn is_pool(&self) -> bool {
        matches!(self.kind, AccountKind::Pool { .. })
    }

    /// Why `slice` gives nothing.
    pub(super) fn refusal(&self, slice: &Slice, now: u64) -> Refusal {
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

    pub(super) fn larger(&self, least: i64) -> Refusal {
        let Rule::Limit { kind, max } = self.rule else {
            unreachable!("only limits are rates");
        };
        let asked = least.unsigned_abs();
        Refusal::LargerThanLimit { scope: self.account.scope, limit: kind, asked, max }
    }

    /// When the window ends, if it does.
    pub(super) fn renewal(&self) -> Option<Timestamp> {
        (self.bounds.end < Timestamp::from_millis(u64::MAX)).then_some(self.bounds.end)
    }
}

/// Whether no minute can hold so much.
pub(super) fn larger_than_rate(claim: &Claim, least: i64) -> bool {
    matches!(claim.kind, AccountKind::Rate { per_minute } if per_minute > 0 && least > per_minute)
}

pub(super) const MINUTE_NANOS: u64 = 60_000_000_000;
const DEMAND_NANOS: u64 = 1_000_000_000;
/// How long a refusal is repeated without asking the bank again.
const REFUSAL_NANOS: u64 = 100_000_000;
const AHEAD_SECONDS: i64 = 2;
/// Before anything is known of demand.
const FIRST_REQUESTS: i64 = 4;
const MAX_PLACES_AHEAD: i64 = 64;
const SHARE_OF_REST: i64 = 8;
/// A place frees up when a request ends, which nobody can know; a second is a polite guess.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);
