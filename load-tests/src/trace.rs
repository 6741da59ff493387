//! Replays the lengths and arrivals of a public trace. The trace has no texts and no tenants: prompts
//! are random tokens of the right number, and rows are spread over tenants by Zipf's law.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::client::Question;
use crate::load::{Load, Planned, completion};
use crate::random::{Random, Zipf};

/// One request of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// After the first one.
    pub at: Duration,
    /// Tokens.
    pub prompt: u32,
    /// Tokens.
    pub output: u32,
}

/// How a trace is sent.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// Who is asked for.
    pub model: &'a str,
    /// How much faster than it was recorded.
    pub speed: f64,
    /// What lengths are divided by.
    pub scale: u32,
    /// How many tenants.
    pub tenants: usize,
    /// The exponent of the law that spreads rows over tenants.
    pub exponent: f64,
    /// Decides tenants and prompts.
    pub seed: u64,
}

/// Reads the rows of an Azure trace: `TIMESTAMP,ContextTokens,GeneratedTokens`.
pub fn rows(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut lines = text.lines();
    ensure!(lines.next() == Some(HEADER), "the first line must be `{HEADER}`");
    let mut rows = Vec::new();
    let mut first = None;
    for (at, line) in lines.enumerate() {
        let (time, prompt, output) =
            row(line).with_context(|| format!("line {}: `{line}`", at + 2))?;
        let since = time.checked_sub(*first.get_or_insert(time));
        let since = since.with_context(|| format!("line {} is earlier than the first", at + 2))?;
        rows.push(Row { at: since, prompt, output });
    }
    Ok(rows)
}

impl Replay<'_> {
    /// The requests of `rows`, and how many of them each tenant sends.
    pub fn load(&self, rows: &[Row]) -> (Load, Vec<u32>) {
        let mut random = Random::seeded(self.seed);
        let zipf = Zipf::new(self.tenants, self.exponent);
        let mut shares = vec![0; self.tenants];
        let plan = rows.iter().map(|row| {
            let tenant = zipf.draw(&mut random);
            shares[tenant] += 1;
            let (prompt, output) = self.lengths(row);
            let prompt: Vec<u32> = (0..prompt).map(|_| ordinary_token(&mut random)).collect();
            let body = completion(self.model, &prompt, output, DEMO_END_TOKENS).to_string();
            let question = Question { tenant, path: "/v1/completions", body };
            Planned { due: row.at.div_f64(self.speed), question }
        });
        let plan = plan.collect();
        (Load::Open { name: "trace".to_owned(), plan }, shares)
    }

    /// What is sent for a row: scaled, one token at least, and no more than the model holds.
    fn lengths(&self, row: &Row) -> (u32, u32) {
        let output = row.output.div_ceil(self.scale).clamp(1, DEMO_CONTEXT / 2);
        let prompt = row.prompt.div_ceil(self.scale).clamp(1, DEMO_CONTEXT - output);
        (prompt, output)
    }
}

fn row(line: &str) -> anyhow::Result<(Duration, u32, u32)> {
    let fields: Vec<&str> = line.split(',').collect();
    let [time, prompt, output] = fields.as_slice() else { bail!("there must be three fields") };
    Ok((time_of_day(time)?, prompt.parse()?, output.parse()?))
}

/// The time of `2023-11-16 18:15:46.6805900`. The date does not matter: the trace is of one hour.
fn time_of_day(text: &str) -> anyhow::Result<Duration> {
    let (_, time) = text.split_once(' ').context("there must be a date and a time")?;
    let parts: Vec<&str> = time.split(':').collect();
    let [hours, minutes, seconds] = parts.as_slice() else { bail!("a time must be h:m:s") };
    let whole = hours.parse::<u64>()? * 3600 + minutes.parse::<u64>()? * 60;
    Ok(Duration::from_secs(whole) + Duration::try_from_secs_f64(seconds.parse()?)?)
}

fn ordinary_token(random: &mut Random) -> u32 {
    DEMO_FIRST_ORDINARY + random.below((DEMO_LAST_ORDINARY - DEMO_FIRST_ORDINARY) as usize) as u32
}

const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// What the built-in demo model ends an answer with.
const DEMO_END_TOKENS: &[u32] = &[4087, 4089];
const DEMO_CONTEXT: u32 = 2048;
/// Below are single bytes, above are control tokens.
const DEMO_FIRST_ORDINARY: u32 = 256;
const DEMO_LAST_ORDINARY: u32 = 4087;

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:15:46.5000000,374,44\n\
        2023-11-16 18:15:50.7500000,33,1\n\
        2023-11-16 18:16:01.0000000,90000,90000\n";

    fn replay(seed: u64) -> Replay<'static> {
        Replay { model: "m", speed: 2.0, scale: 16, tenants: 3, exponent: 1.0, seed }
    }

    fn plan(seed: u64) -> Vec<Planned> {
        match replay(seed).load(&rows(TRACE).unwrap()) {
            (Load::Open { plan, .. }, _) => plan,
            (Load::Closed { .. }, _) => panic!("a trace does not wait"),
        }
    }

    #[test]
    fn rows_are_read_with_their_times_after_the_first() {
        let rows = rows(TRACE).unwrap();

        assert_eq!(rows[0], Row { at: Duration::ZERO, prompt: 374, output: 44 });
        assert_eq!(rows[1], Row { at: Duration::from_millis(4250), prompt: 33, output: 1 });
    }

    #[test]
    fn what_is_not_a_trace_is_refused_with_its_line() {
        assert!(rows("a,b,c\n").is_err());
        let refusal = rows(&TRACE.replace("33,1", "33")).unwrap_err();
        assert!(format!("{refusal:#}").contains("line 3"), "{refusal:#}");
    }

    #[test]
    fn lengths_are_scaled_and_fit_the_model() {
        let rows = rows(TRACE).unwrap();
        let lengths: Vec<_> = rows.iter().map(|row| replay(1).lengths(row)).collect();

        assert_eq!(lengths, [(24, 3), (3, 1), (1024, 1024)]);
    }

    #[test]
    fn requests_are_due_as_recorded_but_faster() {
        let due: Vec<_> = plan(1).iter().map(|planned| planned.due).collect();
        assert_eq!(due, [0, 2125, 7250].map(Duration::from_millis));
    }

    #[test]
    fn the_same_seed_gives_the_same_requests_and_another_does_not() {
        let questions = |seed| plan(seed).into_iter().map(|planned| planned.question);

        assert!(questions(1).eq(questions(1)));
        assert!(!questions(1).eq(questions(2)));
    }

    #[test]
    fn the_trace_of_this_folder_can_be_read() {
        let rows = rows(include_str!("../traces/azure-conv.csv")).unwrap();
        assert_eq!(rows.len(), 2_000);
    }
}
