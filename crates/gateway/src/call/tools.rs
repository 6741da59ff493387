//! Reads `tools` and what is said about using them.

use serde_json::{Map, Value};

use super::rules::MAX_FORMAT_BYTES;
use crate::failure::Failure;
use crate::fields::{Fields, wrong_type};
use crate::tools::{Function, ToolChoice, Tools};

/// What may be called; `None` if nothing may.
pub(crate) fn tools(fields: &Fields<'_>) -> Result<Option<Tools>, Failure> {
    if fields.list("functions")?.is_some_and(|list| !list.is_empty()) {
        let message = "`functions` is not supported; send them as `tools`";
        return Err(Failure::invalid("functions", message));
    }
    let list = fields.list("tools")?.unwrap_or_default();
    if list.len() > MAX_FUNCTIONS {
        let message =
            format!("`tools` may hold at most {MAX_FUNCTIONS} functions, not {}", list.len());
        return Err(Failure::invalid("tools", message));
    }
    let functions =
        list.iter().enumerate().map(|(at, tool)| function(&format!("tools[{at}]"), tool));
    let functions: Vec<Function> = functions.collect::<Result<_, _>>()?;
    for (at, function) in functions.iter().enumerate() {
        if functions[..at].iter().any(|other| other.name == function.name) {
            let path = format!("tools[{at}].function.name");
            let message = format!("`{path}`: there is another function called `{}`", function.name);
            return Err(Failure::invalid(path, message));
        }
    }
    let bytes = functions.iter().filter_map(|function| function.parameters.as_ref());
    if bytes.map(|schema| schema.to_string().len()).sum::<usize>() > MAX_FORMAT_BYTES {
        let message = format!(
            "the parameters in `tools` have more than {MAX_FORMAT_BYTES} bytes; shorten them"
        );
        return Err(Failure::invalid("tools", message));
    }
    let choice = choice(fields, &functions)?;
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    Ok(choice.map(|choice| Tools { functions, choice, parallel }))
}

fn function(at: &str, tool: &Value) -> Result<Function, Failure> {
    let tool_fields = Fields::of(tool, at)?;
    let kind = tool_fields.required_text("type")?;
    if kind != "function" {
        let path = tool_fields.path("type");
        let message = format!("`{path}` must be function, not `{kind}`");
        return Err(Failure::invalid(path, message));
    }
    let fields = Fields::of(tool_fields.required("function")?, tool_fields.path("function"))?;
    let name = fields.required_text("name")?;
    let fitting = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(fitting) {
        let path = fields.path("name");
        let message = format!(
            "`{path}` must have 1 to {MAX_NAME_BYTES} letters, digits, underscores, dashes or dots"
        );
        return Err(Failure::invalid(path, message));
    }
    let description = fields.text("description")?;
    fields.flag("strict")?;
    let schema = fields.object("parameters")?;
    if let Some(kind) = schema.as_ref().and_then(|schema| schema.value("type"))
        && kind != "object"
    {
        let path = format!("{}.type", fields.path("parameters"));
        let message = format!("`{path}` must be \"object\", not {kind}: arguments have names");
        return Err(Failure::invalid(path, message));
    }
    let parameters = fields.value("parameters").cloned();
    let mut told = Map::new();
    told.insert("name".to_owned(), name.into());
    if let Some(description) = description {
        told.insert("description".to_owned(), description.into());
    }
    if let Some(parameters) = &parameters {
        told.insert("parameters".to_owned(), parameters.clone());
    }
    let told = serde_json::json!({ "type": "function", "function": told });
    Ok(Function { name: name.to_owned(), parameters, told })
}

/// `None` if nothing may be called.
fn choice(fields: &Fields<'_>, functions: &[Function]) -> Result<Option<ToolChoice>, Failure> {
    let choice = match fields.value("tool_choice") {
        None => return Ok((!functions.is_empty()).then_some(ToolChoice::Auto)),
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(None),
            "auto" => return Ok((!functions.is_empty()).then_some(ToolChoice::Auto)),
            "required" => ToolChoice::Required,
            other => {
                let message = format!(
                    "`tool_choice` must be none, auto, required or a function, not `{other}`"
                );
                return Err(Failure::invalid("tool_choice", message));
            }
        },
        Some(Value::Object(_)) => named(fields, functions)?,
        Some(other) => return Err(wrong_type("tool_choice", "a string or an object", other)),
    };
    if functions.is_empty() {
        let message = "`tool_choice` asks for a call, and `tools` has nothing to call";
        return Err(Failure::invalid("tool_choice", message));
    }
    Ok(Some(choice))
}

fn named(fields: &Fields<'_>, functions: &[Function]) -> Result<ToolChoice, Failure> {
    let path = "tool_choice.function.name";
    let choice = fields.object("tool_choice")?;
    let function = match &choice {
        Some(choice) => choice.object("function")?,
        None => None,
    };
    let Some(function) = function else {
        return Err(Failure::invalid(path, format!("`{path}` is required")));
    };
    let name = function.required_text("name")?;
    if functions.iter().any(|function| function.name == name) {
        return Ok(ToolChoice::Named(name.to_owned()));
    }
    Err(Failure::invalid(path, format!("`{path}` is `{name}`, and `tools` has no such function")))
}

const MAX_FUNCTIONS: usize = 128;
const MAX_NAME_BYTES: usize = 64;
