//! Percentiles of what was recorded, sample by sample: no buckets, no interpolation.

use std::time::Duration;

/// Recorded times, in order.
#[derive(Clone, Debug, Default)]
pub struct Percentiles(Vec<Duration>);

impl Percentiles {
    /// The smallest recorded time that `percent` of all times do not exceed (the nearest rank).
    pub fn at(&self, percent: f64) -> Option<Duration> {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied()
    }

    /// How many times were recorded.
    pub const fn count(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Duration> for Percentiles {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(times: impl IntoIterator<Item = u64>) -> Percentiles {
        times.into_iter().map(Duration::from_millis).collect()
    }

    fn at(percentiles: &Percentiles, percent: f64) -> u128 {
        percentiles.at(percent).expect("something was recorded").as_millis()
    }

    #[test]
    fn a_percentile_is_a_time_that_was_recorded() {
        let percentiles = milliseconds((1..=100).rev());

        assert_eq!(at(&percentiles, 50.0), 50);
        assert_eq!(at(&percentiles, 99.0), 99);
        assert_eq!(at(&percentiles, 100.0), 100);
        assert_eq!(at(&percentiles, 0.0), 1);
    }

    #[test]
    fn few_samples_round_up_to_the_next_one() {
        let percentiles = milliseconds([10, 20, 30]);

        assert_eq!(at(&percentiles, 50.0), 20);
        assert_eq!(at(&percentiles, 99.0), 30);
    }

    #[test]
    fn nothing_recorded_has_no_percentiles() {
        assert_eq!(milliseconds([]).at(50.0), None);
    }
}
