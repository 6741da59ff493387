//! Splits the measured time of a step over the works in it.
//!
//! The rule is the closed form of a fair division of the predicted time: what a work causes alone it pays
//! alone; the fixed part, which any of them would cause, is paid equally; streaming the weights is paid
//! equally too, and only tokens beyond the knee are paid by the token. What guesses add to a step is paid by those who
//! guess, and changes nothing for the others. The measured time is divided in
//! these proportions, in whole nanoseconds by largest remainder.

use std::cmp::Ordering;

use domain::GpuTime;

use super::cost::Costs;
use super::work::{Demand, Work};

/// Shares, and room to compute them in.
#[derive(Default)]
pub(crate) struct Split {
    shares: Vec<GpuTime>,
    portions: Vec<Portion>,
}

/// The part of a step that one work owns.
struct Portion {
    index: usize,
    /// Without guesses.
    demand: Demand,
    /// What guesses add to that.
    drafts: Demand,
    weight: u64,
    /// What the division by the total weight left over.
    remainder: u64,
}

impl Split {
    /// One share of `time` for each of `works`, in order; all of it, if any of them computed anything.
    pub(crate) fn shares(&mut self, costs: &Costs, time: GpuTime, works: &[Work]) -> &[GpuTime] {
        self.shares.clear();
        self.shares.resize(works.len(), GpuTime::ZERO);
        let total = self.weigh(costs, works);
        let Self { shares, portions } = self;
        let mut left = time.nanos();
        for portion in portions.iter_mut() {
            let product = u128::from(time.nanos()) * u128::from(portion.weight);
            let share = (product / u128::from(total)) as u64;
            portion.remainder = (product % u128::from(total)) as u64;
            shares[portion.index] = GpuTime::from_nanos(share);
            left -= share;
        }
        if left > 0 && !portions.is_empty() {
            // Less than a nanosecond each is left, so there are more portions than nanoseconds.
            portions.select_nth_unstable_by(left as usize, Portion::before);
            for portion in &portions[..left as usize] {
                shares[portion.index] += GpuTime::from_nanos(1);
            }
        }
        shares
    }

    /// Weighs the works that computed anything; the sum of their weights.
    fn weigh(&mut self, costs: &Costs, works: &[Work]) -> u64 {
        self.portions.clear();
        for (index, work) in works.iter().enumerate() {
            if work.tokens > 0 {
                let demand = work.without_drafts().demand();
                let drafts = work.demand().less(&demand);
                self.portions.push(Portion { index, demand, drafts, weight: 0, remainder: 0 });
            }
        }
        let whole = Demand::of(works);
        let predicted = costs.predict(&whole);
        let drafts = self.portions.iter().fold(Demand::default(), |sum, it| sum.plus(&it.drafts));
        let plain = whole.less(&drafts);
        // Those below the knee take no time of their own; what the others take is theirs in proportion.
        let added = predicted - costs.predict(&plain);
        let guessed = costs.beyond_fixed(&drafts);
        let pace = if guessed > 0.0 { added / guessed } else { 0.0 };
        let works = self.portions.len();
        let mut total = 0;
        for portion in &mut self.portions {
            let own = costs.share(&plain, &portion.demand, works);
            let part = own + pace * costs.beyond_fixed(&portion.drafts);
            // At least one, so that a step of works that cost nothing is split as well.
            portion.weight = ((part / predicted * WHOLE) as u64).max(1);
            total += portion.weight;
        }
        total
    }
}

impl Portion {
    /// Who is given a nanosecond first: the largest remainder, and among equals who did more.
    fn before(&self, other: &Self) -> Ordering {
        let (mine, others) = (&self.demand, &other.demand);
        (other.remainder.cmp(&self.remainder))
            .then(others.pairs.total_cmp(&mine.pairs))
            .then(others.tokens.total_cmp(&mine.tokens))
            .then(others.rows.total_cmp(&mine.rows))
            .then(self.index.cmp(&other.index))
    }
}

