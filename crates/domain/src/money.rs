//! Money, in whole nano-dollars, and the prices that turn usage into it.
//!
//! A nano-dollar is 10⁻⁹ US dollars: 1 GPU-hour at 1.00 dollar is 277 778 nano-dollars per second,
//! and an `i64` holds nine billion dollars. Floating point never touches an amount.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use serde::{Deserialize, Serialize};

use crate::{GpuTime, Usage};

/// An amount of money in nano-dollars (10⁻⁹ US dollars).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NanoUsd(i64);

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount there is.
    pub const MAX: Self = Self(i64::MAX);

    /// An amount of `nanos` nano-dollars.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// An amount of whole dollars.
    pub const fn from_dollars(dollars: i64) -> Self {
        Self(dollars.saturating_mul(NANOS_PER_DOLLAR))
    }

    /// The amount in nano-dollars.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The sum, or the largest amount if it does not fit.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or the smallest amount if it does not fit.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Reads a decimal amount of dollars such as `12`, `0.25` or `0.000000001`.
    ///
    /// More than nine decimals, signs, exponents and overflow are refused (`None`): an amount is
    /// never silently rounded.
    pub fn parse_dollars(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
            return None;
        }
        let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
        whole.parse::<i64>().ok()?.checked_mul(NANOS_PER_DOLLAR)?.checked_add(nanos).map(Self)
    }

    /// In dollars with as many decimals as it takes, and two at least: `12.50`.
    pub fn dollars(self) -> String {
        let text = self.to_string();
        let (whole, decimals) = text.split_once('.').unwrap_or((&text, ""));
        let used = decimals.trim_end_matches('0');
        format!("{whole}.{used:0<2}")
    }

    /// Rounds an exact rational number of nano-dollars up, so that a charge is never below its price.
    fn from_ratio_rounded_up(numerator: i128, denominator: i128) -> Self {
        let quotient = (numerator + denominator - 1).div_euclid(denominator);
        Self(i64::try_from(quotient).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for NanoUsd {
    /// Dollars with all nine decimals, so that printing loses nothing: `0.000001500`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let per_dollar = NANOS_PER_DOLLAR.unsigned_abs();
        write!(f, "{sign}{}.{:09}", nanos / per_dollar, nanos % per_dollar)
    }
}

impl Add for NanoUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for NanoUsd {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for NanoUsd {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl AddAssign for NanoUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for NanoUsd {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// A price for a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PricePerMillion(NanoUsd);

impl PricePerMillion {
    /// `amount` for a million tokens. Negative prices are refused.
    pub fn new(amount: NanoUsd) -> Option<Self> {
        (amount >= NanoUsd::ZERO).then_some(Self(amount))
    }

    /// What a million tokens cost.
    pub const fn amount(self) -> NanoUsd {
        self.0
    }

    /// What `tokens` cost, in millionths of a nano-dollar, so that nothing is rounded yet.
    fn times(self, tokens: u64) -> i128 {
        i128::from(self.0.nanos()) * i128::from(tokens)
    }
}

/// What a tenant pays for a model.
///
/// There is no free model by omission: without a price list the price is GPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Price {
    /// A token price list; cached input tokens have their own price.
    Tokens {
        /// Per million prompt tokens that were computed.
        input: PricePerMillion,
        /// Per million prompt tokens that a cache supplied.
        cached_input: PricePerMillion,
        /// Per million tokens delivered.
        output: PricePerMillion,
    },
    /// GPU time at the worker's own price, times `markup_percent` / 100.
    GpuTime {
        /// What an hour of the worker costs.
        per_hour: NanoUsd,
        /// 100 charges what it cost.
        markup_percent: u32,
    },
}

impl Price {
    /// The price of `usage`, rounded up to a whole nano-dollar once, at the end.
    pub fn charge(&self, usage: &Usage) -> NanoUsd {
        match *self {
            Self::Tokens { input, cached_input, output } => {
                let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
                let millionths = input.times(u64::from(computed))
                    + cached_input.times(u64::from(usage.cached_tokens))
                    + output.times(u64::from(usage.completion_tokens));
                NanoUsd::from_ratio_rounded_up(millionths, TOKENS_PER_PRICE)
            }
            Self::GpuTime { per_hour, markup_percent } => NanoUsd::from_ratio_rounded_up(
                i128::from(per_hour.nanos())
                    * i128::from(usage.gpu.nanos())
                    * i128::from(markup_percent),
                NANOS_PER_HOUR * 100,
            ),
        }
    }
}

impl GpuTime {
    /// What this time costs on a worker that costs `per_hour`, rounded up to a nano-dollar.
    pub fn cost(self, per_hour: NanoUsd) -> NanoUsd {
        NanoUsd::from_ratio_rounded_up(
            i128::from(per_hour.nanos()) * i128::from(self.nanos()),
            NANOS_PER_HOUR,
        )
    }
}

const NANOS_PER_DOLLAR: i64 = 1_000_000_000;
const NANOS_PER_HOUR: i128 = 3_600_000_000_000;
const TOKENS_PER_PRICE: i128 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn per_million(text: &str) -> PricePerMillion {
        PricePerMillion::new(NanoUsd::parse_dollars(text).unwrap()).unwrap()
    }

    #[test]
    fn dollars_read_back_what_they_print() {
        for nanos in [0, 1, 999_999_999, 1_000_000_000, 12_345_678_901] {
            let amount = NanoUsd::from_nanos(nanos);
            assert_eq!(NanoUsd::parse_dollars(&amount.to_string()), Some(amount));
            assert_eq!(NanoUsd::parse_dollars(&amount.dollars()), Some(amount));
        }
        assert_eq!(NanoUsd::from_dollars(10).dollars(), "10.00");
        assert_eq!(NanoUsd::from_nanos(1_500).dollars(), "0.0000015");
    }

    #[test]
    fn amounts_that_would_be_rounded_or_negative_are_refused() {
        for text in ["", ".", "-1", "1e3", "0.0000000001", "99999999999999", " 1", "1,0"] {
            assert_eq!(NanoUsd::parse_dollars(text), None, "{text}");
        }
    }

    #[test]
    fn a_charge_is_rounded_up_once() {
        let price = Price::Tokens {
            input: per_million("0.10"),
            cached_input: per_million("0.05"),
            output: per_million("0.40"),
        };
        let usage =
            Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 7, ..Usage::default() };
        // 6 x 100 + 4 x 50 + 7 x 400 = 3 600 nano-dollars
        assert_eq!(price.charge(&usage), NanoUsd::from_nanos(3_600));

        let tiny = Price::Tokens {
            input: per_million("0.000000001"),
            cached_input: per_million("0"),
            output: per_million("0"),
        };
        assert_eq!(tiny.charge(&usage), NanoUsd::from_nanos(1));
        assert_eq!(tiny.charge(&Usage::default()), NanoUsd::ZERO);
    }

    #[test]
    fn gpu_time_is_charged_at_the_workers_price_and_markup() {
        let usage = Usage { gpu: GpuTime::from_nanos(3_600_000_000_000), ..Usage::default() };
        let price = Price::GpuTime { per_hour: NanoUsd::from_dollars(2), markup_percent: 150 };
        assert_eq!(price.charge(&usage), NanoUsd::from_dollars(3));
        assert_eq!(usage.gpu.cost(NanoUsd::from_dollars(2)), NanoUsd::from_dollars(2));
    }
}
