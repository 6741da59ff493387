//! Who of those that could run a sequence should.
//!
//! A policy is an item of [`POLICIES`], complete in its own file: it looks at a [`Field`] of candidates and picks one.
//! None of them waits or remembers: the same figures and the same draw give the same choice.
//!
//! All of them prefer workers whose machines are not at risk ([`Field::candidates`]): those at risk have no say in a choice
//! unless nobody else has room, or everybody else would be late and they would not.

mod balanced;
mod cheapest;
mod least_time;
mod prefix;
mod session;
mod two_choices;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use domain::{Capacity, ModelDigest, NanoUsd, Priority};
use proto::Start;
use tokio::time::Instant;

use crate::member::Member;
use crate::prefixes::Matches;

/// A way to choose.
pub struct Policy {
    /// Its name in configuration.
    pub name: &'static str,
    choose: fn(&Field) -> Option<usize>,
}

/// Every policy; the first one is the default.
pub static POLICIES: &[&Policy] = &[
    &balanced::BALANCED,
    &least_time::LEAST_TIME,
    &prefix::PREFIX,
    &two_choices::TWO_CHOICES,
    &session::SESSION,
    &cheapest::CHEAPEST,
];

impl Policy {
    /// The policy of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        POLICIES.iter().find(|policy| policy.name == name).copied()
    }

    pub(crate) fn choose(&self, field: &Field) -> Option<usize> {
        (self.choose)(field)
    }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What is to be run, as far as policies care.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) model: ModelDigest,
    /// Tokens whose keys and values the worker needs: prompt and what was generated.
    pub(crate) tokens: u64,
    pub(crate) priority: Priority,
    /// Who asks, and in which conversation.
    pub(crate) session: u64,
    /// The context it needs.
    pub(crate) room: Room,
    /// By when its first token should be there.
    pub(crate) due_in: Duration,
    /// A number that is different for each choice and the same for the same seed.
    pub(crate) draw: u64,
    /// How far above the mean load affinity may take a worker, in percent.
    pub(crate) max_load_percent: u32,
    pub(crate) slow_start: Duration,
    pub(crate) now: Instant,
}

/// How much context a sequence needs of a worker, in tokens.
///
/// Workers of one model may have caches of different sizes, and so different contexts. A sequence may begin wherever the
/// next token has room, with as much of its output as fits there; it goes on elsewhere if it becomes longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Without this it cannot run at all: what there is of it, and the next token.
    pub(crate) least: u64,
    /// With this it will most likely end where it began.
    pub(crate) ample: u64,
}

impl Room {
    /// What a sequence needs.
    pub(crate) fn of(start: &Start) -> Self {
        let (prompt, generated) = (start.prompt.len() as u64, start.generated.len() as u64);
        let most = u64::from(start.max_output);
        let with = |output: u64| prompt + (generated + output).min(most);
        Self { least: with(1), ample: with(AMPLE_OUTPUT) }
    }
}

/// Those who could run it.
pub(crate) struct Field<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) members: &'a [Arc<Member>],
    /// Members that are not asked (again).
    pub(crate) except: &'a [u32],
    /// Tokens of the prompt that members hold, by slot.
    cached: HashMap<u32, u32>,
    block_tokens: u32,
}

/// What a policy knows of one member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its place in the field.
    pub(crate) at: usize,
    /// Its name as a number.
    pub(crate) key: u64,
    /// Until the first token of this sequence.
    pub(crate) first_token_in: Duration,
    /// What computing its prompt takes.
    pub(crate) prompt_time: Duration,
    /// What its cache saves of that.
    pub(crate) saved: Duration,
    pub(crate) step_time: Duration,
    /// Sequences on it, as if it had its full share: a new one counts them several times.
    pub(crate) load: f64,
    pub(crate) price: NanoUsd,
    pub(crate) capacity: Capacity,
    /// Its machine was said to be likely to go some day.
    pub(crate) at_risk: bool,
    /// Its context is [`Room::ample`].
    pub(crate) ample: bool,
}

impl<'a> Field<'a> {
    pub(crate) fn new(
        asked: &'a Asked,
        members: &'a [Arc<Member>],
        except: &'a [u32],
        (matches, block_tokens): (&Matches, u32),
    ) -> Self {
        let cached = matches.iter().copied().collect();
        Self { asked, members, except, cached, block_tokens }
    }

    /// Tokens that the member at this place would have to compute.
    pub(crate) fn uncached(&self, at: usize) -> u64 {
        let slot = self.members.get(at).map(|member| member.slot());
        let blocks = slot.and_then(|slot| self.cached.get(&slot)).copied().unwrap_or(0);
        let cached = u64::from(blocks) * u64::from(self.block_tokens);
        self.asked.tokens.saturating_sub(cached)
    }

