//! How often workers may be asked in vain: a part of what is asked at all, so that a pool in trouble is not drowned in
//! retries.

use std::sync::atomic::{AtomicI64, Ordering};

/// A budget of retries.
pub(crate) struct Retries {
    /// Retries left, in hundredths.
    hundredths: AtomicI64,
}

impl Default for Retries {
    fn default() -> Self {
        Self { hundredths: AtomicI64::new(MOST) }
    }
}

impl Retries {
    /// A sequence is placed: that pays for a part of a retry.
    pub(crate) fn earn(&self) {
        let _ = self.hundredths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left < MOST).then(|| (left + EARNED).min(MOST))
        });
    }

    /// Whether there may be one more.
    pub(crate) fn spend(&self) -> bool {
        let spent = self.hundredths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left >= 100).then_some(left - 100)
        });
        spent.is_ok()
    }
}

/// A sequence that was placed pays for half a retry.
const EARNED: i64 = 50;
/// The most that is saved up: a pool whose workers all fill up at once is asked through by some.
const MOST: i64 = 100 * 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_part_of_what_is_placed() {
        let retries = Retries::default();
        while retries.spend() {}
        for _ in 0..10 {
            retries.earn();
        }
        let allowed = (0..100).filter(|_| retries.spend()).count();
        assert_eq!(allowed, 5);
    }
}