/// The weight of a whole step: fine enough that rounding a weight moves no nanosecond of a minute.
const WHOLE: f64 = (1_u64 << 48) as f64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::work::Phase;
    use super::*;

    fn work() -> impl Strategy<Value = Work> {
        (1..300_u32, 0..5_000_u32, any::<bool>()).prop_map(|(tokens, first, sampled)| Work {
            tokens,
            first,
            sampled,
            phase: Phase::Prefill,
            extra: 0,
            drafted: 0,
        })
    }

    fn works() -> impl Strategy<Value = Vec<Work>> {
        prop::collection::vec(work(), 1..70)
    }

    fn costs() -> impl Strategy<Value = Costs> {
        let cost = || prop_oneof![Just(0.0), 0.0..1e6];
        (cost(), cost(), 1.0..100.0, cost(), cost(), cost()).prop_map(
            |(fixed, token, knee, pair, read, row)| Costs { fixed, token, knee, pair, read, row },
        )
    }

    fn nanos() -> impl Strategy<Value = u64> {
        prop_oneof![0..200_u64, 0..10_000_000_000_u64]
    }

    fn shares(costs: &Costs, nanos: u64, works: &[Work]) -> Vec<u64> {
        let mut split = Split::default();
        let shares = split.shares(costs, GpuTime::from_nanos(nanos), works);
        shares.iter().map(|share| share.nanos()).collect()
    }

    proptest! {
        #[test]
        fn shares_sum_to_the_time(costs in costs(), works in works(), nanos in nanos()) {
            prop_assert_eq!(shares(&costs, nanos, &works).iter().sum::<u64>(), nanos);
        }

        #[test]
        fn equal_work_pays_the_same_to_a_nanosecond(
            costs in costs(), works in works(), nanos in nanos(),
        ) {
            let shares = shares(&costs, nanos, &[works.clone(), works].concat());
            let (left, right) = shares.split_at(shares.len() / 2);
            for (left, right) in left.iter().zip(right) {
                prop_assert!(left.abs_diff(*right) <= 1, "{left} and {right}");
            }
        }

        #[test]
        fn who_does_more_never_pays_less(
            costs in costs(), works in works(), nanos in nanos(), at in any::<prop::sample::Index>(),
            more in 0..200_u32, further in 0..2_000_u32,
        ) {
            let less = *at.get(&works);
            let more = Work { tokens: less.tokens + more, first: less.first + further, ..less };
            for pair in [[less, more], [more, less]] {
                let shares = shares(&costs, nanos, &[works.as_slice(), &pair].concat());
                let (first, second) = (shares[works.len()], shares[works.len() + 1]);
                let in_order = if pair[0].tokens == less.tokens && pair[0].first == less.first {
                    first <= second || (more.tokens, more.first) == (less.tokens, less.first)
                } else {
                    second <= first
                };
                prop_assert!(in_order, "{pair:?} pay {first} and {second}");
            }
        }

        #[test]
        fn guesses_are_paid_by_those_who_guess(
            costs in costs(), works in works(), first in 0..2_000_u32, drafted in 1..16_u32,
        ) {
            let plain = Work { tokens: 1, first, sampled: true, phase: Phase::Decode, extra: 0, drafted: 0 };
            let guessing = Work { tokens: 1 + drafted, drafted, ..plain };
            let step = |own| [works.as_slice(), &[own]].concat();
            let time = |works: &[Work]| 1_000 + costs.predict(&Demand::of(works)) as u64;
            let (without, with) = (step(plain), step(guessing));

            let before = shares(&costs, time(&without), &without);
            let after = shares(&costs, time(&with), &with);

            let allowed = |share: u64| share / 100 + 1_001;
            for (before, after) in before.iter().zip(&after).take(works.len()) {
                prop_assert!(before.abs_diff(*after) <= allowed(*before), "{before} and {after}");
            }
        }

        #[test]
        fn who_does_nothing_pays_nothing_and_changes_nothing(
            costs in costs(), works in works(), nanos in nanos(), at in any::<prop::sample::Index>(),
        ) {
            let idle = Work { tokens: 0, first: 0, sampled: false, phase: Phase::Decode, extra: 0, drafted: 0 };
            let at = at.index(works.len());
            let mut together = works.clone();
            together.insert(at, idle);

            let mut with = shares(&costs, nanos, &together);

            prop_assert_eq!(with.remove(at), 0);
            prop_assert_eq!(with, shares(&costs, nanos, &works));
        }
    }

    #[test]
    fn streaming_the_weights_is_paid_equally_and_tokens_beyond_the_knee_by_the_token() {
        let costs = Costs { fixed: 60.0, token: 30.0, knee: 4.0, pair: 0.0, read: 0.0, row: 0.0 };
        let work = |tokens| Work {
            tokens,
            first: 0,
            sampled: false,
            phase: Phase::Prefill,
            extra: 0,
            drafted: 0,
        };

        // Below the knee: 60 + 4 x 30, whoever has how many tokens.
        assert_eq!(shares(&costs, 180, &[work(1), work(2)]), [90, 90]);
        // Ten tokens: 60 + 4 x 30 equally, 6 x 30 by the token.
        assert_eq!(shares(&costs, 360, &[work(1), work(9)]), [90 + 18, 90 + 162]);
    }

    #[test]
    fn a_guess_that_takes_a_step_past_the_knee_is_dearer_for_who_guesses_alone() {
        let costs = Costs { fixed: 60.0, token: 30.0, knee: 4.0, pair: 0.0, read: 0.0, row: 0.0 };
        let work = |drafted| Work {
            tokens: 1 + drafted,
            first: 0,
            sampled: true,
            phase: Phase::Decode,
            extra: 0,
            drafted,
        };
        assert_eq!(shares(&costs, 180, &[work(0); 4]), [45; 4]);
        let guessing = [work(0), work(0), work(0), work(4)];
        assert_eq!(shares(&costs, 300, &guessing), [45, 45, 45, 45 + 120]);
    }
}
