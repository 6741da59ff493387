//! `POST /v1/chat/completions`.

use domain::FinishReason;
use http::Method;
use serde_json::{Map, Value, json};

use super::{About, Action, Codec, Ending, Endpoint, budget_error, finish_name, usage};
use crate::call::{Call, Prompt, max_output};
use crate::failure::Failure;
use crate::fields::{Fields, parse_object, wrong_type};

pub(crate) const ENDPOINT: Endpoint =
    Endpoint { method: Method::POST, path: "/v1/chat/completions", action: Action::Answer(&Chat) };

struct Chat;

impl Codec for Chat {
    fn id_prefix(&self) -> &'static str {
        "chatcmpl-"
    }

    fn parse(&self, body: &[u8]) -> Result<Call, Failure> {
        let body = parse_object(body)?;
        let fields = Fields::of(&body, "")?;
        call(&fields)
    }

    fn whole(&self, about: &About, text: &str, end: &Ending) -> Value {
        let mut answer = envelope(about, "chat.completion");
        answer["choices"] = json!([{
            "index": 0,
            "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": null,
            "finish_reason": finish_name(end.finish),
        }]);
        answer["usage"] = usage(end);
        if end.finish == FinishReason::Budget {
            answer["error"] = budget_error();
        }
        answer
    }

    fn opening(&self, about: &About) -> Option<Value> {
        Some(chunk(about, &json!({ "role": "assistant", "content": "" }), None))
    }

    fn delta(&self, about: &About, text: &str) -> Value {
        chunk(about, &json!({ "content": text }), None)
    }

    fn closing(&self, about: &About, finish: FinishReason) -> Value {
        chunk(about, &json!({}), Some(finish))
    }

    fn bare(&self, about: &About) -> Value {
        let mut bare = envelope(about, CHUNK);
        bare["choices"] = json!([]);
        bare
    }
}

/// What the fields of a chat completion ask for.
pub(super) fn call(fields: &Fields<'_>) -> Result<Call, Failure> {
    let newer = max_output(fields, "max_completion_tokens")?;
    let older = max_output(fields, "max_tokens")?;
    Call::parse(fields, Prompt::Chat(messages(fields)?), newer.or(older))
}

fn chunk(about: &About, delta: &Value, finish: Option<FinishReason>) -> Value {
    let mut chunk = envelope(about, CHUNK);
    chunk["choices"] = json!([{
        "index": 0,
        "delta": delta,
        "logprobs": null,
        "finish_reason": finish.map(finish_name),
    }]);
    chunk
}

fn envelope(about: &About, object: &str) -> Value {
    json!({
        "id": about.id,
        "object": object,
        "created": about.created,
        "model": about.model,
        "system_fingerprint": about.fingerprint,
    })
}

/// The conversation, reduced to what chat templates read.
fn messages(fields: &Fields<'_>) -> Result<Vec<Value>, Failure> {
    fields.required("messages")?;
    let list = fields.list("messages")?.unwrap_or_default();
    if list.is_empty() {
        return Err(Failure::invalid("messages", "`messages` must hold at least one message"));
    }
    list.iter().enumerate().map(|(at, value)| message(&format!("messages[{at}]"), value)).collect()
}

fn message(at: &str, value: &Value) -> Result<Value, Failure> {
    let fields = Fields::of(value, at)?;
    let role = match fields.required_text("role")? {
        // The newer name of the same thing.
        "developer" => "system",
        role @ ("system" | "user" | "assistant" | "tool" | "function") => role,
        other => {
            let path = fields.path("role");
            let message = format!(
                "`{path}` must be system, developer, user, assistant or tool, not `{other}`"
            );
            return Err(Failure::invalid(path, message));
        }
    };
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content(&fields, role)?.into());
    for name in ["name", "tool_call_id"] {
        if let Some(text) = fields.text(name)? {
            message.insert(name.to_owned(), text.into());
        }
    }
    if let Some(calls) = fields.list("tool_calls")? {
        message.insert("tool_calls".to_owned(), calls.into());
    }
    Ok(Value::Object(message))
}

/// The text of a message: a string, or parts that are all text.
fn content(fields: &Fields<'_>, role: &str) -> Result<String, Failure> {
    let path = fields.path("content");
    match fields.value("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let text = |(at, part)| part_text(&format!("{path}[{at}]"), part);
            parts.iter().enumerate().map(text).collect()
        }
        Some(other) => Err(wrong_type(&path, "a string or a list of parts", other)),
        // An assistant that only called tools said nothing.
        None if role == "assistant" => Ok(String::new()),
        None => Err(Failure::invalid(path.clone(), format!("`{path}` is required"))),
    }
}

fn part_text(at: &str, part: &Value) -> Result<String, Failure> {
    let fields = Fields::of(part, at)?;
    match fields.required_text("type")? {
        "text" => fields.required_text("text").map(str::to_owned),
        other => {
            let path = fields.path("type");
            let message = format!("`{path}` is `{other}`, and this model reads text only");
            Err(Failure::invalid(path, message))
        }
    }
}

const CHUNK: &str = "chat.completion.chunk";
