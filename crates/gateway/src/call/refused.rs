//! Fields that clients send, that would change an answer, and that are not honoured.
//!
//! Each is a row of a table: its name, and the values that ask for nothing. Any other value is refused by the
//! field's name: an option that is ignored in silence is an answer to another question.

use domain::ErrorKind;
use serde_json::Value;

use crate::failure::Failure;
use crate::fields::Fields;

/// Whether a value asks for nothing.
type Neutral = fn(&Value) -> bool;

/// Refuses what a request for text asks for and would not get.
pub(super) fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), Failure> {
    refuse(fields, REFUSED)?;
    if let Some(outputs) = fields.object("structured_outputs")? {
        refuse(&outputs, REFUSED_OF_FORMS)?;
    }
    if let Some(options) = fields.object("stream_options")? {
        refuse(&options, REFUSED_OF_STREAMS)?;
    }
    Ok(())
}

/// Refuses what a chat asks for and would not get, though text completions would.
pub(crate) fn refuse_in_chats(fields: &Fields<'_>) -> Result<(), Failure> {
    refuse(fields, REFUSED_IN_CHATS)
}

/// Refuses what a text completion asks for and would not get, though chats would.
pub(crate) fn refuse_in_completions(fields: &Fields<'_>) -> Result<(), Failure> {
    refuse(fields, REFUSED_IN_COMPLETIONS)
}

fn refuse(fields: &Fields<'_>, table: &[(&str, Neutral)]) -> Result<(), Failure> {
    for (name, neutral) in table {
        if fields.value(name).is_some_and(|value| !neutral(value)) {
            return Err(unsupported(fields.path(name)));
        }
    }
    Ok(())
}

/// A field that is known and not honoured.
fn unsupported(path: String) -> Failure {
    let message = format!("`{path}` is not supported; leave it out");
    let failure = Failure::invalid(path, message);
    debug_assert_eq!(failure.kind(), ErrorKind::InvalidRequest);
    failure
}

static REFUSED: &[(&str, Neutral)] = &[
    ("suffix", empty),
    ("use_beam_search", off),
    ("length_penalty", one),
    ("early_stopping", off),
    ("prompt_logprobs", nothing),
    ("logprob_token_ids", empty),
    ("return_tokens_as_token_ids", off),
    ("return_token_ids", off),
    ("detokenize", on),
    ("truncation_side", left),
    ("prompt_embeds", nothing),
    ("logits_processors", empty),
    ("vllm_xargs", empty),
    ("guided_whitespace_pattern", nothing),
    ("thinking_token_budget", nothing),
    ("repetition_detection", nothing),
];

static REFUSED_IN_CHATS: &[(&str, Neutral)] = &[
    ("echo", off),
    ("chat_template", nothing),
    ("include_reasoning", on),
    ("function_call", no_call),
    ("modalities", text_alone),
    ("audio", nothing),
    ("web_search_options", nothing),
    ("verbosity", medium),
];

/// What there is of chats alone.
static REFUSED_IN_COMPLETIONS: &[(&str, Neutral)] = &[
    ("chat_template", nothing),
    ("chat_template_kwargs", empty),
    ("add_generation_prompt", on),
    ("continue_final_message", off),
    ("reasoning_effort", nothing),
    ("documents", empty),
    ("tools", empty),
];

static REFUSED_OF_FORMS: &[(&str, Neutral)] = &[
    ("structural_tag", nothing),
    ("whitespace_pattern", nothing),
    ("disable_additional_properties", off),
];

static REFUSED_OF_STREAMS: &[(&str, Neutral)] = &[("continuous_usage_stats", off)];

fn nothing(_: &Value) -> bool {
    false
}

fn off(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn on(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        other => off(other),
    }
}

fn left(value: &Value) -> bool {
    value == "left"
}

fn medium(value: &Value) -> bool {
    value == "medium"
}

fn no_call(value: &Value) -> bool {
    value == "none" || value == "auto"
}

fn text_alone(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|mode| mode == "text"))
}
