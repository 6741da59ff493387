//! Who is next when there is not enough for everybody: urgent before patient, tenants in proportion to
//! their weights, and nobody for ever.
//!
//! Each tenant has a clock: the time of the machine it had, over its weight. Whoever had least is next (a
//! virtual token counter, charged in measured nanoseconds instead of tokens). Rounds of fixed size would need to
//! know what a request costs before it runs; here that is only guessed, for the prompt, so that
//! sequences admitted at once are not all one tenant's, and the guess is put right by what was measured.
//! A tenant that begins to wait starts at most a little behind the one that waits and had least: being away saves
//! nothing up but the right to be served first for a moment.
//!
//! Beside the places that anybody may take there are a few for tenants with less than their share of them, and a tenant that
//! takes more than its share of blocks leaves a few of those to others, if others were here lately: a newcomer need
//! not wait until some sequence ends.
//!
//! Promise: of tenants that wait all the time and are charged when they are served, none gets ahead of another by
//! more than the largest single charge (what runs already is charged as it goes on, and adds to that). Memory is
//! bounded: who is away and would start anew anyway is forgotten.
//!
//! Pure: time is handed in. Knows nothing of queues or models.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use domain::{GpuTime, Priority, ProjectId, Share};

/// Where a sequence stands among others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) share: Share,
    /// When it was last served, or came.
    served: Instant,
    /// Sequences that came before it.
    pub(crate) number: u64,
    /// The last step that had a turn of it.
    pub(crate) turned: u64,
    /// What it is expected to take for its prompt yet.
    expected: GpuTime,
}

impl Place {
    pub(crate) const fn new(share: Share, came: Instant) -> Self {
        Self { share, served: came, number: 0, turned: 0, expected: GpuTime::ZERO }
    }

    /// Notes that it has a turn in this step.
    pub(crate) const fn take_turn(&mut self, step: u64, now: Instant) {
        (self.turned, self.served) = (step, now);
    }

    /// How urgent it is by now, 0 the most, if it was not served for so long: that makes up for a priority.
    fn class(&self, waited: Duration) -> u32 {
        let steps = waited.as_secs() / AGING.as_secs();
        (self.share.priority as u32).saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX))
    }
}

/// The order in which sequences are served: the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    class: u32,
    /// Its tenant's clock.
    had: u128,
    /// Places of its tenant, over its weight.
    held: u64,
    /// The last step that had a turn of it, if it is to take turns.
    turned: u64,
    number: u64,
}

impl Rank {
    /// Its rank among those that take turns.
    pub(crate) const fn taking_turns(self, place: &Place) -> Self {
        Self { turned: place.turned, ..self }
    }

    /// Whether it is as urgent as `other`, whose tenant had far more.
    pub(crate) const fn is_far_before(&self, other: &Self) -> bool {
        self.class <= other.class && other.is_far_ahead(self.had)
    }

    /// Whether its tenant had far more than one with this clock.
    pub(crate) const fn is_far_ahead(&self, clock: u128) -> bool {
        self.had >= clock + FAR
    }
}

/// Places for sequences, and blocks for their keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) places: u32,
    pub(crate) blocks: u32,
}

/// What the tenants of an engine had.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    tenants: HashMap<ProjectId, Standing>,
    /// Where a tenant starts when nobody is here to compare it with.
    floor: u128,
}

#[derive(Debug)]
struct Standing {
    /// Its clock.
    had: u128,
    /// What sequences it has here are expected to take for their prompts yet.
    expected: GpuTime,
    weight: u32,
    waiting: u32,
    held: Room,
    /// When it last had something here.
    seen: Instant,
    /// When one of its sequences was last admitted, of each class.
    admitted: [Option<Instant>; Priority::ALL.len()],
}

impl Standing {
    const fn is_here(&self) -> bool {
        self.waiting > 0 || self.held.places > 0
    }

    fn was_here_lately(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < LATELY
    }
}

