//! Words of requests and answers that many resources share: money and moments.
//!
//! Money is exact in both of its forms, and what an answer shows can be sent back as it is.

use std::fmt;

use domain::{NanoUsd, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use utoipa::openapi::schema::{OneOfBuilder, Schema, Type};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// An exact amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Money {
    /// In US dollars, with as many decimals as it takes.
    #[schema(example = "12.50")]
    usd: String,
    /// The same in nano-dollars (10⁻⁹ US dollars).
    #[schema(example = 12_500_000_000_i64)]
    nano_usd: i64,
}

/// An amount of money in a request: decimal dollars as text, or as answers show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Dollars(pub(super) NanoUsd);

/// A moment: RFC 3339; in requests, a date alone is its first moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-25T08:30:00Z")]
pub(super) struct Moment(pub(super) Timestamp);

impl From<NanoUsd> for Money {
    fn from(amount: NanoUsd) -> Self {
        Self { usd: amount.dollars(), nano_usd: amount.nanos() }
    }
}

impl TryFrom<Value> for Dollars {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let parse = |text: &str| NanoUsd::parse_dollars(text).map(Self);
        let parsed = match &value {
            Value::String(text) => parse(text),
            Value::Object(fields) => {
                let known = |name: &String| matches!(name.as_str(), "usd" | "nano_usd");
                let usd = fields.get("usd").and_then(Value::as_str).and_then(parse);
                let agree = |usd: &Self| {
                    fields.get("nano_usd").is_none_or(|nanos| nanos.as_i64() == Some(usd.0.nanos()))
                };
                usd.filter(agree).filter(|_| fields.keys().all(known))
            }
            _ => None,
        };
        let message =
            "must be dollars as text, such as \"12.50\", with at most nine decimals and no sign";
        parsed.ok_or_else(|| message.to_owned())
    }
}

impl PartialSchema for Dollars {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(r"^[0-9]+(\.[0-9]{0,9})?$"))
            .description(Some("Decimal US dollars."))
            .build();
        let about = "Decimal dollars as text, or an amount as answers show it.";
        OneOfBuilder::new()
            .item(text)
            .item(Ref::from_schema_name("Money"))
            .description(Some(about))
            .into()
    }
}

impl ToSchema for Dollars {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Money::name().into_owned(), Money::schema()));
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let message = "must be a moment as in RFC 3339, such as `2026-11-25T08:30:00Z`, or a date";
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(message))
    }
}

impl fmt::Display for Moment {
    /// The last moment of the calendar stands for everything after it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0.millis()).ok();
        let moment = millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        moment.unwrap_or(jiff::Timestamp::MAX).fmt(f)
    }
}

impl Moment {
    fn parse(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = match text.parse() {
            Ok(moment) => moment,
            Err(_) if text.len() == DATE_BYTES => {
                let date: jiff::civil::Date = text.parse().ok()?;
                date.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?.timestamp()
            }
            Err(_) => return None,
        };
        let millis = u64::try_from(moment.as_millisecond()).ok()?;
        Some(Self(Timestamp::from_millis(millis)))
    }
}

/// For a field that may be absent but not `null`.
pub(super) fn given<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// `2026-11-25`
const DATE_BYTES: usize = 10;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn money_that_an_answer_shows_can_be_sent_back() {
        for nanos in [0, 1, 12_500_000_000, 1_000_000_000, 123_456_789_012] {
            let amount = NanoUsd::from_nanos(nanos);
            let shown = serde_json::to_value(Money::from(amount)).unwrap();
            let text = shown["usd"].clone();
            assert_eq!(serde_json::from_value::<Dollars>(shown).unwrap(), Dollars(amount));
            assert_eq!(serde_json::from_value::<Dollars>(text).unwrap(), Dollars(amount));
        }
        assert_eq!(Money::from(NanoUsd::from_nanos(12_500_000_000)).usd, "12.50");
        assert_eq!(Money::from(NanoUsd::from_dollars(3)).usd, "3.00");
        assert_eq!(Money::from(NanoUsd::from_nanos(1)).usd, "0.000000001");
    }

    #[test]
    fn money_that_is_not_exact_is_refused() {
        for bad in [
            json!(12.5),
            json!("-1"),
            json!("1.0000000001"),
            json!({ "usd": "1.00", "nano_usd": 1 }),
            json!({ "usd": "1.00", "eur": "1.00" }),
            json!({ "nano_usd": 1 }),
        ] {
            assert!(serde_json::from_value::<Dollars>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_read_back_what_they_print() {
        for (text, millis, printed) in [
            ("2026-11-25T08:30:00Z", 1_795_595_400_000, "2026-11-25T08:30:00Z"),
            ("2026-11-25T09:30:00.125+01:00", 1_795_595_400_125, "2026-11-25T08:30:00.125Z"),
            ("2026-11-25", 1_795_564_800_000, "2026-11-25T00:00:00Z"),
        ] {
            let moment: Moment = serde_json::from_value(json!(text)).unwrap();
            assert_eq!(moment.0.millis(), millis, "{text}");
            assert_eq!(serde_json::to_value(moment).unwrap(), printed);
        }
        for bad in ["1959-01-01", "yesterday", "2026-13-01", "2026-11-25T08:30:00"] {
            assert!(serde_json::from_value::<Moment>(json!(bad)).is_err(), "{bad}");
        }
    }
}
