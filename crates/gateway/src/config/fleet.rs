//! How requests find workers, as written: directories, policies, queues, tenants' shares.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use domain::{ModelName, Priority, Problems, ProjectId, Share};
use routing::{
    BreakerSettings, DnsDirectory, DueIn, POLICIES, Policy, RouterSettings, StallLimits,
    SystemResolver,
};
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRouting {
    /// Who should run a request.
    policy: String,
    /// The same for single models.
    policies: BTreeMap<String, String>,
    /// Where lots begin.
    seed: u64,
    /// How far above the mean load affinity may take a worker, in percent of the mean.
    max_load_percent: u32,
    /// How often one sequence may be started.
    max_attempts: u32,
    /// For how long a new worker gets less than its share.
    #[serde(with = "humantime_serde")]
    slow_start: Duration,
    /// A second worker is asked where the first token takes longer.
    #[serde(with = "humantime_serde")]
    hedge_after: Option<Duration>,
    /// By when first tokens should be there.
    #[serde(with = "humantime_serde")]
    interactive_within: Duration,
    #[serde(with = "humantime_serde")]
    standard_within: Duration,
    #[serde(with = "humantime_serde")]
    batch_within: Duration,
    /// Requests that wait for a worker, for each model.
    max_queued: usize,
    /// How long a request waits before it comes before new ones of the next higher priority.
    #[serde(with = "humantime_serde")]
    aging: Duration,
    /// Longest wait for a worker of a model that has none.
    #[serde(with = "humantime_serde")]
    cold_start_patience: Duration,
    /// Requests that wait for that.
    max_cold_start: usize,
    /// How long a worker may say nothing, at least and at most.
    #[serde(with = "humantime_serde")]
    stall_after: Duration,
    #[serde(with = "humantime_serde")]
    stall_limit: Duration,
    /// When a worker that fails is left alone, and for how long.
    breaker_failures: u32,
    breaker_percent: u32,
    #[serde(with = "humantime_serde")]
    breaker_pause: Duration,
    #[serde(with = "humantime_serde")]
    breaker_max_pause: Duration,
}

impl Default for RawRouting {
    fn default() -> Self {
        let default = RouterSettings::default();
        Self {
            policy: default.policy.name.to_owned(),
            policies: BTreeMap::new(),
            seed: default.seed,
            max_load_percent: default.max_load_percent,
            max_attempts: default.max_attempts,
            slow_start: default.slow_start,
            hedge_after: default.hedge_after,
            interactive_within: default.due.interactive,
            standard_within: default.due.standard,
            batch_within: default.due.batch,
            max_queued: default.max_queued,
            aging: default.aging,
            cold_start_patience: default.cold_start_patience,
            max_cold_start: default.max_cold_start,
            stall_after: default.stall.least,
            stall_limit: default.stall.most,
            breaker_failures: default.breaker.consecutive,
            breaker_percent: default.breaker.ratio_percent,
            breaker_pause: default.breaker.pause,
            breaker_max_pause: default.breaker.max_pause,
        }
    }
}

impl RawRouting {
    pub(super) fn check(self, patience: Duration, problems: &mut Problems) -> RouterSettings {
        let positive = [
            ("routing.max_attempts", self.max_attempts == 0),
            ("routing.max_queued", self.max_queued == 0),
            ("routing.stall_after", self.stall_after.is_zero()),
            ("routing.breaker_failures", self.breaker_failures == 0),
            ("routing.breaker_percent", self.breaker_percent == 0),
            ("routing.breaker_pause", self.breaker_pause.is_zero()),
        ];
        for (at, _) in positive.iter().filter(|(_, wrong)| *wrong) {
            problems.add(*at, "must be above zero");
        }
        if self.max_load_percent < 100 {
            problems.add("routing.max_load_percent", "must be at least 100, the mean itself");
        }
        if self.stall_limit < self.stall_after {
            problems.add("routing.stall_limit", "must not be below `stall_after`");
        }
        let policy = policy("routing.policy", &self.policy, problems);
        let of_models = self.policies.iter().map(|(model, name)| {
            let at = format!("routing.policies.{model}");
            (ModelName::new(model.as_str()), self::policy(&at, name, problems))
        });
        let policies = of_models.collect();
        let breaker = BreakerSettings {
            consecutive: self.breaker_failures,
            ratio_percent: self.breaker_percent,
            pause: self.breaker_pause,
            max_pause: self.breaker_max_pause,
            ..BreakerSettings::default()
        };
        RouterSettings {
            patience,
            max_attempts: self.max_attempts,
            policy,
            policies,
            seed: self.seed,
            max_load_percent: self.max_load_percent,
            slow_start: self.slow_start,
            breaker,
            due: DueIn {
                interactive: self.interactive_within,
                standard: self.standard_within,
                batch: self.batch_within,
            },
            hedge_after: self.hedge_after,
            max_queued: self.max_queued,
            aging: self.aging,
            cold_start_patience: self.cold_start_patience,
            max_cold_start: self.max_cold_start,
            stall: StallLimits { least: self.stall_after, most: self.stall_limit },
        }
    }
}

