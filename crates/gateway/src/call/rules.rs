//! What is asked of an output beside how its tokens are drawn: its form, its least length, what is told of it.
//!
//! A form may be asked for in the words of `OpenAI` (`response_format`) or in those of vLLM's clients
//! (`guided_...`, `structured_outputs`); in one of them at a time.

use domain::{Format, OutputRules};
use serde_json::Value;

use crate::failure::Failure;
use crate::fields::{Fields, wrong_type};

/// The rules, and the field that asks for a form.
pub(super) fn rules(
    fields: &Fields<'_>,
    logprobs: Option<u32>,
    max_output: Option<u32>,
) -> Result<(OutputRules, Option<String>), Failure> {
    let (format, field) = match format(fields)? {
        Some((format, field)) => (format, Some(field)),
        None => (Format::Text, None),
    };
    let most = max_output.map_or(i64::from(u32::MAX), i64::from);
    let min_tokens = fields.integer("min_tokens", 0..=most)?.unwrap_or(0);
    let ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
    let min_tokens = min_tokens as u32;
    Ok((OutputRules { format, logprobs, min_tokens, ignore_eos, ..OutputRules::default() }, field))
}

fn format(fields: &Fields<'_>) -> Result<Option<(Format, String)>, Failure> {
    let mut asked = Vec::new();
    if let Some(format) = fields.object("response_format")? {
        asked.extend(response_format(&format)?);
    }
    for (name, read) in GUIDED {
        if fields.value(name).is_some() {
            asked.push((read(fields, name)?, name.to_owned()));
        }
    }
    if let Some(outputs) = fields.object("structured_outputs")? {
        for (name, read) in STRUCTURED {
            if outputs.value(name).is_some() {
                asked.push((read(&outputs, name)?, outputs.path(name)));
            }
        }
        if outputs.flag("json_object")? == Some(true) {
            asked.push((Format::JsonObject, outputs.path("json_object")));
        }
    }
    if let [(_, one), (_, other), ..] = asked.as_slice() {
        let message = format!("`{one}` and `{other}` both ask for a form; leave one of them out");
        return Err(Failure::invalid(other.clone(), message));
    }
    Ok(asked.pop())
}

fn response_format(format: &Fields<'_>) -> Result<Option<(Format, String)>, Failure> {
    let path = format.path("type");
    match format.required_text("type")? {
        "text" => Ok(None),
        "json_object" => Ok(Some((Format::JsonObject, path))),
        "json_schema" => {
            let schema = format.object("json_schema")?;
            let path = format.path("json_schema");
            let Some(schema) = schema else {
                return Err(Failure::invalid(path.clone(), format!("`{path}` is required")));
            };
            schema.required_text("name")?;
            schema.flag("strict")?;
            if schema.value("schema").is_none() {
                return Ok(Some((Format::JsonObject, path)));
            }
            Ok(Some((json(&schema, "schema")?, schema.path("schema"))))
        }
        other => {
            let message =
                format!("`{path}` must be text, json_object or json_schema, not `{other}`");
            Err(Failure::invalid(path, message))
        }
    }
}

/// A JSON Schema: an object, or one written as a string.
fn json(fields: &Fields<'_>, name: &str) -> Result<Format, Failure> {
    let path = fields.path(name);
    let schema = match fields.required(name)? {
        Value::String(text) => serde_json::from_str(text).ok().filter(Value::is_object),
        Value::Object(object) => Some(Value::Object(object.clone())),
        _ => None,
    };
    let Some(schema) = schema else {
        return Err(wrong_type(&path, "a JSON Schema", fields.required(name)?));
    };
    bounded(&path, schema.to_string()).map(|text| Format::JsonSchema(text.into()))
}

fn regex(fields: &Fields<'_>, name: &str) -> Result<Format, Failure> {
    text(fields, name).map(|text| Format::Regex(text.into()))
}

fn grammar(fields: &Fields<'_>, name: &str) -> Result<Format, Failure> {
    text(fields, name).map(|text| Format::Grammar(text.into()))
}

fn text(fields: &Fields<'_>, name: &str) -> Result<String, Failure> {
    let (path, text) = (fields.path(name), fields.required_text(name)?);
    if text.is_empty() {
        return Err(Failure::invalid(path.clone(), format!("`{path}` must not be empty")));
    }
    bounded(&path, text.to_owned())
}