impl Standings {
    /// Sees what is here: the shares of waiting sequences, and those of running ones with their blocks.
    pub(crate) fn look(
        &mut self,
        waiting: impl Iterator<Item = Share>,
        running: impl Iterator<Item = (Share, u32)>,
        now: Instant,
    ) {
        let before = |standing: &Standing| standing.waiting > 0;
        let waited: Vec<ProjectId> =
            self.tenants.iter().filter(|(_, it)| before(it)).map(|(id, _)| *id).collect();
        for standing in self.tenants.values_mut() {
            (standing.waiting, standing.held) = (0, Room::default());
        }
        for (share, blocks) in running {
            let standing = self.standing(share, now);
            standing.held.places += 1;
            standing.held.blocks += blocks;
        }
        for share in waiting {
            self.standing(share, now).waiting += 1;
        }
        self.start(&waited);
        self.forget(now);
    }

    /// Notes that a waiting sequence was admitted, whose prompt is `expected` to take so long.
    pub(crate) fn admit(
        &mut self,
        place: &mut Place,
        blocks: u32,
        expected: GpuTime,
        now: Instant,
    ) {
        place.expected = expected;
        let standing = self.standing(place.share, now);
        standing.waiting = standing.waiting.saturating_sub(1);
        standing.admitted[place.share.priority as usize] = Some(now);
        standing.held.places += 1;
        standing.held.blocks += blocks;
        standing.expected += expected;
    }

    /// Charges what a sequence had, a part of what was expected as long as that lasts.
    pub(crate) fn charge(&mut self, place: &mut Place, time: GpuTime) {
        let known = place.expected.min(time);
        place.expected = place.expected - known;
        if let Some(standing) = self.tenants.get_mut(&place.share.tenant) {
            standing.expected = standing.expected - known;
            standing.had += virtual_time(time, place.share.weight);
        }
    }

    /// Expects no more of a sequence: its prompt is done, or it ended.
    pub(crate) fn expect_no_more(&mut self, place: &mut Place) {
        let unused = std::mem::take(&mut place.expected);
        if let Some(standing) = self.tenants.get_mut(&place.share.tenant) {
            standing.expected = standing.expected - unused;
        }
    }

    /// Where a waiting sequence stands. What its tenant's running ones are expected to take counts already. It waits for
    /// its class only as long as none of its tenant's is served: a queue that moves is not one that is passed over.
    pub(crate) fn rank_waiting(&self, place: &Place, now: Instant) -> Rank {
        let standing = self.tenants.get(&place.share.tenant);
        let expected = standing.map_or(GpuTime::ZERO, |standing| standing.expected);
        let admitted = standing.and_then(|it| it.admitted[place.share.priority as usize]);
        let served = admitted.map_or(place.served, |admitted| admitted.max(place.served));
        let rank = self.rank_running(&Place { served, ..*place }, now);
        Rank { had: rank.had + virtual_time(expected, place.share.weight), ..rank }
    }

    /// Where a running sequence stands.
    pub(crate) fn rank_running(&self, place: &Place, now: Instant) -> Rank {
        let standing = self.tenants.get(&place.share.tenant);
        let held = standing.map_or(0, |standing| u64::from(standing.held.places));
        Rank {
            class: place.class(now.saturating_duration_since(place.served)),
            had: standing.map_or(self.floor, |standing| standing.had),
            held: (held << 20) / u64::from(place.share.weight.max(1)),
            turned: 0,
            number: place.number,
        }
    }

    /// The clock of the tenant that had least of those that were here lately.
    pub(crate) fn least_lately(&self, now: Instant) -> Option<u128> {
        let lately = self.tenants.values().filter(|it| it.was_here_lately(now));
        lately.map(|it| it.had).min()
    }

    /// Whether a tenant may have one more place and `blocks` more, where so much is `free` of `all` and of the
    /// [`extra_places`] beside. One that holds nothing may have whatever there is; one that is alone has no extra.
    pub(crate) fn allows(&self, share: Share, blocks: u32, free: Room, all: Room) -> bool {
        let few_places = free.places <= extra_places(all.places);
        if self.tenants.len() < 2 {
            return !few_places;
        }
        let held = self.tenants.get(&share.tenant).map_or(Room::default(), |own| own.held);
        if held.places == 0 {
            return true;
        }
        let weights: u64 = self.tenants.values().map(|it| u64::from(it.weight.max(1))).sum();
        let part = |all: u32| u64::from(all) * u64::from(share.weight.max(1)) / weights;
        let few_blocks = free.blocks.saturating_sub(blocks) < all.blocks / KEPT_BLOCKS;
        let within_places = u64::from(held.places) < part(all.places);
        let within_blocks = u64::from(held.blocks + blocks) <= part(all.blocks);
        (within_places || !few_places) && (within_blocks || !few_blocks)
    }

