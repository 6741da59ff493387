//! `POST /v1/chat/completions`.

use std::sync::Arc;

use domain::FinishReason;
use http::Method;
use serde_json::{Map, Value, json};

use super::told::{call_id, chat_logprobs};
use super::{
    About, Action, Codec, Delta, Ending, Endpoint, Told, budget_error, finish_name, usage,
};
use crate::call::{
    Call, Conversation, MAX_TOP_LOGPROBS, Prompt, max_output, refuse_in_chats, tools,
};
use crate::failure::Failure;
use crate::fields::{Fields, parse_object, wrong_type};
use crate::tools::Tools;

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

    fn whole(&self, about: &About, choices: &[Told], end: &Ending) -> Value {
        let mut answer = envelope(about, "chat.completion");
        let choices = choices.iter().enumerate().map(|(index, told)| {
            json!({
                "index": index,
                "message": said(about, index, told),
                "logprobs": chat_logprobs(&told.tokens, told.tells_tokens),
                "finish_reason": finish_name(told),
            })
        });
        answer["choices"] = choices.collect();
        answer["usage"] = usage(end);
        if end.finish == FinishReason::Budget {
            answer["error"] = budget_error(end.own_bound);
        }
        answer
    }

    fn opening(&self, about: &About, index: usize) -> Option<Value> {
        Some(chunk(about, index, &json!({ "role": "assistant", "content": "" })))
    }

    fn delta(&self, about: &About, index: usize, delta: &Delta) -> Value {
        let mut more = Map::new();
        if !delta.reasoning.is_empty() {
            more.insert("reasoning_content".to_owned(), delta.reasoning.as_str().into());
        }
        if !delta.content.is_empty() || (delta.calls.is_empty() && more.is_empty()) {
            more.insert("content".to_owned(), delta.content.as_str().into());
        }
        let calls = delta.calls.iter().map(|piece| {
            let mut function = json!({ "arguments": piece.arguments });
            let Some(name) = &piece.name else {
                return json!({ "index": piece.index, "function": function });
            };
            function["name"] = name.as_str().into();
            json!({
                "index": piece.index,
                "id": call_id(about.request, index, piece.index),
                "type": "function",
                "function": function,
            })
        });
        let calls: Vec<Value> = calls.collect();
        if !calls.is_empty() {
            more.insert("tool_calls".to_owned(), calls.into());
        }
        let mut chunk = chunk(about, index, &Value::Object(more));
        chunk["choices"][0]["logprobs"] = chat_logprobs(&delta.tokens, false);
        chunk
    }

    fn closing(&self, about: &About, index: usize, told: &Told) -> Value {
        let mut chunk = chunk(about, index, &json!({}));
        chunk["choices"][0]["finish_reason"] = finish_name(told).into();
        chunk
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
    let messages = messages(fields)?;
    let tools = tools(fields)?;
    let told = tools.as_ref().map(Tools::told).unwrap_or_default();
    refuse_in_chats(fields)?;
    let prompt = Prompt::Chat(Conversation::of(fields, messages, told)?);
    let call = Call::parse(fields, prompt, newer.or(older), logprobs(fields)?)?;
    Ok(Call { tools: tools.map(Arc::new), ..call })
}

/// How many of the most probable tokens are told beside each, if anything is told of them.
fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>, Failure> {
    let asked = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)?;
    if !asked && top.is_some_and(|top| top > 0) {
        let message = "`top_logprobs` is told beside `logprobs`; set `logprobs` to true";
        return Err(Failure::invalid("top_logprobs", message));
    }
    Ok(asked.then_some(top.unwrap_or(0) as u32))
}

/// A whole message of the assistant.
fn said(about: &About, index: usize, told: &Told) -> Value {
    let calls = told.calls.iter().enumerate().map(|(at, call)| {
        json!({
            "id": call_id(about.request, index, at),
            "type": "function",
            "function": { "name": call.name, "arguments": call.arguments },
        })
    });
    let calls: Vec<Value> = calls.collect();
    let mut message = json!({ "role": "assistant", "content": told.content, "refusal": null });
    if !told.reasoning.is_empty() {
        message["reasoning_content"] = told.reasoning.as_str().into();
    }
    if !calls.is_empty() {
        if told.content.is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = calls.into();
    }
    message
}

fn chunk(about: &About, index: usize, delta: &Value) -> Value {
    let mut chunk = envelope(about, CHUNK);
    chunk["choices"] = json!([{
        "index": index,
        "delta": delta,
        "logprobs": null,
        "finish_reason": null,
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
    if role == "assistant"
        && let Some(thoughts) = fields.text("reasoning_content")?
    {
        message.insert("reasoning_content".to_owned(), thoughts.into());
    }
    if let Some(calls) = fields.list("tool_calls")?.filter(|calls| !calls.is_empty()) {
        let path = fields.path("tool_calls");
        let call = |(at, call)| past_call(&format!("{path}[{at}]"), call);
        let calls: Vec<Value> = calls.iter().enumerate().map(call).collect::<Result<_, _>>()?;
        message.insert("tool_calls".to_owned(), calls.into());
    }
    Ok(Value::Object(message))
}

/// A call in a message. Templates write its arguments themselves, so they get them as the object they are, and
/// what is none as the text it is.
fn past_call(at: &str, call: &Value) -> Result<Value, Failure> {
    let fields = Fields::of(call, at)?;
    let function = Fields::of(fields.required("function")?, fields.path("function"))?;
    let name = function.required_text("name")?;
    let arguments = match function.value("arguments") {
        None => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => object,
            _ => text.as_str().into(),
        },
        Some(object @ Value::Object(_)) => object.clone(),
        Some(other) => return Err(wrong_type(&function.path("arguments"), "a string", other)),
    };
    let mut past = Map::new();
    if let Some(id) = fields.text("id")? {
        past.insert("id".to_owned(), id.into());
    }
    past.insert("type".to_owned(), "function".into());
    past.insert("function".to_owned(), json!({ "name": name, "arguments": arguments }));
    Ok(Value::Object(past))
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
