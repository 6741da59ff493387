//! What samples come to, under the names that thresholds use.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::client::Sample;
use crate::percentiles::Percentiles;
use crate::run::Samples;

/// The figures of one load, or of a whole phase.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    requests: u64,
    failures: BTreeMap<String, u64>,
    tokens_per_second: f64,
    requests_per_second: f64,
    first_token: Percentiles,
    gap: Percentiles,
    total: Percentiles,
}

/// The figures of one pass over all phases: by phase alone, and by `phase.load`.
pub type Round = BTreeMap<String, Figures>;

/// What a threshold may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Requests, whatever became of them.
    Requests,
    /// Requests with a complete answer.
    Answered,
    /// Requests without one.
    Failures,
    /// Those that failed in one way.
    FailuresOf(String),
    /// Completion tokens in the window, per second.
    TokensPerSecond,
    /// Answers completed in the window, per second.
    RequestsPerSecond,
    /// From when a request was due to its first text.
    FirstToken(Percent),
    /// Between two chunks with text.
    Gap(Percent),
    /// From when a request was due to the end of its answer.
    Total(Percent),
}

/// Which percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Percent {
    /// The median.
    P50,
    /// All but one in a hundred.
    P99,
}

impl Figures {
    /// The figures of several loads together.
    pub fn of(loads: &[Samples]) -> Self {
        let all = || loads.iter().flat_map(|load| load.samples.iter().map(move |one| (load, one)));
        let measured = || {
            let within = |(load, one): &(&Samples, &Sample)| {
                (load.begin..load.end).contains(&one.due) && one.failure.is_none()
            };
            all().filter(within).map(|(_, one)| one)
        };
        let mut failures = BTreeMap::new();
        for failure in all().filter_map(|(_, one)| one.failure.clone()) {
            *failures.entry(failure.0).or_insert(0) += 1;
        }
        let window = loads.first().map_or(0.0, |load| (load.end - load.begin).as_secs_f64());
        let per_second = |sum: f64| if window > 0.0 { sum / window } else { 0.0 };
        let ended = |(load, one): &(&Samples, &Sample)| {
            one.failure.is_none() && (load.begin..load.end).contains(&one.ended)
        };
        Self {
            requests: all().count() as u64,
            failures,
            tokens_per_second: per_second(
                all().map(|(load, one)| one.tokens_between(load.begin, load.end)).sum(),
            ),
            requests_per_second: per_second(all().filter(ended).count() as f64),
            first_token: measured().filter_map(Sample::first_token).collect(),
            gap: measured().flat_map(Sample::gaps).collect(),
            total: measured().map(|one| one.ended.duration_since(one.due)).collect(),
        }
    }

    /// The figures of a phase under its name, and of each of its loads under `phase.load`.
    pub fn note(round: &mut Round, phase: &str, loads: &[Samples]) {
        for load in loads {
            let alone = Self::of(std::slice::from_ref(load));
            round.insert(format!("{phase}.{}", load.load), alone);
        }
        round.insert(phase.to_owned(), Self::of(loads));
    }

    /// One figure; times are in seconds. `None` if nothing was recorded.
    pub fn metric(&self, metric: &Metric) -> Option<f64> {
        let failed = self.failures.values().sum::<u64>();
        let time =
            |times: &Percentiles, percent: Percent| Some(times.at(percent.number())?.as_secs_f64());
        match metric {
            Metric::Requests => Some(self.requests as f64),
            Metric::Answered => Some((self.requests - failed) as f64),
            Metric::Failures => Some(failed as f64),
            Metric::FailuresOf(kind) => Some(self.failures.get(kind).copied().unwrap_or(0) as f64),
            Metric::TokensPerSecond => Some(self.tokens_per_second),
            Metric::RequestsPerSecond => Some(self.requests_per_second),
            Metric::FirstToken(percent) => time(&self.first_token, *percent),
            Metric::Gap(percent) => time(&self.gap, *percent),
            Metric::Total(percent) => time(&self.total, *percent),
        }
    }
}

impl Metric {
    /// Reads a metric's name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "requests" => Self::Requests,
            "answered" => Self::Answered,
            "failures" => Self::Failures,
            "tokens_per_second" => Self::TokensPerSecond,
            "requests_per_second" => Self::RequestsPerSecond,
            "first_token_p50" => Self::FirstToken(Percent::P50),
            "first_token_p99" => Self::FirstToken(Percent::P99),
            "gap_p50" => Self::Gap(Percent::P50),
            "gap_p99" => Self::Gap(Percent::P99),
            "total_p50" => Self::Total(Percent::P50),
            "total_p99" => Self::Total(Percent::P99),
            _ => Self::FailuresOf(name.strip_prefix("failures.")?.to_owned()),
        })
    }

    /// Whether it says the same on every machine.
    pub const fn is_count(&self) -> bool {
        matches!(self, Self::Requests | Self::Answered | Self::Failures | Self::FailuresOf(_))
    }
}

impl Percent {
    const fn number(self) -> f64 {
        match self {
            Self::P50 => 50.0,
            Self::P99 => 99.0,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failures, tokens_per_second, requests_per_second, .. } = self;
        write!(f, "{tokens_per_second:8.1} tokens/s  {requests_per_second:6.2} answers/s")?;
        let times =
            [("first token", &self.first_token), ("gap", &self.gap), ("end to end", &self.total)];
        for (name, times) in times {
            let [median, high] = [50.0, 99.0].map(|percent| milliseconds(times.at(percent)));
            write!(f, "  {name} {median}/{high} ms (n={})", times.count())?;
        }
        write!(f, "  requests {requests}")?;
        if failures.is_empty() {
            return write!(f, "  failures 0");
        }
        failures.iter().try_for_each(|(kind, count)| write!(f, "  {kind} {count}"))
    }
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// A request every second, answered after two by 10 tokens in 10 chunks, `failed` of them not.
    fn samples(load: &str, failed: usize) -> Samples {
        let began = Instant::now();
        let at = |tenths: u64| began + Duration::from_millis(100 * tenths);
        let answered = (0..10).map(|second| Sample {
            chunks: (0..10).map(|chunk| at(10 * second + 11 + chunk)).collect(),
            ended: at(10 * second + 20),
            completion_tokens: 10,
            ..Sample::unsent(at(10 * second), "")
        });
        let answered = answered.map(|sample| Sample { failure: None, ..sample });
        let failures = (0..failed).map(|_| Sample::unsent(began, "overloaded"));
        let samples = answered.chain(failures).collect();
        Samples { load: load.to_owned(), begin: at(20), end: at(60), samples }
    }

    #[test]
    fn times_are_measured_in_the_window_and_failures_everywhere() {
        let figures = Figures::of(&[samples("a", 3)]);
        let metric = |name: &str| figures.metric(&Metric::parse(name).unwrap()).unwrap();

        assert_eq!(metric("requests"), 13.0);
        assert_eq!(metric("failures.overloaded"), 3.0);
        assert_eq!(metric("tokens_per_second"), 10.0);
        assert_eq!(metric("first_token_p99"), 1.1);
        assert_eq!(metric("gap_p50"), 0.1);
        assert_eq!(metric("total_p50"), 2.0);
        assert_eq!(figures.first_token.count(), 4);
    }

    #[test]
    fn loads_are_told_apart_and_summed_up() {
        let mut round = Round::new();
        Figures::note(&mut round, "busy", &[samples("a", 0), samples("b", 1)]);

        let requests = |name: &str| round[name].metric(&Metric::Requests).unwrap();
        assert_eq!([requests("busy"), requests("busy.a"), requests("busy.b")], [21.0, 10.0, 11.0]);
    }
}
