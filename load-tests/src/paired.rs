//! Two things measured in turns, so that what disturbs the machine disturbs both: the figure is the median
//! of what the pairs say.

use std::fmt;

/// One figure of a thing, and of the same thing without what is measured, taken right after one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Without.
    pub without: f64,
    /// With.
    pub with: f64,
}

/// What is measured last in one pair is measured first in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Without what is measured.
    Without,
    /// With it.
    With,
}

impl Pair {
    /// Notes the figure of one side.
    pub const fn set(&mut self, side: Side, figure: f64) {
        match side {
            Side::Without => self.without = figure,
            Side::With => self.with = figure,
        }
    }

    /// Every figure with, as a part of that without.
    pub fn ratios(pairs: &[Self]) -> Vec<f64> {
        pairs.iter().map(|pair| pair.with / pair.without).collect()
    }

    /// What every figure with is more than that without.
    pub fn differences(pairs: &[Self]) -> Vec<f64> {
        pairs.iter().map(|pair| pair.with - pair.without).collect()
    }
}

impl Side {
    /// The order of the pair `at`.
    pub const fn order(at: usize) -> [Self; 2] {
        if at.is_multiple_of(2) { [Self::Without, Self::With] } else { [Self::With, Self::Without] }
    }
}

/// The middle one, or the mean of the middle two; not a number if there is none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => f64::NAN,
        (Some(upper), 0) => f64::midpoint(sorted[middle - 1], *upper),
        (Some(only), _) => *only,
    }
}

/// What must hold of a figure, and whether it does.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What the figure is.
    pub what: &'static str,
    /// What it is.
    pub figure: f64,
    /// What it must be.
    pub bound: Bound,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
    /// Less than so much.
    Below(f64),
}

impl Judged {
    /// Whether it holds; what was not measured does not.
    pub fn passed(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.figure >= bound,
            Bound::AtMost(bound) => self.figure <= bound,
            Bound::Below(bound) => self.figure < bound,
        }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed() { "pass" } else { "FAIL" };
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => (">=", bound),
            Bound::AtMost(bound) => ("<=", bound),
            Bound::Below(bound) => ("<", bound),
        };
        write!(f, "{word}  {} {sign} {bound}  (it is {:.3})", self.what, self.figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disturbed_pair_does_not_move_the_figure_far() {
        let pair = |without, with| Pair { without, with };
        let pairs = [pair(8.0, 7.0), pair(16.0, 10.0), pair(64.0, 1.0), pair(2.0, 2.0)];

        assert_eq!(median(&Pair::ratios(&pairs)), 0.75);
        assert_eq!(median(&Pair::differences(&pairs)), -3.5);
    }

    #[test]
    fn the_median_of_an_odd_number_is_one_of_them_and_of_none_is_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_order_changes_from_pair_to_pair() {
        use Side::{With, Without};

        let orders: Vec<Side> = (0..3).flat_map(Side::order).collect();

        assert_eq!(orders, [Without, With, With, Without, Without, With]);
    }

    #[test]
    fn bounds_hold_at_their_ends_and_nothing_measured_fails() {
        let passed = |figure, bound| Judged { what: "a figure", figure, bound }.passed();

        assert!(passed(0.9, Bound::AtLeast(0.9)) && passed(100.0, Bound::AtMost(100.0)));
        assert!(!passed(0.05, Bound::Below(0.05)));
        let bounds = [Bound::AtLeast(0.0), Bound::AtMost(0.0), Bound::Below(0.0)];
        assert!(bounds.into_iter().all(|bound| !passed(f64::NAN, bound)));
    }
}
