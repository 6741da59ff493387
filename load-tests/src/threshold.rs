//! What a scenario promises: a count, or the ratio of two figures of the same run.
//!
//! A time or a speed by itself says more about the machine than about the product, so a threshold on
//! one is refused when it is read.

use std::fmt;

use anyhow::{Context as _, bail, ensure};

use crate::figures::{Metric, Round};

/// Such as `many.tokens_per_second / one.tokens_per_second >= 3` or `many.failures == 0`.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    text: String,
    left: Operand,
    over: Option<Operand>,
    comparison: Comparison,
    bound: f64,
}

/// What a threshold came to.
#[derive(Clone, Debug)]
pub struct Verdict {
    text: String,
    /// `None` if nothing was recorded.
    value: Option<f64>,
    passed: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Operand {
    /// `phase` or `phase.load`.
    of: String,
    metric: Metric,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    AtMost,
    Equal,
}

impl Threshold {
    /// Reads one.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (left, over, comparison, bound) = match words.as_slice() {
            [left, comparison, bound] => (left, None, comparison, bound),
            [left, "/", over, comparison, bound] => (left, Some(over), comparison, bound),
            _ => bail!("`{text}` must be `figure == number` or `figure / figure >= number`"),
        };
        let threshold = Self {
            text: text.to_owned(),
            left: Operand::parse(left)?,
            over: over.map(|over| Operand::parse(over)).transpose()?,
            comparison: Comparison::parse(comparison)?,
            bound: bound.parse().with_context(|| format!("`{bound}` is not a number"))?,
        };
        ensure!(
            threshold.over.is_some() || threshold.left.metric.is_count(),
            "`{text}` says more about the machine than about the product; divide it by a figure of another phase"
        );
        Ok(threshold)
    }

    /// The phases and loads it looks at.
    pub fn looks_at(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.left).chain(&self.over).map(|operand| operand.of.as_str())
    }

    /// Whether it holds: for the sum of a count over all rounds, or for the median of the ratios,
    /// each of figures from the same round.
    pub fn judge(&self, rounds: &[Round]) -> Verdict {
        let value = match &self.over {
            None => rounds.iter().map(|round| self.left.value(round)).sum(),
            Some(over) => {
                let ratio = |round| Some(self.left.value(round)? / over.value(round)?);
                let ratios: Option<Vec<f64>> = rounds.iter().map(ratio).collect();
                ratios.and_then(median)
            }
        };
        let passed = value.is_some_and(|value| match self.comparison {
            Comparison::AtLeast => value >= self.bound,
            Comparison::AtMost => value <= self.bound,
            Comparison::Equal => value == self.bound,
        });
        Verdict { text: self.text.clone(), value, passed }
    }
}

impl Verdict {
    /// Whether the threshold holds.
    pub const fn passed(&self) -> bool {
        self.passed
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, value, passed } = self;
        let word = if *passed { "pass" } else { "FAIL" };
        match value {
            Some(value) => write!(f, "{word}  {text}  (it is {value:.3})"),
            None => write!(f, "{word}  {text}  (nothing was recorded)"),
        }
    }
}

impl Operand {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let parts = || text.match_indices('.').map(|(dot, _)| (&text[..dot], &text[dot + 1..]));
        // The shortest name first: `phase.failures.kind` is a metric of `phase`.
        let found = parts().find_map(|(of, name)| Some((of, Metric::parse(name)?)));
        let (of, metric) = found.with_context(|| {
            format!("`{text}` must be `phase.metric` or `phase.load.metric`, with a known metric")
        })?;
        Ok(Self { of: of.to_owned(), metric })
    }

    fn value(&self, round: &Round) -> Option<f64> {
        round.get(&self.of)?.metric(&self.metric)
    }
}

impl Comparison {
    fn parse(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            ">=" => Self::AtLeast,
            "<=" => Self::AtMost,
            "==" => Self::Equal,
            _ => bail!("`{text}` must be `>=`, `<=` or `==`"),
        })
    }
}

/// The lower one of two in the middle: luck should not pass a threshold.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::client::Sample;
    use crate::figures::Figures;
    use crate::run::Samples;

    fn round(speeds: &[(&str, u64)], failures: usize) -> Round {
        let mut round = Round::new();
        for (phase, tokens) in speeds {
            let begin = Instant::now();
            let answered =
                Sample { completion_tokens: *tokens, failure: None, ..Sample::unsent(begin, "") };
            let mut samples = vec![Sample::unsent(begin, "overloaded"); failures];
            samples.push(answered);
            let end = begin + Duration::from_secs(1);
            let load = "stories".to_owned();
            Figures::note(&mut round, phase, &[Samples { load, begin, end, samples }]);
        }
        round
    }

    fn judge(text: &str, rounds: &[Round]) -> Verdict {
        Threshold::parse(text).unwrap().judge(rounds)
    }

    #[test]
    fn a_ratio_is_the_median_over_rounds_of_figures_from_the_same_round() {
        let rounds = [2, 9, 4].map(|tokens| round(&[("many", tokens * 100), ("one", 100)], 0));
        let text = "many.tokens_per_second / one.tokens_per_second";

        assert!(judge(&format!("{text} >= 4"), &rounds).passed());
        assert!(!judge(&format!("{text} >= 4.1"), &rounds).passed());
        assert!(!judge(&format!("{text} >= 3"), &rounds[..2]).passed(), "the lower of two counts");
    }

    #[test]
    fn a_count_is_the_sum_over_rounds() {
        let rounds = [round(&[("many", 1)], 1), round(&[("many", 1)], 2)];

        assert!(judge("many.failures == 3", &rounds).passed());
        assert!(judge("many.stories.failures.overloaded <= 3", &rounds).passed());
        assert!(judge("many.failures.unavailable == 0", &rounds).passed());
        assert!(!judge("many.answered >= 3", &rounds).passed());
    }

    #[test]
    fn what_was_not_recorded_does_not_pass() {
        let verdict = judge("many.gap_p50 / one.gap_p50 <= 1", &[round(&[("many", 1)], 0)]);
        assert!(!verdict.passed() && verdict.to_string().contains("nothing was recorded"));
    }

    #[test]
    fn absolute_times_and_speeds_are_refused() {
        for text in ["one.first_token_p50 <= 0.2", "one.tokens_per_second >= 100"] {
            let refusal = Threshold::parse(text).unwrap_err().to_string();
            assert!(refusal.contains("about the machine"), "{refusal}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let wrong = [
            ("one.failures = 0", "`=`"),
            ("one.failures == none", "`none`"),
            ("one.speed == 0", "`one.speed`"),
            ("failures == 0", "`failures`"),
            ("one.failures", "`one.failures`"),
        ];
        for (text, named) in wrong {
            let refusal = format!("{:#}", Threshold::parse(text).unwrap_err());
            assert!(refusal.contains(named), "{refusal}");
        }
    }
}
