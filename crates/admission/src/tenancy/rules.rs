//! What may stand at a scope: limits, budgets, and who may use it at all.

use std::fmt;

use domain::{GpuTime, ModelName, NanoUsd, RuleId, Timestamp};
use serde::{Deserialize, Serialize};

/// Everything that stands at one scope. The default permits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How fast. Each limit holds by itself.
    pub limits: Vec<Limit>,
    /// How much. Each budget holds by itself.
    pub budgets: Vec<Budget>,
    /// Models that may be used; empty means all. A model must be allowed at every level.
    pub models: Vec<ModelName>,
    /// Nothing is admitted from this moment on.
    pub expires_at: Option<Timestamp>,
    /// Nothing is admitted while this is set.
    pub blocked: bool,
}

/// How fast a scope may go, in one respect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Names the limit.
    pub id: RuleId,
    /// In which respect.
    pub kind: LimitKind,
    /// The most, in the unit of the kind. Zero admits nothing.
    pub max: u64,
    /// The only model it counts; absent means all together.
    #[serde(default)]
    pub model: Option<ModelName>,
}

/// In which respect a limit bounds a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Requests admitted per minute.
    RequestsPerMinute,
    /// Prompt and completion tokens per minute.
    TokensPerMinute,
    /// Prompt and completion tokens per calendar day of the organization.
    TokensPerDay,
    /// Requests running at the same time.
    ConcurrentRequests,
    /// Milliseconds of GPU time per minute.
    GpuMillisPerMinute,
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestsPerMinute => "requests per minute",
            Self::TokensPerMinute => "tokens per minute",
            Self::TokensPerDay => "tokens per day",
            Self::ConcurrentRequests => "concurrent requests",
            Self::GpuMillisPerMinute => "milliseconds of GPU time per minute",
        })
    }
}

/// How much a scope may use in a window of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Names the budget.
    pub id: RuleId,
    /// The most, and of what.
    pub amount: Amount,
    /// How long it lasts before it starts anew.
    #[serde(default)]
    pub window: Window,
    /// What happens at its end.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Percentages of the amount at which somebody is told, each once a window.
    #[serde(default)]
    pub alert_percent: Vec<u32>,
    /// The only model it counts; absent means all together.
    #[serde(default)]
    pub model: Option<ModelName>,
}

/// An amount of something that can be used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// Money charged.
    Money(NanoUsd),
    /// Prompt and completion tokens.
    Tokens(u64),
    /// GPU time attributed.
    GpuTime(GpuTime),
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Money(amount) => write!(f, "${}", amount.dollars()),
            Self::Tokens(tokens) => write!(f, "{tokens} tokens"),
            Self::GpuTime(time) => {
                let nanos = time.nanos();
                let (seconds, rest) = (nanos / NANOS_PER_SECOND, nanos % NANOS_PER_SECOND);
                write!(f, "{seconds}.{rest:09} seconds of GPU time")
            }
        }
    }
}

/// A stretch of calendar time, in the organization's time zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Midnight to midnight.
    Day,
    /// Monday to Sunday (ISO 8601).
    Week,
    /// First to last.
    Month,
    /// For ever.
    #[default]
    Total,
}

/// What happens when a budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Nothing more is admitted, and running streams stop at the token.
    #[default]
    Hard,
    /// Somebody is told, and everything goes on.
    Soft,
}

/// The time zone that an organization's calendar windows follow: a name of the IANA database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeZone(jiff::tz::TimeZone);

/// There is no such time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time zone of the IANA database, such as `Europe/Berlin` or `UTC`")]
pub struct UnknownTimeZone(String);

impl TimeZone {
    /// The zone's name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Where the window that contains `now` begins and ends, in milliseconds since 1970 (UTC).
    /// [`Window::Total`] began in 1970 and ends never.
    pub fn bounds(&self, window: Window, now: Timestamp) -> WindowBounds {
        self.calendar_bounds(window, now).unwrap_or(WindowBounds::FOR_EVER)
    }

