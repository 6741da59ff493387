//! What a soak sees of memory, and whether it stays where it is.

use std::time::Duration;

use anyhow::Context as _;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Since the start.
    pub(super) at: Duration,
    /// Resident memory of this process.
    pub(super) kibibytes: u64,
    pub(super) free_blocks: u32,
    pub(super) running: u32,
    pub(super) waiting: u32,
}

/// Where memory is going.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trend {
    /// The mean of the last third, as a part of that of the second third, less one.
    pub(super) growth: f64,
    /// The slope of the line that fits both thirds best, in KiB per minute.
    pub(super) slope: f64,
}

/// The resident memory of this process, as Linux tells.
pub(super) fn resident_kibibytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    figure.context("/proc/self/status tells no resident memory")
}

impl Trend {
    /// Of the second and the last third; the first is the time in which caches fill. None of so few samples that a third
    /// is empty.
    pub(super) fn of(samples: &[Sample]) -> Option<Self> {
        let third = samples.len() / 3;
        let (second, last) = (samples.get(third..2 * third)?, samples.get(2 * third..)?);
        if second.is_empty() {
            return None;
        }
        let growth = mean(kibibytes(last)) / mean(kibibytes(second)) - 1.0;
        Some(Self { growth, slope: slope(&samples[third..]) })
    }
}

fn kibibytes(samples: &[Sample]) -> impl Iterator<Item = f64> + Clone {
    samples.iter().map(|sample| sample.kibibytes as f64)
}

fn slope(samples: &[Sample]) -> f64 {
    let minutes = samples.iter().map(|sample| sample.at.as_secs_f64() / 60.0);
    let (middle, level) = (mean(minutes.clone()), mean(kibibytes(samples)));
    let pairs = minutes.zip(kibibytes(samples));
    let (mut together, mut alone) = (0.0, 0.0);
    for (minute, kibibytes) in pairs {
        together += (minute - middle) * (kibibytes - level);
        alone += (minute - middle) * (minute - middle);
    }
    together / alone
}

fn mean(figures: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = figures.clone().count();
    figures.sum::<f64>() / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(kibibytes: impl IntoIterator<Item = u64>) -> Vec<Sample> {
        let sample = |(second, kibibytes)| Sample {
            at: Duration::from_secs(second),
            kibibytes,
            free_blocks: 0,
            running: 0,
            waiting: 0,
        };
        (0..).zip(kibibytes).map(sample).collect()
    }

    #[test]
    fn what_fills_in_the_first_third_is_no_growth() {
        let filling = samples([1, 50, 100, 100, 100, 100, 100, 100, 100]);

        assert_eq!(Trend::of(&filling), Some(Trend { growth: 0.0, slope: 0.0 }));
    }

    #[test]
    fn what_grows_by_a_kibibyte_a_second_grows_by_sixty_a_minute() {
        let trend = Trend::of(&samples(100..190)).unwrap();

        assert!((trend.slope - 60.0).abs() < 1e-9, "{trend:?}");
        assert!((trend.growth - 30.0 / 144.5).abs() < 1e-9, "{trend:?}");
    }

    #[test]
    fn two_samples_are_no_trend() {
        assert_eq!(Trend::of(&samples([1, 2])), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_kibibytes().unwrap() > 100);
    }
}
