//! Formats as grammars, and the bounds of what is compiled.
//!
//! JSON is written without spaces between its parts: they cost the tenant tokens, and keep the next brace
//! or key from being forced.

use domain::Format;
use llguidance::JsonCompileOptions;
use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

/// The grammar of a format, or why it cannot be one. Nothing for text: that needs no grammar.
pub(super) fn grammar(format: &Format) -> Result<Option<TopLevelGrammar>, String> {
    bound(format)?;
    Ok(Some(match format {
        Format::Text => return Ok(None),
        Format::JsonObject => schema(json!({ "type": "object" })),
        Format::JsonSchema(text) => schema(parsed(text)?),
        Format::Regex(text) => TopLevelGrammar::from_regex(text),
        Format::Choice(texts) => TopLevelGrammar::from_regex(&alternatives(texts)),
        Format::Grammar(text) => {
            check_schemas_inside(text)?;
            TopLevelGrammar::from_lark(text.to_string())
        }
    }))
}

/// Refuses what is too large to be compiled with a bounded stack and in bounded time.
fn bound(format: &Format) -> Result<(), String> {
    let nesting = match format {
        Format::Regex(text) | Format::Grammar(text) => nesting(text),
        Format::Choice(texts) if texts.is_empty() => {
            return Err("a choice needs at least one text".to_owned());
        }
        Format::Choice(texts) if texts.len() > MAX_CHOICES => {
            return Err(format!(
                "{} texts to choose from are too many: at most {MAX_CHOICES}",
                texts.len()
            ));
        }
        Format::Text | Format::JsonObject | Format::JsonSchema(_) | Format::Choice(_) => 0,
    };
    let bytes = bytes(format);
    if bytes > MAX_BYTES {
        return Err(format!("it is {bytes} bytes long: at most {MAX_BYTES}"));
    }
    if nesting > MAX_NESTING {
        return Err(format!("its brackets nest {nesting} deep: at most {MAX_NESTING}"));
    }
    Ok(())
}

/// How long a format is, in bytes of what was written.
pub(super) fn bytes(format: &Format) -> usize {
    match format {
        Format::Text | Format::JsonObject => 0,
        Format::JsonSchema(text) | Format::Regex(text) | Format::Grammar(text) => text.len(),
        Format::Choice(texts) => texts.iter().map(String::len).sum(),
    }
}

/// How deep brackets nest at most, whatever they mean; more than that is never needed.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn parsed(text: &str) -> Result<Value, String> {
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    if !schema.is_object() {
        return Err("a JSON schema is an object".to_owned());
    }
    if schema.get(OPTIONS).is_some() {
        return Err(format!("`{OPTIONS}` is not a keyword"));
    }
    check_schema(&schema)?;
    Ok(schema)
}

/// Refuses what is no schema in a grammar. What stands behind `%json` and is not JSON is a part of a text, or the
/// library refuses it.
fn check_schemas_inside(grammar: &str) -> Result<(), String> {
    for (at, keyword) in grammar.match_indices("%json") {
        let behind = serde_json::Deserializer::from_str(&grammar[at + keyword.len()..]);
        let Some(Ok(schema)) = behind.into_iter::<Value>().next() else { continue };
        if let Some(options) = schema.get(OPTIONS) {
            let may = |option: &String| OPTIONS_INSIDE.contains(&option.as_str());
            if !options.as_object().is_some_and(|options| options.keys().all(may)) {
                return Err(format!("`{OPTIONS}` may only say how values are separated"));
            }
        }
        check_schema(&schema)?;
    }
    Ok(())
}

fn check_schema(schema: &Value) -> Result<(), String> {
    let depth = depth(schema);
    if depth > MAX_NESTING {
        return Err(format!("it nests {depth} deep: at most {MAX_NESTING}"));
    }
    check_keywords(schema)
}

/// Refuses keywords with values of the wrong type: the library is not careful with those.
fn check_keywords(schema: &Value) -> Result<(), String> {
    let Value::Object(keywords) = schema else { return Ok(()) };
    for (keyword, value) in keywords {
        let fits = match keyword.as_str() {
            "$ref" | "pattern" | "format" => value.is_string(),
            "minimum" | "maximum" | "multipleOf" => value.is_number(),
            "exclusiveMinimum" | "exclusiveMaximum" => value.is_number() || value.is_boolean(),
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
            | "maxProperties" => value.is_u64(),
            "properties" | "patternProperties" | "$defs" | "definitions" => value.is_object(),
            "prefixItems" => value.is_array(),
            "required" => value.as_array().is_some_and(|names| names.iter().all(Value::is_string)),
            _ => true,
        };
        if !fits {
            return Err(format!("`{keyword}` has a value of the wrong type"));
        }
        match (keyword.as_str(), value) {
            ("enum" | "const" | "default" | "examples", _) => {}
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(schemas),
            ) => {
                schemas.values().try_for_each(check_keywords)?;
            }
            (_, Value::Array(schemas)) => schemas.iter().try_for_each(check_keywords)?,
            _ => check_keywords(value)?,
        }
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    let inside = match value {
        Value::Array(values) => values.iter().map(depth).max(),
        Value::Object(values) => values.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    1 + inside.unwrap_or(0)
}

/// The grammar of a schema, which is an object.
fn schema(mut schema: Value) -> TopLevelGrammar {
    let options =
        JsonCompileOptions { whitespace_flexible: false, ..JsonCompileOptions::default() };
    options.apply_to(&mut schema);
    TopLevelGrammar::from_json_schema(schema)
}

/// The regular expression that matches these texts and no other.
fn alternatives(texts: &[String]) -> String {
    let mut expression = String::from("(");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            expression.push('|');
        }
        for char in text.chars() {
            // Escaped, these two mean where words begin and end.
            if char.is_ascii_punctuation() && !matches!(char, '<' | '>') {
                expression.push('\\');
            }
            expression.push(char);
        }
    }
    expression.push(')');
    expression
}

/// Where a schema could change how it is compiled.
const OPTIONS: &str = "x-guidance";
/// What it may change of a schema inside a grammar: calls of functions are written with spaces.
const OPTIONS_INSIDE: &[&str] = &["whitespace_flexible", "item_separator", "key_separator"];

const MAX_BYTES: usize = 128 << 10;
const MAX_CHOICES: usize = 1024;
const MAX_NESTING: usize = 64;