    fn calendar_bounds(&self, window: Window, now: Timestamp) -> Option<WindowBounds> {
        let millis = i64::try_from(now.millis()).ok()?;
        let local =
            jiff::Timestamp::from_millisecond(millis).ok()?.to_zoned_datetime(self.0.clone());
        let today = local.date();
        let (first, next) = match window {
            Window::Total => return None,
            Window::Day => (today, today.tomorrow().ok()?),
            Window::Week => {
                let since_monday = i64::from(today.weekday().to_monday_zero_offset());
                let monday = today.checked_sub(jiff::Span::new().days(since_monday)).ok()?;
                (monday, monday.checked_add(jiff::Span::new().days(7)).ok()?)
            }
            Window::Month => {
                let first = today.first_of_month();
                (first, first.checked_add(jiff::Span::new().months(1)).ok()?)
            }
        };
        // A day whose midnight the clocks skip begins at its first moment; jiff finds it.
        let moment = |date: jiff::civil::Date| {
            let start = date.to_zoned_datetime(self.0.clone()).ok()?.timestamp().as_millisecond();
            u64::try_from(start).ok().map(Timestamp::from_millis)
        };
        Some(WindowBounds { start: moment(first)?, end: moment(next)? })
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self(jiff::tz::TimeZone::UTC)
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<String> for TimeZone {
    type Error = UnknownTimeZone;

    fn try_from(name: String) -> Result<Self, UnknownTimeZone> {
        jiff::tz::TimeZone::get(&name).map(Self).map_err(|_| UnknownTimeZone(name))
    }
}

impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.name().to_owned()
    }
}

/// One window: from `start`, up to and without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowBounds {
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

impl WindowBounds {
    /// The only window of [`Window::Total`].
    pub const FOR_EVER: Self =
        Self { start: Timestamp::from_millis(0), end: Timestamp::from_millis(u64::MAX) };
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> TimeZone {
        TimeZone::try_from(name.to_owned()).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_millis(moment.as_millisecond().unsigned_abs())
    }

    fn bounds(start: &str, end: &str) -> WindowBounds {
        WindowBounds { start: at(start), end: at(end) }
    }

    #[test]
    fn windows_follow_the_calendar_of_the_zone() {
        // 23:30 in New York on Sunday the 31st is Monday the 1st in UTC.
        let now = at("2026-06-01T03:30:00Z");
        let new_york = zone("America/New_York");
        assert_eq!(
            new_york.bounds(Window::Day, now),
            bounds("2026-05-31T04:00:00Z", "2026-06-01T04:00:00Z")
        );
        assert_eq!(
            new_york.bounds(Window::Week, now),
            bounds("2026-05-25T04:00:00Z", "2026-06-01T04:00:00Z")
        );
        assert_eq!(
            new_york.bounds(Window::Month, now),
            bounds("2026-05-01T04:00:00Z", "2026-06-01T04:00:00Z")
        );
        assert_eq!(
            zone("UTC").bounds(Window::Month, now),
            bounds("2026-06-01T00:00:00Z", "2026-07-01T00:00:00Z")
        );
    }

    #[test]
    fn a_day_on_which_clocks_change_is_as_long_as_it_is() {
        let day = zone("Europe/Berlin").bounds(Window::Day, at("2026-03-29T12:00:00Z"));
        assert_eq!(day, bounds("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"));
        // Beirut's clocks skip midnight itself.
        let day = zone("Asia/Beirut").bounds(Window::Day, at("2026-03-29T12:00:00Z"));
        assert_eq!(day, bounds("2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"));
    }

    #[test]
    fn an_unknown_zone_is_refused_by_name() {
        let refused = TimeZone::try_from("Mars/Olympus".to_owned()).unwrap_err();
        assert!(refused.to_string().contains("Mars/Olympus"));
    }
}
