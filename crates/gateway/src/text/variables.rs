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

/// Variables by which templates are told whether the model thinks: Qwen 3 and most others; `DeepSeek`.
const THINKS: [&str; 2] = ["enable_thinking", "thinking"];
const NO_EFFORT: &str = "none";

#[cfg(test)]
mod tests {
    use domain::ModelFiles;
    use serde_json::json;

    use crate::call::Prompt;
    use crate::endpoints::{self, Action};
    use crate::text::ModelText;

    /// The prompt that a template makes of a chat with these fields; or the field that is to blame.
    fn prompt(template: &str, more: &serde_json::Value) -> Result<String, String> {
        let blamed = |failure: crate::failure::Failure| {
            let body = failure.body(domain::RequestId::generate());
            body["error"]["param"].as_str().unwrap_or_default().to_owned()
        };
        let tokenizer = include_bytes!("../../../engine/demo-model/tokenizer.json");
        let files =
            ModelFiles { tokenizer: tokenizer[..].into(), chat_template: Some(template.into()) };
        let mut body = json!({ "model": "m", "messages": [
            { "role": "user", "content": "Hi" },
            { "role": "assistant", "content": " Well, ", "reasoning_content": "Hm." },
        ] });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let endpoint = endpoints::find(&http::Method::POST, "/v1/chat/completions").unwrap();
        let Action::Answer(codec) = endpoint.endpoint.action else { panic!("it answers") };
        let call = codec.parse(body.to_string().as_bytes()).map_err(blamed)?;
        assert!(matches!(*call.prompt, Prompt::Chat(_)));
        let text = ModelText::new(&files, &[]).unwrap();
        let encoded = text.encode(&call.prompt, None, 1000).map_err(blamed)?;
        Ok(text.text_of(&encoded.ids))
    }

    #[test]
    fn a_template_is_given_what_a_request_says_of_it() {
        let thinks = "{{ 'thinks' if enable_thinking | default(true) else 'answers' }}</think>";
        for (template, more, expected) in [
            (
                "{{ style }} {{ n + 1 }}",
                json!({ "chat_template_kwargs": { "style": "so", "n": 1 } }),
                Ok("so 2"),
            ),
            (
                "{{ x }}",
                json!({ "chat_template_kwargs": { "y": 1 } }),
                Err("chat_template_kwargs.y"),
            ),
            ("{{ reasoning_effort }}", json!({ "reasoning_effort": "low" }), Ok("low")),
            (
                "{{ reasoning_effort }}",
                json!({ "chat_template_kwargs": { "reasoning_effort": "low" } }),
                Ok("low"),
            ),
            (thinks, json!({}), Ok("thinks</think>")),
            (thinks, json!({ "reasoning_effort": "high" }), Ok("thinks</think>")),
            (thinks, json!({ "reasoning_effort": "none" }), Ok("answers</think>")),
            (
                thinks,
                json!({ "chat_template_kwargs": { "enable_thinking": false } }),
                Ok("answers</think>"),
            ),
            ("always </think>", json!({ "reasoning_effort": "none" }), Err("reasoning_effort")),
            (
                "always </think>",
                json!({ "chat_template_kwargs": { "enable_thinking": false } }),
                Err("chat_template_kwargs.enable_thinking"),
            ),
            ("never", json!({ "reasoning_effort": "none" }), Ok("never")),
            ("{{ documents[0].text }}", json!({ "documents": [{ "text": "so" }] }), Ok("so")),
            ("{{ messages[1].reasoning_content }}", json!({}), Ok("Hm.")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(prompt(template, &more), expected, "{template} {more}");
        }
    }

    #[test]
    fn a_conversation_ends_where_the_request_says() {
        let template = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        let trimming = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
        let open = json!({ "continue_final_message": true });
        for (template, more, expected) in [
            (template, json!({}), Ok("[Hi][ Well, ]>")),
            (template, json!({ "add_generation_prompt": false }), Ok("[Hi][ Well, ]")),
            (
                template,
                json!({ "add_generation_prompt": false, "continue_final_message": true }),
                Ok("[Hi][ Well, "),
            ),
            (template, open.clone(), Ok("[Hi][ Well, ")),
            (trimming, open.clone(), Ok("[Hi][Well,")),
            ("nothing of it", open, Err("messages")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(prompt(template, &more), expected, "{template} {more}");
        }
    }
}
