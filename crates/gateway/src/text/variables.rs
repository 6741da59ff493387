//! What a chat template is given by name: what a request says itself, and how much the model is to think.
//!
//! A template that does not read a variable would answer as if it had not been sent, so it is refused, unless
//! what it asks for is so anyway: a model that does not think does not think.

use serde_json::{Map, Value};

use super::template::ChatTemplate;
use crate::call::{Conversation, EFFORT, VARIABLES};
use crate::failure::Failure;

/// The variables of `template` for `conversation`; `thinks` says whether its model marks thoughts.
pub(super) fn variables(
    template: &ChatTemplate,
    conversation: &Conversation,
    thinks: bool,
) -> Result<Map<String, Value>, Failure> {
    let mut variables = conversation.variables.clone();
    for (name, value) in &conversation.variables {
        let is_so_anyway =
            !thinks && THINKS.contains(&name.as_str()) && *value == Value::Bool(false);
        if !template.knows(name) && !is_so_anyway {
            let path = format!("{VARIABLES}.{name}");
            let message =
                format!("`{path}`: this model's chat template does not read it; leave it out");
            return Err(Failure::invalid(path, message));
        }
    }
    if !conversation.documents.is_empty() && !template.knows("documents") {
        let message =
            "this model's chat template does not read `documents`; put them into a message";
        return Err(Failure::invalid("documents", message));
    }
    let Some(effort) = &conversation.effort else { return Ok(variables) };
    let mut is_read = !thinks && effort == NO_EFFORT;
    if template.knows(EFFORT) {
        is_read = true;
        variables.insert(EFFORT.to_owned(), effort.as_str().into());
    }
    for name in THINKS.into_iter().filter(|name| template.knows(name)) {
        is_read = true;
        variables.entry(name).or_insert_with(|| (effort != NO_EFFORT).into());
    }
    if !is_read {
        let message = format!("this model's chat template does not read `{EFFORT}`; leave it out");
        return Err(Failure::invalid(EFFORT, message));
    }
    Ok(variables)
}

/// Variables by which templates are told whether the model thinks: Qwen 3 and most others; DeepSeek.
const THINKS: [&str; 2] = ["enable_thinking", "thinking"];
const NO_EFFORT: &str = "none";