fn policy(at: &str, name: &str, problems: &mut Problems) -> &'static Policy {
    Policy::named(name).unwrap_or_else(|| {
        let known: Vec<&str> = POLICIES.iter().map(|policy| policy.name).collect();
        problems.add(at, format!("`{name}` is no policy; there are {}", known.join(", ")));
        POLICIES[0]
    })
}

/// Where workers are found, beside those that are written down.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDirectory {
    /// A name behind each of whose addresses is a worker, as `http://host:port`, or `https` with `worker_tls`.
    dns: Option<String>,
    /// Whether workers announce themselves in the Redis of `redis`.
    announced: bool,
    /// How often directories are asked.
    #[serde(with = "humantime_serde")]
    interval: Duration,
}

impl Default for RawDirectory {
    fn default() -> Self {
        Self { dns: None, announced: false, interval: Duration::from_secs(5) }
    }
}

/// Where workers are found, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorySettings {
    /// A name behind each of whose addresses is a worker.
    pub dns: Option<String>,
    /// Workers announce themselves in Redis.
    pub announced: bool,
    /// How often directories are asked.
    pub interval: Duration,
}

impl RawDirectory {
    pub(super) fn check(
        self,
        has_redis: bool,
        has_tls: bool,
        problems: &mut Problems,
    ) -> DirectorySettings {
        let Self { dns, announced, interval } = self;
        if let Some(name) = &dns {
            let known = DnsDirectory::new(name, SystemResolver).is_some();
            let (scheme, with) = if has_tls { ("https", "with") } else { ("http", "without") };
            if !known || !name.starts_with(&format!("{scheme}://")) {
                let message = format!(
                    "`{name}` must be written as {scheme}://host:port, {with} [worker_tls]"
                );
                problems.add("directory.dns", message);
            }
        }
        if announced && !has_redis {
            problems
                .add("directory.announced", "workers announce themselves in Redis; set `redis`");
        }
        if interval.is_zero() {
            problems.add("directory.interval", "must be above zero");
        }
        DirectorySettings { dns, announced, interval }
    }
}

/// How much of contended workers a project gets, and how urgent it may be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTenant {
    /// The project.
    project: String,
    /// Its part beside a project of weight 1.
    #[serde(default = "default_weight")]
    weight: u32,
    /// The highest priority its requests may ask for.
    #[serde(default)]
    priority: Priority,
}

/// The shares of projects; what is not said of one is that it is as everybody else.
#[derive(Clone, Debug, Default)]
pub struct Shares(HashMap<ProjectId, (u32, Priority)>);

impl Shares {
    pub(super) fn check(raw: Vec<RawTenant>, problems: &mut Problems) -> Self {
        let mut shares = HashMap::new();
        for (at, RawTenant { project, weight, priority }) in raw.into_iter().enumerate() {
            if !(1..=MAX_WEIGHT).contains(&weight) {
                problems.add(format!("tenants[{at}].weight"), "must be from 1 to 1000");
            }
            let Ok(id) = project.parse::<ProjectId>() else {
                let message = format!("`{project}` is not the id of a project");
                problems.add(format!("tenants[{at}].project"), message);
                continue;
            };
            if shares.insert(id, (weight, priority)).is_some() {
                problems.add(format!("tenants[{at}].project"), "is here twice");
            }
        }
        Self(shares)
    }

    /// The share of a request of `project` that asks for this priority; as urgent as it may be at most.
    pub fn of(&self, project: ProjectId, asked: Option<Priority>) -> Share {
        let known = self.0.get(&project).copied();
        let (weight, highest) = known.unwrap_or((default_weight(), Priority::Standard));
        let priority = asked.unwrap_or_default().max(highest);
        Share { tenant: project, weight, priority }
    }
}

const fn default_weight() -> u32 {
    1
}

const MAX_WEIGHT: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_more_urgent_than_allowed() {
        let (urgent, plain) = (ProjectId::generate(), ProjectId::generate());
        let shares = Shares(HashMap::from([(urgent, (4, Priority::Interactive))]));

        let asked = Some(Priority::Interactive);
        assert_eq!(shares.of(urgent, asked).priority, Priority::Interactive);
        assert_eq!(shares.of(urgent, None).priority, Priority::Standard);
        assert_eq!(shares.of(urgent, None).weight, 4);
        assert_eq!(shares.of(plain, asked).priority, Priority::Standard);
        assert_eq!(shares.of(plain, Some(Priority::Batch)).priority, Priority::Batch);
    }

    #[test]
    fn what_is_wrong_with_routing_is_told_by_name() {
        let mut problems = Problems::default();
        let raw = RawRouting {
            policy: "fastest".to_owned(),
            max_load_percent: 1,
            ..RawRouting::default()
        };
        raw.check(Duration::from_secs(1), &mut problems);
        let problems = problems.into_result(()).unwrap_err().to_string();
        for at in ["routing.policy", "balanced", "routing.max_load_percent"] {
            assert!(problems.contains(at), "{at} is missing in: {problems}");
        }
    }
}
