//! The grammar of an answer that calls functions, in Lark's notation with JSON Schemas inside.
//!
//! Its calls are written as the model was trained to write them: one space after colons and commas,
//! no other white space. A model that may choose white space may also never stop.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{ToolChoice, Tools, Voice};

/// The language of answers that call at least one of `tools` (exactly one where one is named or calls may not
/// be parallel), or, if there is an `answer`, are JSON that this schema accepts.
pub(crate) fn grammar(tools: &Tools, voice: &Voice, answer: Option<&Value>) -> String {
    let format = voice.format;
    let named = matches!(tools.choice, ToolChoice::Named(_));
    let (first, more) = (call(voice), literal(voice, format.separator));
    let calls = if tools.parallel && !named {
        format!("call ({more} call){{0,{}}}", MAX_CALLS - 1)
    } else {
        "call".to_owned()
    };
    let calls = if format.listed {
        format!("{} \"[\" {calls} \"]\"", literal(voice, format.opener))
    } else {
        calls
    };
    let start = if answer.is_some() { "answer | calls" } else { "calls" };
    let mut text = format!("start: {start}\ncalls: {calls}\ncall: {first}\n");
    if let Some(schema) = answer {
        let _ = writeln!(text, "answer: %json {}", spaced(schema));
    }
    let functions: Vec<_> = tools.callable().collect();
    let names: Vec<String> = (0..functions.len()).map(|at| format!("f{at}")).collect();
    let _ = writeln!(text, "function: {}", names.join(" | "));
    for (at, function) in functions.iter().enumerate() {
        let head = format!("{{\"name\": {}, \"{}\": ", json!(function.name), format.arguments);
        let _ = writeln!(text, "f{at}: {} a{at} \"}}\"", json!(head));
        let _ = writeln!(text, "a{at}: %json {}", spaced(&function.schema()));
    }
    text
}

/// One call with what encloses it.
fn call(voice: &Voice) -> String {
    let format = voice.format;
    if format.listed || format.bare {
        return "function".to_owned();
    }
    let padding = literal(voice, format.padding);
    let (opener, closer) = (literal(voice, format.opener), literal(voice, format.closer));
    format!("{opener} {padding} function {padding} {closer}")
}

/// A text, or the special token that it is.
fn literal(voice: &Voice, text: &str) -> String {
    match voice.token(text) {
        Some(id) => format!("<[{id}]>"),
        None => json!(text).to_string(),
    }
}

/// The schema with the white space that calls are written with.
fn spaced(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(object) = schema.as_object_mut() {
        let spaces =
            json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        object.insert("x-guidance".to_owned(), spaces);
    }
    schema
}

/// Calls in one answer.
const MAX_CALLS: usize = 16;

#[cfg(test)]
mod tests;
