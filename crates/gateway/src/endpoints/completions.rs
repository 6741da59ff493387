//! `POST /v1/completions`.

use domain::FinishReason;
use http::Method;
use serde_json::{Value, json};

use super::told::text_logprobs;
use super::{
    About, Action, Codec, Delta, Ending, Endpoint, Told, budget_error, finish_name, usage,
};
use crate::call::{Call, MAX_TOP_LOGPROBS, Prompt, max_output, refuse_in_completions, token_ids};
use crate::failure::Failure;
use crate::fields::{Fields, parse_object, wrong_type};

pub(crate) const ENDPOINT: Endpoint = Endpoint {
    method: Method::POST,
    path: "/v1/completions",
    action: Action::Answer(&Completions),
};

struct Completions;

impl Codec for Completions {
    fn id_prefix(&self) -> &'static str {
        "cmpl-"
    }

    fn parse(&self, body: &[u8]) -> Result<Call, Failure> {
        let body = parse_object(body)?;
        let fields = Fields::of(&body, "")?;
        call(&fields)
    }

    fn whole(&self, about: &About, choices: &[Told], end: &Ending) -> Value {
        let choices = choices.iter().enumerate().map(|(index, told)| {
            let echo = about.echo.as_deref().unwrap_or_default();
            let mut choice = choice(index, &format!("{echo}{}", told.content));
            choice["logprobs"] = text_logprobs(&told.tokens, told.tells_tokens);
            choice["finish_reason"] = finish_name(told).into();
            choice
        });
        let mut answer = envelope(about, &choices.collect::<Vec<_>>());
        answer["usage"] = usage(end);
        if end.finish == FinishReason::Budget {
            answer["error"] = budget_error(end.own_bound);
        }
        answer
    }

    fn opening(&self, about: &About, index: usize) -> Option<Value> {
        let echo = about.echo.as_ref()?;
        Some(envelope(about, &[choice(index, echo)]))
    }

    fn delta(&self, about: &About, index: usize, delta: &Delta) -> Value {
        let mut choice = choice(index, &delta.content);
        choice["logprobs"] = text_logprobs(&delta.tokens, false);
        envelope(about, &[choice])
    }

    fn closing(&self, about: &About, index: usize, told: &Told) -> Value {
        let mut choice = choice(index, "");
        choice["finish_reason"] = finish_name(told).into();
        envelope(about, &[choice])
    }

    fn bare(&self, about: &About) -> Value {
        envelope(about, &[])
    }
}

/// What the fields of a text completion ask for.
pub(super) fn call(fields: &Fields<'_>) -> Result<Call, Failure> {
    let max_output = max_output(fields, "max_tokens")?.unwrap_or(DEFAULT_MAX_OUTPUT);
    let logprobs = fields.integer("logprobs", 0..=MAX_TOP_LOGPROBS)?;
    let logprobs = logprobs.map(|top| top as u32);
    refuse_in_completions(fields)?;
    let prompt = prompt(fields.required("prompt")?)?;
    let call = Call::parse(fields, prompt, Some(max_output), logprobs)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() {
        let message =
            "`echo` tells nothing of the prompt's log-probabilities; leave it or `logprobs` out";
        return Err(Failure::invalid("echo", message));
    }
    Ok(Call { echo, ..call })
}

fn envelope(about: &About, choices: &[Value]) -> Value {
    json!({
        "id": about.id,
        "object": "text_completion",
        "created": about.created,
        "model": about.model,
        "system_fingerprint": about.fingerprint,
        "choices": choices,
    })
}

fn choice(index: usize, text: &str) -> Value {
    json!({ "index": index, "text": text, "logprobs": null, "finish_reason": null })
}

/// A string, token ids, or a list that holds exactly one of them.
fn prompt(value: &Value) -> Result<Prompt, Failure> {
    match value.as_array().map(Vec::as_slice) {
        Some([only @ (Value::String(_) | Value::Array(_))]) => one_prompt(only),
        _ => one_prompt(value),
    }
}

fn one_prompt(value: &Value) -> Result<Prompt, Failure> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(list) if list.is_empty() => {
            let message = "`prompt` is an empty list; send a text, or at least one token id";
            Err(Failure::invalid("prompt", message))
        }
        Value::Array(list) if list.iter().any(Value::is_number) => {
            token_ids("prompt", list).map(Prompt::Tokens)
        }
        Value::Array(_) => {
            let message = "`prompt` must hold one prompt; send each prompt in a request of its own";
            Err(Failure::invalid("prompt", message))
        }
        other => Err(wrong_type("prompt", "a string or a list of token ids", other)),
    }
}

/// What `OpenAI` uses when a completion is not bounded.
const DEFAULT_MAX_OUTPUT: u32 = 16;
