//! Amounts in dollars as programs write them.
//!
//! Promise: an amount with an exponent is the same amount without one, to the last digit; what has more decimals than
//! there are is no amount, and never rounded.

use domain::NanoUsd;

/// The amount that `text` says, if it is one.
pub(super) fn amount(text: &str) -> Option<NanoUsd> {
    match text.split_once(['e', 'E']) {
        None => NanoUsd::parse_dollars(text),
        Some((mantissa, exponent)) => {
            NanoUsd::parse_dollars(&written_out(mantissa, exponent.parse().ok()?)?)
        }
    }
}

/// `mantissa` with its point `exponent` digits further to the right, and no zeros that say nothing.
fn written_out(mantissa: &str, exponent: i32) -> Option<String> {
    if exponent.abs() > LARGEST_EXPONENT || mantissa.len() > LONGEST_MANTISSA {
        return None;
    }
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|it| it.is_ascii_digit()) {
        return None;
    }
    let mut digits = format!("{whole}{part}");
    let mut point = i32::try_from(whole.len()).ok()? + exponent;
    while point <= 0 {
        digits.insert(0, '0');
        point += 1;
    }
    let point = usize::try_from(point).ok()?;
    while digits.len() < point {
        digits.push('0');
    }
    let (whole, part) = digits.split_at(point);
    let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") })
}

/// Numbers in JSON have no larger ones.
const LARGEST_EXPONENT: i32 = 400;
const LONGEST_MANTISSA: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_exponent_says_where_the_point_is() {
        let nanos = |text| amount(text).map(NanoUsd::nanos);
        assert_eq!(nanos("2e-6"), Some(2_000));
        assert_eq!(nanos("1.5E-7"), Some(150));
        assert_eq!(nanos("2.50e+1"), Some(25_000_000_000));
        assert_eq!(nanos("0e300"), Some(0));
        assert_eq!(nanos("10e-1"), Some(1_000_000_000));
        assert_eq!(nanos("0.05"), Some(50_000_000));
        for text in
            ["1e-10", "1.5e-9", "1e300", "e5", "1e", "1e1e1", "-1e-3", "1e99999999999", ".e1"]
        {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_amount_is_read_from_the_number_that_programs_print(nanos in 0_i64..1_000_000_000) {
            let number = serde_json::json!(nanos as f64 / 1e9).to_string();
            prop_assert_eq!(amount(&number).map(NanoUsd::nanos), Some(nanos), "{}", number);
        }
    }
}
