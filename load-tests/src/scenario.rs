//! A scenario: what was written, then what it means.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::load::{Bodies, Load, forbidden, poisson};
use crate::random::Random;
use crate::run::Phase;
use crate::threshold::Threshold;

/// Phases of load, and what they must show.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows.
    pub about: String,
    /// The phases of each round; every round sends something else.
    pub rounds: Vec<Vec<Phase>>,
    /// What must hold over all rounds.
    pub thresholds: Vec<Threshold>,
    /// The tenants it names, in the order of the keys that its requests use.
    pub tenants: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    about: String,
    /// Passes over all phases, one after the other: A B A B.
    #[serde(default = "one")]
    rounds: u64,
    #[serde(default = "one")]
    seed: u64,
    model: String,
    prompts: BTreeMap<String, RawPrompts>,
    phases: Vec<RawPhase>,
    #[serde(default)]
    thresholds: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrompts {
    texts: Vec<String>,
    max_tokens: u32,
    /// Tokens that are never drawn: with those that end an answer, `max_tokens` is its exact length.
    #[serde(default)]
    forbidden_tokens: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPhase {
    name: String,
    #[serde(with = "humantime_serde")]
    ramp: Duration,
    #[serde(with = "humantime_serde")]
    window: Duration,
    loads: Vec<RawLoad>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLoad {
    name: String,
    tenant: String,
    prompts: String,
    /// Clients that wait for their answers; or
    clients: Option<usize>,
    /// arrivals of a Poisson process.
    per_second: Option<f64>,
}

impl Scenario {
    /// Reads a file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file);
        let text = text.with_context(|| format!("read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("read {}", file.display()))
    }

    /// Reads what a file holds.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let raw: RawScenario = toml::from_str(text)?;
        ensure!(raw.rounds > 0 && !raw.phases.is_empty(), "nothing would be run");
        let tenants = raw.tenants();
        let rounds = (0..raw.rounds).map(|round| {
            let phase = |(at, phase): (usize, &RawPhase)| {
                // The same load in every round would be answered by whatever remembers the first.
                let seed = Random::seeded(raw.seed + (round << 32) + at as u64).number();
                raw.phase(phase, &tenants, seed).with_context(|| format!("phase `{}`", phase.name))
            };
            raw.phases.iter().enumerate().map(phase).collect()
        });
        let rounds = rounds.collect::<anyhow::Result<Vec<_>>>()?;
        let thresholds = raw.thresholds.iter().map(|text| Threshold::parse(text));
        let thresholds = thresholds.collect::<anyhow::Result<Vec<_>>>()?;
        for threshold in &thresholds {
            for name in threshold.looks_at() {
                ensure!(raw.has(name), "a threshold looks at `{name}`, which is no phase or load");
            }
        }
        Ok(Self { about: raw.about, rounds, thresholds, tenants })
    }
}

impl RawScenario {
    fn tenants(&self) -> Vec<String> {
        let mut tenants = Vec::new();
        for load in self.phases.iter().flat_map(|phase| &phase.loads) {
            if !tenants.contains(&load.tenant) {
                tenants.push(load.tenant.clone());
            }
        }
        tenants
    }

    fn has(&self, name: &str) -> bool {
        self.phases.iter().any(|phase| {
            let load = |load: &RawLoad| format!("{}.{}", phase.name, load.name) == name;
            phase.name == name || phase.loads.iter().any(load)
        })
    }

    fn phase(&self, raw: &RawPhase, tenants: &[String], seed: u64) -> anyhow::Result<Phase> {
        let RawPhase { name, ramp, window, loads } = raw;
        ensure!(!window.is_zero(), "`window` must be longer than zero");
        let mut random = Random::seeded(seed);
        let mut checked = Vec::new();
        for load in loads {
            let tenant = tenants.iter().position(|tenant| *tenant == load.tenant);
            let prompts = self.prompts.get(&load.prompts);
            let prompts = prompts.with_context(|| format!("no prompts `{}`", load.prompts))?;
            let bodies = prompts.bodies(&self.model, tenant.unwrap_or_default())?;
            let load = load.check(bodies, *ramp + *window, &mut random);
            checked.push(load?);
        }
        let (ramp, window) = (*ramp, *window);
        Ok(Phase { name: name.clone(), ramp, window, loads: checked, seed: random.number() })
    }
}

impl RawPrompts {
    fn bodies(&self, model: &str, tenant: usize) -> anyhow::Result<Bodies> {
        let Self { texts, max_tokens, forbidden_tokens } = self;
        ensure!(!texts.is_empty(), "there are no texts to send");
        let body = |text: &String| -> Value {
            json!({
                "model": model,
                "messages": [{ "role": "user", "content": text }],
                "max_tokens": max_tokens,
                "temperature": 1.0,
                "logit_bias": forbidden(forbidden_tokens),
                "stream": true,
                "stream_options": { "include_usage": true },
            })
        };
        let bodies = texts.iter().map(body).collect();
        Ok(Bodies { tenant, path: "/v1/chat/completions", bodies })
    }
}

impl RawLoad {
    fn check(&self, bodies: Bodies, length: Duration, random: &mut Random) -> anyhow::Result<Load> {
        let name = self.name.clone();
        match (self.clients, self.per_second) {
            (Some(clients), None) if clients > 0 => Ok(Load::Closed { name, clients, bodies }),
            (None, Some(per_second)) if per_second > 0.0 => {
                let arrivals = poisson(per_second, length, random);
                Ok(Load::poisson(name, &bodies, &arrivals, random))
            }
            _ => bail!("load `{name}` needs `clients` or `per_second`, one of them, above zero"),
        }
    }
}

const fn one() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
        about = "Two tenants."
        rounds = 2
        model = "tollgate-demo"
        thresholds = ["both.failures == 0", "both.quiet.gap_p50 / both.gap_p50 <= 2"]

        [prompts.stories]
        texts = ["Tell me a story.", "Tell me another story."]
        max_tokens = 8

        [[phases]]
        name = "both"
        ramp = "1s"
        window = "9s"

        [[phases.loads]]
        name = "loud"
        tenant = "loud"
        prompts = "stories"
        clients = 4

        [[phases.loads]]
        name = "quiet"
        tenant = "quiet"
        prompts = "stories"
        per_second = 2.0
    "#;

    fn plan(scenario: &Scenario, round: usize) -> Vec<(Duration, String)> {
        let Load::Open { plan, .. } = &scenario.rounds[round][0].loads[1] else {
            panic!("the second load is open")
        };
        plan.iter().map(|planned| (planned.due, planned.question.body.clone())).collect()
    }

    #[test]
    fn a_scenario_is_the_same_each_time_it_is_read_and_another_in_each_round() {
        let [first, second] = [(); 2].map(|()| Scenario::parse(EXAMPLE).unwrap());

        assert_eq!(plan(&first, 0), plan(&second, 0));
        assert_ne!(plan(&first, 0), plan(&first, 1));
        assert_eq!(first.tenants, ["loud", "quiet"]);
    }

    #[test]
    fn mistakes_are_refused_and_named() {
        let wrong = [
            ("window = \"9s\"", "window = \"9s\"\nwindows = 1", "windows"),
            ("clients = 4", "clients = 0", "`loud`"),
            ("clients = 4", "clients = 4\nper_second = 1.0", "`loud`"),
            ("prompts = \"stories\"\n        clients", "prompts = \"tales\"\n clients", "`tales`"),
            ("both.failures", "all.failures", "`all`"),
        ];
        for (right, wrong, named) in wrong {
            let refusal = Scenario::parse(&EXAMPLE.replace(right, wrong)).unwrap_err();
            assert!(format!("{refusal:#}").contains(named), "{refusal:#}");
        }
    }

    #[test]
    fn every_scenario_of_this_folder_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut read = Vec::new();

        for file in std::fs::read_dir(folder).unwrap() {
            read.push(Scenario::read(&file.unwrap().path()).unwrap());
        }

        assert!(read.iter().all(|scenario| !scenario.thresholds.is_empty()));
        assert!(read.len() >= 3, "{}", read.len());
    }
}
