//! Randomness that a seed decides: the same seed is the same load, on every machine.

use std::time::Duration;

/// Random numbers (`SplitMix64`). Good enough for loads, and nothing else.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// Ranks drawn by Zipf's law: the second is half as likely as the first, with exponent 1.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// For every rank, how likely it or a lower one is; the last is 1.
    cumulative: Vec<f64>,
}

impl Random {
    /// The numbers that belong to `seed`.
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Above 0, at most 1.
    pub fn share(&mut self) -> f64 {
        ((self.number() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// At least 0, below `end`, which must be above 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The bias towards low numbers is below 2^-32 for everything that is counted here.
        (self.number() % end as u64) as usize
    }

    /// The time to the next arrival of a Poisson process.
    pub fn pause(&mut self, per_second: f64) -> Duration {
        Duration::from_secs_f64(-self.share().ln() / per_second)
    }
}

impl Zipf {
    /// Over `ranks` ranks, of which there must be one at least.
    pub fn new(ranks: usize, exponent: f64) -> Self {
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-exponent));
        let total: f64 = weights.clone().sum();
        let mut sum = 0.0;
        let cumulative = weights.map(|weight| {
            sum += weight / total;
            sum
        });
        Self { cumulative: cumulative.collect() }
    }

    /// A rank, from 0.
    pub fn draw(&self, random: &mut Random) -> usize {
        let share = random.share();
        let rank = self.cumulative.partition_point(|cumulative| *cumulative < share);
        // Rounding may leave the last sum a little below 1.
        rank.min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_does_not() {
        let numbers = |seed| {
            let mut random = Random::seeded(seed);
            [random.number(), random.number(), random.number()]
        };

        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        assert_eq!(Random::seeded(0).number(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn shares_never_reach_zero() {
        let mut random = Random::seeded(1);
        assert!((0..10_000).map(|_| random.share()).all(|share| share > 0.0 && share <= 1.0));
    }

    #[test]
    fn ranks_follow_zipf() {
        let zipf = Zipf::new(4, 1.0);
        let mut random = Random::seeded(1);
        let mut drawn = [0_u32; 4];

        for _ in 0..25_000 {
            drawn[zipf.draw(&mut random)] += 1;
        }

        // 1 : 1/2 : 1/3 : 1/4 of 25,000.
        for (drawn, expected) in drawn.into_iter().zip([12_000, 6_000, 4_000, 3_000]) {
            assert!(drawn.abs_diff(expected) < 300, "{drawn} and not about {expected}");
        }
    }
}
