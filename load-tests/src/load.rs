//! What is sent, and when: by a schedule whatever the server does, or by clients that wait.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Question;
use crate::random::Random;

/// One kind of load within a phase.
#[derive(Clone, Debug)]
pub enum Load {
    /// Requests leave when they are due, however slow the answers are.
    Open {
        /// What its figures are called.
        name: String,
        /// In order of their times.
        plan: Vec<Planned>,
    },
    /// Each client sends its next request when the last one was answered.
    Closed {
        /// What its figures are called.
        name: String,
        /// How many clients.
        clients: usize,
        /// What they send, and for whom.
        bodies: Bodies,
    },
}

/// A request with its time.
#[derive(Clone, Debug)]
pub struct Planned {
    /// After the phase's beginning.
    pub due: Duration,
    /// What to send.
    pub question: Question,
}

/// Requests of one tenant to choose from.
#[derive(Clone, Debug)]
pub struct Bodies {
    /// Whose key is used, as an index into the target's keys.
    pub tenant: usize,
    /// Path below the endpoint.
    pub path: &'static str,
    /// One at least.
    pub bodies: Vec<Value>,
}

impl Load {
    /// A Poisson process of requests drawn from `bodies`.
    pub fn poisson(
        name: String,
        bodies: &Bodies,
        arrivals: &[Duration],
        random: &mut Random,
    ) -> Self {
        let planned = |due: &Duration| Planned { due: *due, question: bodies.draw(random) };
        Self::Open { name, plan: arrivals.iter().map(planned).collect() }
    }

    /// What its figures are called.
    pub fn name(&self) -> &str {
        match self {
            Self::Open { name, .. } | Self::Closed { name, .. } => name,
        }
    }
}

impl Bodies {
    /// One of them.
    pub fn draw(&self, random: &mut Random) -> Question {
        let body = &self.bodies[random.below(self.bodies.len())];
        Question { tenant: self.tenant, path: self.path, body: body.to_string() }
    }
}

/// The arrivals of a Poisson process within `length`.
pub fn poisson(per_second: f64, length: Duration, random: &mut Random) -> Vec<Duration> {
    let mut arrivals = Vec::new();
    let mut due = random.pause(per_second);
    while due < length {
        arrivals.push(due);
        due += random.pause(per_second);
    }
    arrivals
}

/// A streamed completion of a prompt given as token ids, with exactly `output` tokens: the tokens
/// that would end it are forbidden.
///
/// Neither greedy nor seeded, as nothing here is, so no response cache may answer it.
pub fn completion(model: &str, prompt: &[u32], output: u32, end_tokens: &[u32]) -> Value {
    json!({
        "model": model,
        "prompt": prompt,
        "max_tokens": output,
        "temperature": 1.0,
        "logit_bias": forbidden(end_tokens),
        "stream": true,
        "stream_options": { "include_usage": true },
    })
}

/// Biases under which `tokens` are never drawn.
pub(crate) fn forbidden(tokens: &[u32]) -> Value {
    tokens.iter().map(|token| (token.to_string(), json!(-100))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(1_000);

    #[test]
    fn the_same_seed_gives_the_same_arrivals_and_another_does_not() {
        let arrivals = |seed| poisson(5.0, LENGTH, &mut Random::seeded(seed));

        assert_eq!(arrivals(3), arrivals(3));
        assert_ne!(arrivals(3), arrivals(4));
    }

    #[test]
    fn arrivals_are_in_order_within_the_length_and_as_many_as_asked_for() {
        let arrivals = poisson(5.0, LENGTH, &mut Random::seeded(3));

        assert!(arrivals.is_sorted() && arrivals.iter().all(|due| *due < LENGTH));
        // 5,000 are expected; the standard deviation is the root of that, about 71.
        assert!(arrivals.len().abs_diff(5_000) < 300, "{}", arrivals.len());
    }

    #[test]
    fn pauses_vary_as_much_as_they_last() {
        let arrivals = poisson(5.0, LENGTH, &mut Random::seeded(3));
        let pauses: Vec<f64> =
            arrivals.windows(2).map(|pair| pair[1].abs_diff(pair[0]).as_secs_f64()).collect();

        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        let variance = pauses.iter().map(|pause| (pause - mean).powi(2)).sum::<f64>();
        let deviation = (variance / pauses.len() as f64).sqrt();

        assert!((deviation / mean - 1.0).abs() < 0.1, "{deviation} and {mean}");
    }

    #[test]
    fn nothing_sent_may_be_answered_by_a_cache() {
        let body = completion("m", &[1, 2], 3, &[4]);

        assert!(body.get("seed").is_none() && body["temperature"] == 1.0, "{body}");
        assert_eq!(body["logit_bias"]["4"], -100);
    }
}
