//! How often a source is asked again, and how long we wait before.

use std::time::Duration;

/// Attempts that gain nothing, in a row, and the pauses between them.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts in a row that may gain not one byte.
    pub tries: u32,
    /// The pause after the first of them; it doubles.
    pub first: Duration,
    /// The longest pause, whatever a source asks for.
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 6, first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl Patience {
    /// Less, where there is another way out.
    pub(crate) fn short(self) -> Self {
        Self { tries: self.tries.min(2), ..self }
    }

    /// The pause after `tries` attempts; `after` is what the source asked for. Between half of it and all of it is drawn,
    /// so that machines which were cut off together do not come back together.
    pub(crate) fn pause(self, tries: u32, after: Option<Duration>, draw: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << tries.saturating_sub(1).min(16));
        let drawn = doubled.min(self.longest).mul_f64(0.5 + draw / 2.0);
        drawn.max(after.unwrap_or_default().min(self.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let patience = Patience::default();
        let pauses = [1, 2, 3, 9, 99].map(|tries| patience.pause(tries, None, 1.0).as_millis());

        assert_eq!(pauses, [500, 1000, 2000, 30_000, 30_000]);
        assert_eq!(patience.pause(1, None, 0.0).as_millis(), 250);
    }

    #[test]
    fn a_source_is_heeded_within_reason() {
        let patience = Patience::default();
        let asked = |seconds| patience.pause(1, Some(Duration::from_secs(seconds)), 0.0).as_secs();

        assert_eq!([asked(7), asked(86_400)], [7, 30]);
    }
}
