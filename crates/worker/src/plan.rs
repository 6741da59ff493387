//! Decides which sequences of a worker that leaves end here, and when the others go.
//!
//! A sequence ends here if what is left of it fits into the time there is, at the pace it was seen to have.
//! The others are handed over one after the other: the most expensive to compute again first, the cheapest
//! last, each with a slot of a multiple of what computing it again takes, so that whoever goes on with them
//! is not buried under all of them at once. The slots lie as late as they can: meanwhile the sequences go
//! on here, and may end by themselves. What has produced nothing yet loses nothing by going, and goes at once.
//!
//! Promises: everybody is out in time, whatever the costs; nobody goes who would end in time. Deciding again
//! later, with those gone who were to go, changes nothing by itself.
//!
//! Invariant: arithmetic on what it is given; no clock, no tasks.

use std::cmp::Reverse;
use std::time::Duration;

/// One sequence, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// Which one.
    pub(crate) key: u64,
    /// Tokens that another worker would have to compute again; 0 before its first token.
    pub(crate) computed: u64,
    /// How long it takes to its end, at most; `None` if nobody can say.
    pub(crate) needs: Option<Duration>,
}

/// The time there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Until the slot of whoever went last is over.
    pub(crate) not_before: Duration,
    /// Until everybody must be out.
    pub(crate) until: Duration,
}

/// A sequence that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    /// Which one.
    pub(crate) key: u64,
    /// When.
    pub(crate) leaves_in: Duration,
    /// How long nobody else goes then.
    pub(crate) slot: Duration,
}

/// Who goes, in order. Everybody else ends here. A token takes `token_again` to compute again.
pub(crate) fn plan(sequences: &[Running], window: Window, token_again: Duration) -> Vec<Departure> {
    let stays = |sequence: &&Running| !ends_within(sequence, window.until);
    let mut leavers: Vec<&Running> = sequences.iter().filter(stays).collect();
    leavers
        .sort_by_key(|sequence| (sequence.computed > 0, Reverse(sequence.computed), sequence.key));
    let begun = leavers.partition_point(|sequence| sequence.computed == 0);
    let (fresh, costly) = leavers.split_at(begun);
    let now = |sequence: &&Running| Departure {
        key: sequence.key,
        leaves_in: Duration::ZERO,
        slot: Duration::ZERO,
    };
    let mut departures: Vec<Departure> = fresh.iter().map(now).collect();

    let costs: Vec<u128> = costly.iter().map(|sequence| cost(sequence, token_again)).collect();
    let total: u128 = costs.iter().sum();
    let not_before = window.not_before.min(window.until);
    let room = window.until.saturating_sub(not_before).as_nanos();
    // Whatever does not fit at leisure is squeezed until it fits.
    let wanted = total.saturating_mul(SPREAD);
    let spread = wanted.min(room);
    let mut after = 0_u128;
    let mut slots = Vec::with_capacity(costly.len());
    for (sequence, cost) in costly.iter().zip(&costs).rev() {
        let until_end = (after + cost) * spread / total;
        let slot = until_end - after * spread / total;
        after += cost;
        let leaves_in = window.until.saturating_sub(nanos(until_end));
        slots.push(Departure { key: sequence.key, leaves_in, slot: nanos(slot) });
    }
    departures.extend(slots.into_iter().rev());
    departures
}

fn ends_within(sequence: &Running, time: Duration) -> bool {
    sequence.needs.is_some_and(|needs| needs <= time)
}

/// What handing it over takes, in nanoseconds of whoever goes on with it; at least 1.
fn cost(sequence: &Running, token_again: Duration) -> u128 {
    HANDING_OVER.as_nanos() + u128::from(sequence.computed) * token_again.as_nanos()
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Whoever goes on with a sequence has others to compute beside it.
const SPREAD: u128 = 2;
/// Finding another worker and beginning there.
const HANDING_OVER: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
