//! A conversation, and how it is made into a prompt: what a chat template is given beside messages, and where the text
//! ends that the model goes on with.

use serde_json::{Map, Value};

use super::text_bytes;
use crate::failure::Failure;
use crate::fields::Fields;

/// What a chat template is filled with, checked and reduced to what templates read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    /// What may be called, in the words that templates read.
    pub(crate) tools: Vec<Value>,
    pub(crate) documents: Vec<Value>,
    /// Variables of the template by name; none of those that it is always given.
    pub(crate) variables: Map<String, Value>,
    /// How much the model is to think before it answers.
    pub(crate) effort: Option<String>,
    pub(crate) ending: PromptEnd,
}

/// Where the text of a conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PromptEnd {
    /// Where the model's turn begins.
    #[default]
    Turn,
    /// Behind the last message.
    Message,
    /// In the last message, which the model goes on with.
    Open,
}

impl Conversation {
    /// What the fields of a chat say of it beside `messages` and `tools`.
    pub(crate) fn of(
        fields: &Fields<'_>,
        messages: Vec<Value>,
        tools: Vec<Value>,
    ) -> Result<Self, Failure> {
        let (variables, effort) = (variables(fields)?, effort(fields)?);
        if effort.is_some() && variables.contains_key(EFFORT) {
            let message = format!(
                "`{EFFORT}` and `{VARIABLES}.{EFFORT}` say the same; leave one of them out"
            );
            return Err(Failure::invalid(EFFORT, message));
        }
        let ending = ending(fields, &messages)?;
        let documents = documents(fields)?;
        Ok(Self { messages, tools, documents, variables, effort, ending })
    }

    /// About how many bytes of text it holds.
    pub(crate) fn bytes(&self) -> usize {
        let lists = self.messages.iter().chain(&self.tools).chain(&self.documents);
        lists.chain(self.variables.values()).map(text_bytes).sum()
    }
}

fn variables(fields: &Fields<'_>) -> Result<Map<String, Value>, Failure> {
    let Some(given) = fields.object(VARIABLES)? else { return Ok(Map::new()) };
    let mut variables = Map::new();
    for (name, value) in given.entries() {
        if let Some((_, said_by)) = TAKEN.iter().find(|(taken, _)| taken == name) {
            let path = given.path(name);
            let message = format!("`{path}` cannot be set; {said_by}");
            return Err(Failure::invalid(path, message));
        }
        variables.insert(name.clone(), value.clone());
    }
    let bytes = fields.value(VARIABLES).map_or(0, |value| value.to_string().len());
    if bytes > MAX_VARIABLE_BYTES {
        let message =
            format!("`{VARIABLES}` has {bytes} bytes; at most {MAX_VARIABLE_BYTES} are read");
        return Err(Failure::invalid(VARIABLES, message));
    }
    Ok(variables)
}

fn effort(fields: &Fields<'_>) -> Result<Option<String>, Failure> {
    let Some(effort) = fields.text(EFFORT)? else { return Ok(None) };
    if !EFFORTS.contains(&effort) {
        let message = format!("`{EFFORT}` must be one of {}, not `{effort}`", EFFORTS.join(", "));
        return Err(Failure::invalid(EFFORT, message));
    }
    Ok(Some(effort.to_owned()))
}

fn ending(fields: &Fields<'_>, messages: &[Value]) -> Result<PromptEnd, Failure> {
    let begins = fields.flag("add_generation_prompt")?;
    if !fields.flag(CONTINUED)?.unwrap_or(false) {
        return Ok(if begins == Some(false) { PromptEnd::Message } else { PromptEnd::Turn });
    }
    if begins == Some(true) {
        let message = format!(
            "`{CONTINUED}` goes on with the last message, and `add_generation_prompt` begins another; leave one of them out"
        );
        return Err(Failure::invalid(CONTINUED, message));
    }
    let text = messages.last().and_then(|message| message["content"].as_str());
    if text.is_none_or(|text| text.trim().is_empty()) {
        let message = format!("`{CONTINUED}` needs a last message with text to go on with");
        return Err(Failure::invalid(CONTINUED, message));
    }
    Ok(PromptEnd::Open)
}

fn documents(fields: &Fields<'_>) -> Result<Vec<Value>, Failure> {
    let list = fields.list("documents")?.unwrap_or_default();
    for (at, document) in list.iter().enumerate() {
        Fields::of(document, format!("documents[{at}]"))?;
    }
    Ok(list.to_vec())
}

/// The field with variables of the template.
pub(crate) const VARIABLES: &str = "chat_template_kwargs";
/// The field that says how much a model is to think, and the variable of templates that know it.
pub(crate) const EFFORT: &str = "reasoning_effort";
/// The field that asks to go on with the last message.
const CONTINUED: &str = "continue_final_message";
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];
/// Variables that a template always has, and what says them.
const TAKEN: [(&str, &str); 9] = [
    ("messages", "send it as a field of the request"),
    ("tools", "send it as a field of the request"),
    ("documents", "send it as a field of the request"),
    ("add_generation_prompt", "send it as a field of the request"),
    ("continue_final_message", "send it as a field of the request"),
    ("bos_token", "it is the model's own"),
    ("eos_token", "it is the model's own"),
    ("raise_exception", "it is a function of templates"),
    ("strftime_now", "it is a function of templates"),
];
const MAX_VARIABLE_BYTES: usize = 16_384;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conversation_counts_as_long_as_what_a_template_writes_of_it() {
        let numbers: Vec<u32> = (10_000..20_000).collect();
        let names: Map<_, _> =
            (0..1_000).map(|number| (format!("a long name {number}"), json!(null))).collect();
        for tool in [json!({"enum": numbers}), names.into()] {
            let written = tool.to_string().len();
            let bytes = Conversation { tools: vec![tool], ..Conversation::default() }.bytes();
            assert!((written * 3 / 4..written * 2).contains(&bytes), "{bytes} of {written}");
        }
    }
}