    /// The member at this place, if it may be asked.
    pub(crate) fn candidate(&self, at: usize) -> Option<Candidate> {
        let (asked, member) = (self.asked, self.members.get(at)?);
        if self.except.contains(&member.slot()) || !member.is_listed() {
            return None;
        }
        let share = member.readiness(&asked.model, asked.now, asked.slow_start)?;
        let own = member.in_flight();
        let uncached = self.uncached(at);
        let unseen = member.unseen_tokens();
        member.with_state(|state| {
            if !state.takes_work() {
                return None;
            }
            let info = state.models.iter().find(|info| info.digest == asked.model);
            let context = info.map_or(u64::MAX, |info| u64::from(info.context_length));
            if context < asked.room.least {
                return None;
            }
            let of_model = state.load_of(&asked.model);
            let per_token = |tokens| times(of_model.prompt_token_time, tokens);
            let prompt_time = per_token(uncached);
            // Our own count is exact and immediate, the pushed one includes other gateways: the
            // larger one is nearer to the truth.
            let load = of_model.running.saturating_add(of_model.waiting).max(own);
            Some(Candidate {
                at,
                key: member.key(),
                first_token_in: bounded(of_model.first_token_in) + per_token(unseen) + prompt_time,
                prompt_time,
                saved: per_token(asked.tokens - uncached),
                step_time: bounded(of_model.step_time),
                load: f64::from(load) / share,
                price: state.price_per_hour,
                capacity: state.capacity,
                at_risk: state.at_risk,
                ample: context >= asked.room.ample,
            })
        })?
    }

    /// Those from whom a policy is to choose: everybody who may be asked, but of those at risk only who makes it
    /// in time where nobody else does, or all of them where there is nobody else.
    ///
    /// A recommendation comes to many machines at a time, and most of them stay: a late first token would be a
    /// certain loss for one that may never come.
    ///
    /// Before that, those where it would soon have no room are left out where there are others.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let mut all: Vec<_> = (0..self.members.len()).filter_map(|at| self.candidate(at)).collect();
        if all.iter().any(|candidate| candidate.ample) {
            all.retain(|candidate| candidate.ample);
        }
        let (at_risk, mut rest): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|candidate| candidate.at_risk);
        let in_time = |candidate: &Candidate| candidate.first_token_in <= self.asked.due_in;
        if rest.is_empty() {
            return at_risk;
        }
        if !rest.iter().any(in_time) {
            rest.extend(at_risk.into_iter().filter(in_time));
        }
        rest
    }

    /// Those of `candidates` whom one sequence more does not take too far above the mean.
    pub(crate) fn below_guard(&self, candidates: &mut Vec<Candidate>) {
        let loads: f64 = candidates.iter().map(|candidate| candidate.load).sum();
        let mean = (loads + 1.0) / candidates.len().max(1) as f64;
        // What chance alone does to a worker is no hot spot: where few sequences run, some have twice the mean.
        let chance = CHANCE * mean.sqrt();
        let most = (mean * f64::from(self.asked.max_load_percent) / 100.0 + chance).ceil();
        let least = candidates.iter().map(|candidate| candidate.load).fold(f64::MAX, f64::min);
        candidates.retain(|candidate| candidate.load + 1.0 <= most.max(least + 1.0));
    }

    /// Decides between equals: the same for the same request, different for different ones.
    pub(crate) fn lot(&self, key: u64) -> u64 {
        mix(self.asked.draw ^ key)
    }
}

/// The best of `candidates` by `cost`, the lower the better; among equals the less loaded one, then by lot.
pub(crate) fn best<C: PartialOrd>(
    field: &Field,
    candidates: &[Candidate],
    cost: impl Fn(&Candidate) -> C,
) -> Option<usize> {
    let mut best: Option<(&Candidate, C)> = None;
    for candidate in candidates {
        let cost = cost(candidate);
        let better = best.as_ref().is_none_or(|(chosen, least)| {
            let order = cost.partial_cmp(least).unwrap_or(std::cmp::Ordering::Equal);
            let order = order.then_with(|| candidate.load.total_cmp(&chosen.load));
            order.then_with(|| field.lot(candidate.key).cmp(&field.lot(chosen.key))).is_lt()
        });
        if better {
            best = Some((candidate, cost));
        }
    }
    best.map(|(candidate, _)| candidate.at)
}

/// What a sequence costs where it runs: the wait for its first token, the work that others wait for
/// meanwhile, and that every step takes a little longer for each sequence in it.
pub(crate) fn expected_time(candidate: &Candidate) -> Duration {
    let crowd = candidate.step_time.mul_f64((candidate.load / CROWD).min(1e6));
    candidate.first_token_in + candidate.prompt_time + crowd
}

/// What a worker says of time is believed up to a point.
fn bounded(duration: Duration) -> Duration {
    duration.min(Duration::from_nanos(MOST_NANOS))
}

fn times(duration: Duration, count: u64) -> Duration {
    let nanos = u128::from(count) * duration.as_nanos();
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).min(MOST_NANOS))
}

/// Spreads a number over all numbers (the finalizer of `SplitMix64`).
pub(crate) const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Standard deviations of the load that requests would put on a worker if they were spread by lot.
const CHANCE: f64 = 2.0;
/// Most answers are shorter than this: who has room for it need not hand a sequence on.
const AMPLE_OUTPUT: u64 = 1024;
/// So many sequences beside it cost a sequence one step.
const CROWD: f64 = 4.0;
/// An hour: sums of such times stay far from what a duration can hold.
const MOST_NANOS: u64 = 3_600_000_000_000;

#[cfg(test)]
mod tests;
