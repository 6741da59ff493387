//! Splits the time of one step over the sequences in it.
//!
//! Promise: the shares sum to the time, to the nanosecond, and the split depends on the step's content
//! alone. The weights are a fixed model of the arithmetic; a fitted one can take the place of
//! [`WorkModel`] without anybody else noticing.

use domain::GpuTime;

/// Arithmetic operations that a sequence causes in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkModel {
    /// For a token through the layers.
    pub(crate) token: u64,
    /// For a pair of a token and a position it attends.
    pub(crate) position: u64,
    /// For a row of logits.
    pub(crate) sample: u64,
}

/// What one sequence did in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Tokens computed; at least one.
    pub(crate) tokens: u32,
    /// Position of the first of them.
    pub(crate) first: u32,
    /// Whether a token was sampled.
    pub(crate) sampled: bool,
}

impl WorkModel {
    fn weigh(&self, work: Work) -> u128 {
        let tokens = u128::from(work.tokens);
        // The token at position p attends p + 1 positions.
        let attended = tokens * (u128::from(work.first) + 1) + tokens * (tokens - 1) / 2;
        tokens * u128::from(self.token)
            + attended * u128::from(self.position)
            + u128::from(work.sampled) * u128::from(self.sample)
    }

    /// One share of `time` for each work, by weight and largest remainder.
    pub(crate) fn split(&self, time: GpuTime, works: &[Work]) -> Vec<GpuTime> {
        let weights: Vec<u128> = works.iter().map(|work| self.weigh(*work)).collect();
        let total: u128 = weights.iter().sum();
        if total == 0 {
            return vec![GpuTime::ZERO; works.len()];
        }
        let nanos = u128::from(time.nanos());
        let mut shares: Vec<u64> = weights.iter().map(|w| (nanos * w / total) as u64).collect();
        let left = time.nanos() - shares.iter().sum::<u64>();
        let mut order: Vec<usize> = (0..works.len()).collect();
        order.sort_by_key(|&index| (std::cmp::Reverse(nanos * weights[index] % total), index));
        for &index in order.iter().take(left as usize) {
            shares[index] += 1;
        }
        shares.into_iter().map(GpuTime::from_nanos).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODEL: WorkModel = WorkModel { token: 1_000, position: 7, sample: 130 };

    fn works() -> impl Strategy<Value = Vec<Work>> {
        let work = (1..300_u32, 0..5_000_u32, any::<bool>())
            .prop_map(|(tokens, first, sampled)| Work { tokens, first, sampled });
        prop::collection::vec(work, 1..70)
    }

    proptest! {
        #[test]
        fn shares_sum_to_the_time(works in works(), nanos in 0..10_000_000_000_u64) {
            let shares = MODEL.split(GpuTime::from_nanos(nanos), &works);
            prop_assert_eq!(shares.into_iter().sum::<GpuTime>().nanos(), nanos);
        }

        #[test]
        fn equal_work_pays_the_same_to_a_nanosecond(works in works(), nanos in 0..10_000_000_000_u64) {
            let twice = [works.clone(), works.clone()].concat();
            let shares = MODEL.split(GpuTime::from_nanos(nanos), &twice);
            let (left, right) = shares.split_at(works.len());
            for (left, right) in left.iter().zip(right) {
                prop_assert!(left.nanos().abs_diff(right.nanos()) <= 1);
            }
        }
    }

    #[test]
    fn a_long_context_and_a_long_chunk_cost_more() {
        let decode = |first| Work { tokens: 1, first, sampled: true };
        let chunk = Work { tokens: 64, first: 0, sampled: false };
        let shares =
            MODEL.split(GpuTime::from_nanos(1_000_000), &[decode(10), decode(1_000), chunk]);
        assert!(shares[0] < shares[1] && shares[1] < shares[2], "{shares:?}");
    }
}
