//! Requests that the demo model answers in a known way, and what they cost.

use serde_json::{Map, Value, json};

use crate::ledger::{COMPLETION_NANOS, PROMPT_NANOS};

/// A short answer.
pub(crate) fn who() -> Value {
    json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Who are you?" }], "temperature": 0 })
}

/// An answer of exactly `tokens` tokens: the model is kept from ending it.
pub(crate) fn endless(tokens: u32) -> Value {
    about("a dragon", tokens)
}

/// The same about something else, so that no cache knows it.
pub(crate) fn about(subject: &str, tokens: u32) -> Value {
    let content = format!("Tell me a long story about {subject}.");
    json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": content }],
        "temperature": 0,
        "max_tokens": tokens,
        "logit_bias": no_end(),
    })
}

/// `request` with other or further fields.
pub(crate) fn with(mut request: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().into_iter().flatten() {
        request[name] = value.clone();
    }
    request
}

/// What prompt and completion cost at the demo model's price, in nano-dollars.
pub(crate) const fn price(prompt_tokens: i64, completion_tokens: i64) -> i64 {
    prompt_tokens * PROMPT_NANOS + completion_tokens * COMPLETION_NANOS
}

/// An amount of nano-dollars as the command line takes it.
pub(crate) fn dollars(nanos: i64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// The model's special tokens are never chosen.
fn no_end() -> Value {
    let biases = SPECIAL_TOKENS.map(|token| (token.to_string(), json!(-100)));
    Value::Object(biases.collect::<Map<_, _>>())
}

pub(crate) const MODEL: &str = "tollgate-demo";
/// Prompt tokens of [`endless`].
pub(crate) const ENDLESS_PROMPT: i64 = 17;
const SPECIAL_TOKENS: std::ops::Range<u32> = 4087..4096;
