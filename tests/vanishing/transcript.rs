//! What a client was told, freed of what may differ between two runs: ids, times, and how tokens were put
//! together into events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use system_tests::Api;

/// One whole stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transcript {
    choices: BTreeMap<u64, Choice>,
    prompt_tokens: u64,
    completion_tokens: u64,
    /// As if no cache had held anything.
    charge: i64,
}

/// One choice of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Choice {
    text: String,
    /// Name and arguments of each call.
    calls: BTreeMap<u64, (String, String)>,
    /// Each token's log-probabilities, as they were written.
    logprobs: Vec<String>,
    finish: Option<String>,
}

impl Transcript {
    /// Asks `question` and reads the stream to its end, counting what was read in `read`.
    pub(crate) async fn read(
        api: &Api,
        question: &Value,
        read: &AtomicUsize,
    ) -> anyhow::Result<Self> {
        let mut events = api.open(question).await?;
        let mut transcript = Self::default();
        let (mut id, mut told) = (None, Value::Null);
        while let Some(event) = events.next().await? {
            ensure!(event.get("error").is_none(), "it failed: {event}");
            let one = id.get_or_insert_with(|| event["id"].clone());
            ensure!(*one == event["id"], "its id changed from {one} to {}", event["id"]);
            for choice in event["choices"].as_array().into_iter().flatten() {
                let index = choice["index"].as_u64().context("a choice has an index")?;
                transcript.choices.entry(index).or_default().hear(choice)?;
                read.fetch_add(1, Ordering::SeqCst);
            }
            if event["usage"].is_object() {
                told = event["usage"].clone();
            }
        }
        ensure!(events.told().done, "it ended without [DONE]");
        let number = |name: &str| told[name].as_u64().with_context(|| format!("{name} is told"));
        transcript.prompt_tokens = number("prompt_tokens")?;
        transcript.completion_tokens = number("completion_tokens")?;
        let charge = told["cost_details"]["charge_nano_usd"].as_i64();
        let cached = told["prompt_tokens_details"]["cached_tokens"].as_i64().unwrap_or_default();
        // Who found a prefix in a cache depends on who came first, in the undisturbed run too.
        transcript.charge = charge.context("the charge is told")? + cached * CACHED_SAVES_NANOS;
        for (index, choice) in &transcript.choices {
            ensure!(choice.finish.is_some(), "choice {index} has no end");
        }
        Ok(transcript)
    }

    /// Tokens of all choices.
    pub(crate) const fn completion_tokens(&self) -> u64 {
        self.completion_tokens
    }

    /// How much there was to read.
    pub(crate) fn pieces(&self) -> usize {
        self.choices.len() * 2 + self.completion_tokens as usize / 8
    }
}

/// What a prompt token that a cache held is cheaper, in nano-dollars.
const CACHED_SAVES_NANOS: i64 = 50;

impl Choice {
    fn hear(&mut self, choice: &Value) -> anyhow::Result<()> {
        ensure!(self.finish.is_none(), "something came after the end: {choice}");
        let delta = &choice["delta"];
        self.text.push_str(delta["content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().context("a call has an index")?;
            let (name, arguments) = self.calls.entry(index).or_default();
            name.push_str(call["function"]["name"].as_str().unwrap_or_default());
            arguments.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
        }
        let told = choice["logprobs"]["content"].as_array().into_iter().flatten();
        self.logprobs.extend(told.map(Value::to_string));
        self.finish = choice["finish_reason"].as_str().map(str::to_owned);
        Ok(())
    }
}