    fn standing(&mut self, share: Share, now: Instant) -> &mut Standing {
        let floor = self.floor.saturating_sub(LEEWAY);
        let standing = self.tenants.entry(share.tenant).or_insert_with(|| Standing {
            had: floor,
            expected: GpuTime::ZERO,
            weight: share.weight,
            waiting: 0,
            held: Room::default(),
            seen: now,
            admitted: [None; Priority::ALL.len()],
        });
        (standing.weight, standing.seen) = (share.weight, now);
        standing
    }

    /// Lifts the clocks of tenants that wait and are not among those that `waited` before.
    fn start(&mut self, waited: &[ProjectId]) {
        let still = |id: &&ProjectId| self.tenants.get(*id).is_some_and(|it| it.waiting > 0);
        let least_waiting = waited.iter().filter(still).map(|id| self.tenants[id].had).min();
        let new = |(id, it): &(&ProjectId, &Standing)| it.waiting > 0 && !waited.contains(id);
        let new: Vec<ProjectId> = self.tenants.iter().filter(new).map(|(id, _)| *id).collect();
        for id in new {
            let others =
                self.tenants.iter().filter(|(other, it)| **other != id && it.held.places > 0);
            let start = least_waiting.or_else(|| others.map(|(_, it)| it.had).min());
            let start = start.unwrap_or(self.floor).saturating_sub(LEEWAY);
            if let Some(standing) = self.tenants.get_mut(&id) {
                standing.had = standing.had.max(start);
            }
        }
    }

    /// Forgets who is away for long, or would not start where it left off.
    fn forget(&mut self, now: Instant) {
        let here = self.tenants.values().filter(|it| it.is_here());
        let least = here.map(|it| it.had).min();
        // Where nobody is, nobody is behind.
        let most = || self.tenants.values().map(|it| it.had).max();
        self.floor = self.floor.max(least.or_else(most).unwrap_or(0));
        let crowded = self.tenants.len() > MAX_ABSENT;
        let floor = self.floor;
        self.tenants.retain(|_, it| {
            it.is_here() || (!crowded && (it.was_here_lately(now) || it.had > floor))
        });
    }
}

/// Time over a weight, fine enough that the largest weights count.
fn virtual_time(time: GpuTime, weight: u32) -> u128 {
    u128::from(time.nanos()) * SCALE / u128::from(weight.max(1))
}

/// Beside so many places, those that are only for tenants with less than their share of them, while others hold the rest.
/// Kept free among the others they would be places that nobody earns with; a few beside them cost nothing. A small engine
/// has as many as it says.
pub(crate) const fn extra_places(places: u32) -> u32 {
    if places < FEW_PLACES { 0 } else { places.div_ceil(EXTRA_PLACES) }
}

/// How many of `all` places in a queue are a tenant's share, beside tenants with these weights; at least one.
pub(crate) fn queue_share(all: usize, own: u32, weights: u64) -> usize {
    let share = all as u64 * u64::from(own.max(1)) / weights.max(1);
    usize::try_from(share).unwrap_or(usize::MAX).max(1)
}

/// Parts of a nanosecond that a clock can tell.
const SCALE: u128 = 1 << 20;
/// How far a tenant that comes back may be behind: 0.5 s of the machine for a weight of 1. Who takes less than
/// its share is so served first whenever it comes, and not in turns with those that take all they can get.
const LEEWAY: u128 = 500_000_000 * SCALE;
/// Who had so much less is far behind. Tenants that take turns are never so far apart.
const FAR: u128 = LEEWAY / 2;
/// Who is not served for so long is as urgent as those of the next class.
const AGING: Duration = Duration::from_secs(5);
/// Who was here within this time may come back any moment.
const LATELY: Duration = Duration::from_mins(1);
/// One place to so many is extra.
const EXTRA_PLACES: u32 = 8;
const FEW_PLACES: u32 = 16;
/// One block in so many is kept.
const KEPT_BLOCKS: u32 = 16;
/// When more tenants than these are known, those that are away are forgotten at once.
const MAX_ABSENT: usize = 4096;

#[cfg(test)]
mod tests;
