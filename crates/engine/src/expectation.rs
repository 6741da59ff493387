//! Guesses how much of its output limit a sequence will use, so that more of them fit than if each used all.
//!
//! The guess begins with all of it, follows what sequences do, and rises at once when it turned out too low:
//! when somebody had to give way. Nothing that a client sees but time depends on it.

/// The guess of one engine.
#[derive(Debug)]
pub(crate) struct Expectation {
    /// The part of a limit.
    part: f64,
}

impl Expectation {
    /// Whoever has said nothing yet says all it may.
    pub(crate) const fn careful() -> Self {
        Self { part: 1.0 }
    }

    /// How many of `left` tokens a sequence will still produce.
    pub(crate) fn of(&self, left: u32) -> u32 {
        // Never more than `left`, which fits.
        (self.part * f64::from(left)).ceil() as u32
    }

    /// A sequence ended after `produced` of at most `limit` tokens.
    pub(crate) fn ended(&mut self, produced: u32, limit: u32) {
        let part = f64::from(produced) / f64::from(limit.max(1));
        self.part += (part - self.part) * WEIGHT_OF_ONE;
        self.part = self.part.clamp(LEAST, 1.0);
    }

    /// It was too low.
    pub(crate) fn fell_short(&mut self) {
        self.part += (1.0 - self.part) * WEIGHT_OF_A_MISTAKE;
    }
}

/// Steps until a sequence has a place for which so many wait `before` it, where the running ones have so many steps `left`.
/// Whoever takes a place is taken to need as many steps as the longest of them has left.
pub(crate) fn steps_to_place(left: &mut [u32], before: u32) -> u32 {
    left.sort_unstable();
    let (Some(longest), Ok(places)) = (left.last().copied(), u32::try_from(left.len())) else {
        return 0;
    };
    let (rounds, at) = (before / places, before % places);
    longest.saturating_mul(rounds).saturating_add(left[at as usize])
}

const WEIGHT_OF_ONE: f64 = 1.0 / 16.0;
const WEIGHT_OF_A_MISTAKE: f64 = 1.0 / 4.0;
const LEAST: f64 = 1.0 / 32.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guess_follows_what_sequences_do_and_rises_when_it_was_too_low() {
        let mut expectation = Expectation::careful();
        assert_eq!(expectation.of(100), 100);
        for _ in 0..100 {
            expectation.ended(10, 100);
        }
        assert_eq!(expectation.of(100), 11);

        expectation.fell_short();

        assert!(expectation.of(100) > 30, "{expectation:?}");
        for _ in 0..1_000 {
            expectation.ended(0, 100);
        }
        assert!(expectation.of(100) > 0, "nobody is expected to say nothing");
    }

    #[test]
    fn places_are_free_in_the_order_in_which_sequences_end() {
        let steps = |before| steps_to_place(&mut [30, 10, 20], before);
        assert_eq!([0, 1, 2, 3, 4, 6].map(steps), [10, 20, 30, 40, 50, 70]);
        assert_eq!(steps_to_place(&mut [], 5), 0);
        assert_eq!(steps_to_place(&mut [u32::MAX], 5), u32::MAX);
    }
}