fn choice(fields: &Fields<'_>, name: &str) -> Result<Format, Failure> {
    let path = fields.path(name);
    let list = fields.list(name)?.unwrap_or_default();
    if list.is_empty() || list.len() > MAX_CHOICES {
        let message = format!("`{path}` must hold 1 to {MAX_CHOICES} texts, not {}", list.len());
        return Err(Failure::invalid(path, message));
    }
    let text = |(at, value): (usize, &Value)| {
        let at = format!("{path}[{at}]");
        match value.as_str() {
            Some("") => Err(Failure::invalid(at.clone(), format!("`{at}` must not be empty"))),
            Some(text) => Ok(text.to_owned()),
            None => Err(wrong_type(&at, "a string", value)),
        }
    };
    let texts: Vec<String> = list.iter().enumerate().map(text).collect::<Result<_, _>>()?;
    bounded(&path, texts.concat())?;
    Ok(Format::Choice(texts.into()))
}

fn bounded(path: &str, text: String) -> Result<String, Failure> {
    if text.len() <= MAX_FORMAT_BYTES {
        return Ok(text);
    }
    let message = format!("`{path}` has {} bytes; at most {MAX_FORMAT_BYTES} are read", text.len());
    Err(Failure::invalid(path, message))
}

/// Reads one way of asking for a form.
type Read = fn(&Fields<'_>, &str) -> Result<Format, Failure>;

const GUIDED: [(&str, Read); 4] = [
    ("guided_json", json),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", grammar),
];
const STRUCTURED: [(&str, Read); 4] =
    [("json", json), ("regex", regex), ("choice", choice), ("grammar", grammar)];
/// What a machine for it takes grows with this.
pub(super) const MAX_FORMAT_BYTES: usize = 65_536;
const MAX_CHOICES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The form that `body` asks for, or the field that is to blame.
    fn form(body: &Value) -> Result<Option<Format>, String> {
        let fields = Fields::of(body, "").unwrap();
        let format = format(&fields).map(|asked| asked.map(|(format, _)| format));
        format.map_err(|failure| {
            let body = failure.body(domain::RequestId::generate());
            body["error"]["param"].as_str().unwrap_or_default().to_owned()
        })
    }

    #[test]
    fn a_form_may_be_asked_for_in_the_words_of_every_client() {
        let schema = json!({ "type": "object" });
        let written = || Format::JsonSchema(schema.to_string().into());
        let choice = || Format::Choice(["a".to_owned(), "b".to_owned()].into());
        for (body, expected) in [
            (json!({}), None),
            (json!({ "response_format": { "type": "text" } }), None),
            (json!({ "response_format": { "type": "json_object" } }), Some(Format::JsonObject)),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } } }),
                Some(written()),
            ),
            (json!({ "guided_json": schema }), Some(written())),
            (json!({ "guided_json": schema.to_string() }), Some(written())),
            (json!({ "guided_regex": "a+" }), Some(Format::Regex("a+".into()))),
            (json!({ "guided_choice": ["a", "b"] }), Some(choice())),
            (
                json!({ "guided_grammar": "start: \"a\"" }),
                Some(Format::Grammar("start: \"a\"".into())),
            ),
            (json!({ "structured_outputs": { "json": schema } }), Some(written())),
            (json!({ "structured_outputs": { "choice": ["a", "b"] } }), Some(choice())),
            (json!({ "structured_outputs": { "json_object": true } }), Some(Format::JsonObject)),
        ] {
            assert_eq!(form(&body), Ok(expected), "{body}");
        }
    }

    #[test]
    fn two_forms_at_once_and_forms_without_bounds_are_refused() {
        let large = "a".repeat(MAX_FORMAT_BYTES + 1);
        for (body, blamed) in [
            (json!({ "guided_regex": "a", "guided_choice": ["a"] }), "guided_choice"),
            (
                json!({ "response_format": { "type": "json_object" }, "structured_outputs": { "regex": "a" } }),
                "structured_outputs.regex",
            ),
            (json!({ "guided_regex": large }), "guided_regex"),
            (json!({ "guided_json": { "description": large } }), "guided_json"),
            (json!({ "guided_choice": vec!["a"; MAX_CHOICES + 1] }), "guided_choice"),
            (json!({ "guided_choice": [] }), "guided_choice"),
            (json!({ "guided_choice": ["a", ""] }), "guided_choice[1]"),
            (json!({ "guided_json": "no json" }), "guided_json"),
            (json!({ "guided_json": [] }), "guided_json"),
            (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
            (
                json!({ "response_format": { "type": "json_schema" } }),
                "response_format.json_schema",
            ),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": {} } }),
                "response_format.json_schema.name",
            ),
        ] {
            assert_eq!(form(&body), Err(blamed.to_owned()));
        }
    }
}
