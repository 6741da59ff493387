//! What keeping outputs in their formats takes, lately.

use std::time::Duration;

/// What keeping outputs in their formats takes: over some hundred recent tokens and steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskTimes {
    /// Masks computed since the start.
    pub masks: u64,
    /// Computing a mask beside the steps: the mean.
    pub mean: Duration,
    /// All but one in a hundred masks took at most this long.
    pub p99: Duration,
    /// What masks added to the steps that needed some: the mean.
    pub added_mean: Duration,
    /// All but one in a hundred of those steps became longer by at most this.
    pub added_p99: Duration,
}

/// Recent durations.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    nanos: Vec<u64>,
    next: usize,
    count: u64,
}

impl Recent {
    pub(crate) fn note(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if self.nanos.len() < KEPT {
            self.nanos.push(nanos);
        } else {
            self.nanos[self.next] = nanos;
        }
        self.next = (self.next + 1) % KEPT;
        self.count += 1;
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// The mean, and what all but one in a hundred stay under.
    pub(crate) fn mean_and_p99(&self) -> (Duration, Duration) {
        let mut sorted = self.nanos.clone();
        sorted.sort_unstable();
        let Some(last) = sorted.len().checked_sub(1) else { return Default::default() };
        let mean =
            sorted.iter().map(|&nanos| u128::from(nanos)).sum::<u128>() / sorted.len() as u128;
        let p99 = sorted[last * 99 / 100];
        (Duration::from_nanos(mean as u64), Duration::from_nanos(p99))
    }
}

const KEPT: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_times_are_forgotten() {
        let mut recent = Recent::default();
        for micros in 0..2 * KEPT as u64 {
            recent.note(Duration::from_micros(micros));
        }
        let (mean, p99) = recent.mean_and_p99();
        assert_eq!(recent.count(), 1024);
        assert!(mean > Duration::from_micros(760) && mean < Duration::from_micros(770), "{mean:?}");
        assert!(p99 > Duration::from_micros(1_010), "{p99:?}");
    }
}
