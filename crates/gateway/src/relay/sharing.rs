//! Divides the tokens that are paid for between the sequences of one request.
//!
//! Promise: what sequences may produce together is never more than what is paid for, and everything that is paid
//! for can be produced: what an ended sequence did not use goes to the others.

/// What each sequence may produce and has produced.
#[derive(Debug)]
pub(super) struct Sharing {
    parts: Vec<Part>,
    /// Most tokens of one sequence.
    most: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    allowance: u32,
    produced: u32,
    ended: bool,
}

impl Sharing {
    /// `number` sequences of at most `most` tokens, which may produce nothing yet.
    pub(super) fn new(number: usize, most: u32) -> Self {
        Self { parts: vec![Part::default(); number], most }
    }

    pub(super) fn allowance(&self, at: usize) -> u32 {
        self.parts[at].allowance
    }

    pub(super) fn produced(&mut self, at: usize, tokens: u32) {
        self.parts[at].produced = tokens;
    }

    pub(super) fn ended(&mut self, at: usize) {
        self.parts[at].ended = true;
    }

    /// Whether a sequence goes on that may become longer.
    pub(super) fn wants_more(&self) -> bool {
        self.parts.iter().any(|part| self.is_open(part))
    }

    /// The sequences that go on and may become longer.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        let parts = self.parts.iter().enumerate();
        parts.filter(|(_, part)| self.is_open(part)).map(|(at, _)| at)
    }

    fn is_open(&self, part: &Part) -> bool {
        !part.ended && part.produced < self.most
    }

    /// Divides `paid` tokens, so that those who have least left get first. An allowance never becomes less.
    pub(super) fn divide(&mut self, paid: u32) {
        let given: u32 = self.parts.iter().map(Part::taken).sum();
        let mut left = paid.saturating_sub(given);
        while left > 0 {
            let most = self.most;
            let takes = |part: &Part| !part.ended && part.allowance < most;
            let ahead = |part: &Part| part.allowance - part.produced;
            let Some(least) = self.parts.iter().filter(|part| takes(part)).map(ahead).min() else {
                return;
            };
            let lowest = |part: &Part| takes(part) && ahead(part) == least;
            let count = self.parts.iter().filter(|part| lowest(part)).count() as u32;
            let others = self.parts.iter().filter(|part| takes(part) && !lowest(part)).map(ahead);
            let room =
                self.parts.iter().filter(|part| lowest(part)).map(|part| most - part.allowance);
            // Up to the next one, the end of one of them, or what there is.
            let rise = others.min().map_or(u32::MAX, |next| next - least);
            let rise = rise.min(room.min().unwrap_or(0)).min((left / count).max(1));
            for part in &mut self.parts {
                let is_lowest =
                    !part.ended && part.allowance < most && part.allowance - part.produced == least;
                if is_lowest && left >= rise {
                    part.allowance += rise;
                    left -= rise;
                }
            }
        }
    }
}

impl Part {
    /// What it has of what is paid for.
    const fn taken(&self) -> u32 {
        if self.ended { self.produced } else { self.allowance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_sequence_gets_all_that_is_paid_for() {
        let mut sharing = Sharing::new(1, 100);
        sharing.divide(64);
        assert_eq!(sharing.allowance(0), 64);
        sharing.divide(128);
        assert_eq!(sharing.allowance(0), 100);
    }

    #[test]
    fn what_an_ended_sequence_did_not_use_goes_to_the_others() {
        let mut sharing = Sharing::new(2, 100);
        sharing.divide(20);
        assert_eq!((sharing.allowance(0), sharing.allowance(1)), (10, 10));
        sharing.produced(0, 3);
        sharing.ended(0);
        sharing.divide(20);
        assert_eq!(sharing.allowance(1), 17);
    }

    proptest! {
        #[test]
        fn all_that_is_paid_for_is_used_and_nothing_else(
            number in 1_usize..8,
            most in 1_u32..60,
            budget in 1_u32..300,
            slices in prop::collection::vec(1_u32..40, 1..80),
            ends in prop::collection::vec(0_u32..80, 8),
        ) {
            let mut sharing = Sharing::new(number, most);
            let mut paid = number as u32;
            let ends_at = |at: usize| ends[at].clamp(1, most);
            for slice in slices.iter().cycle() {
                sharing.divide(paid);
                let mut moved = false;
                for at in 0..number {
                    let until = sharing.allowance(at).min(ends_at(at));
                    moved |= sharing.parts[at].produced < until;
                    sharing.produced(at, until);
                    if until == ends_at(at) { sharing.ended(at); }
                }
                let produced: u32 = sharing.parts.iter().map(|part| part.produced).sum();
                prop_assert!(produced <= paid);
                if !sharing.wants_more() { break }
                if !moved && paid >= budget.max(number as u32) {
                    sharing.divide(paid);
                    let given: u32 = sharing.parts.iter().map(Part::taken).sum();
                    if given == produced {
                        prop_assert_eq!(produced, paid, "somebody wants more, so all is used");
                        break;
                    }
                }
                if !moved { paid = (paid + slice).min(budget.max(number as u32)); }
            }
        }
    }
}
