//! Chat templates: a conversation as the text that a model was trained to continue.
//!
//! Templates are written for Python's Jinja with a handful of functions beside it; what real ones use is here.
//! A template that knows nothing of tools gets them as messages: what may be called stands in the
//! system message, calls and their results in the turns that made them.

mod bounds;

use std::collections::HashSet;

use domain::{Clock as _, SystemClock};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize as _;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use serde_json::{Map, Serializer, Value, json};
use sha2::{Digest as _, Sha256};

use crate::call::{Conversation, PromptEnd};
use crate::tools::Voice;

/// The chat template of one model.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    /// The names that it reads.
    names: HashSet<String>,
    /// The texts of the tokens that begin a prompt and end a turn.
    pub(crate) bos_token: String,
    pub(crate) eos_token: String,
}

impl ChatTemplate {
    /// Reads a template; refuses one that could nest values without end.
    pub(crate) fn new(template: &str) -> Result<Self, Error> {
        let mut environment = Environment::new();
        // Errors would hold values.
        environment.set_debug(false);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        environment.set_syntax(syntax.clone());
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, _> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", tojson);
        environment.set_fuel(Some(TEMPLATE_FUEL));
        bounds::add_to(&mut environment);
        let template = bounds::bounded(&without_training_blocks(template), &syntax)?;
        let names = bounds::with_stack(|| -> Result<HashSet<String>, Error> {
            environment.add_template_owned(TEMPLATE, template)?;
            let read = environment.get_template(TEMPLATE)?;
            Ok(read.undeclared_variables(false))
        })?;
        let (bos_token, eos_token) = Default::default();
        Ok(Self { environment, names, bos_token, eos_token })
    }

    /// Whether it reads a variable of this name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The conversation as text, with these variables; the error tells why the template refuses it.
    pub(crate) fn render(
        &self,
        conversation: &Conversation,
        variables: &Map<String, Value>,
        voice: &Voice,
    ) -> Result<String, Error> {
        let Conversation { messages, tools, documents, ending, .. } = conversation;
        let messages: Vec<Value> =
            messages.iter().map(|message| with_fitting_ids(message, voice)).collect();
        let fill = |messages: &[Value], tools: &[Value]| {
            let filling = Filling { messages, tools, documents, ending: *ending, variables };
            bounds::with_stack(|| self.fill(&filling))
        };
        if self.knows("tools") {
            return fill(&messages, tools);
        }
        let told = in_words(&messages, tools);
        // Some templates know no system message.
        fill(&told, &[]).or_else(|error| match without_system(&told) {
            Some(folded) if !tools.is_empty() => fill(&folded, &[]).map_err(|_| error),
            _ => Err(error),
        })
    }

    fn fill(&self, filling: &Filling<'_>) -> Result<String, Error> {
        let Filling { messages, tools, documents, ending, variables } = filling;
        let tools = (!tools.is_empty()).then_some(Serde(tools));
        let documents = (!documents.is_empty()).then_some(Serde(documents));
        let context = context! {
            messages => Serde(messages),
            tools => tools,
            documents => documents,
            add_generation_prompt => *ending == PromptEnd::Turn,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            ..minijinja::Value::from(Serde(variables))
        };
        let mut page = Page::default();
        let template = self.environment.get_template(TEMPLATE)?;
        let rendered = template.render_captured_to(context, &mut page);
        let refused = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
        if page.is_full {
            return Err(refused(format!("its text has more than {MAX_TEXT} bytes")));
        }
        rendered?;
        let text = String::from_utf8(page.text).map_err(|error| refused(error.to_string()))?;
        if *ending != PromptEnd::Open {
            return Ok(text);
        }
        let open = messages.last().and_then(|last| left_open(&text, last["content"].as_str()?));
        open.map(str::to_owned).ok_or_else(|| {
            refused("the text of the last message is not in it as it was sent".to_owned())
        })
    }
}

/// What one rendering is made of.
struct Filling<'a> {
    messages: &'a [Value],
    tools: &'a [Value],
    documents: &'a [Value],
    ending: PromptEnd,
    variables: &'a Map<String, Value>,
}

/// The text up to the end of its last message, whose content this is: with the white space at its end, if
/// the template kept that.
fn left_open<'t>(text: &'t str, content: &str) -> Option<&'t str> {
    let begins = text.rfind(content.trim())?;
    let spaced = content.trim_start();
    let length = if text[begins..].starts_with(spaced) { spaced } else { content.trim() }.len();
    Some(&text[..begins + length])
}

/// What a template writes, as long as that is no more than [`MAX_TEXT`]: loops can write much in few steps.
#[derive(Default)]
struct Page {
    text: Vec<u8>,
    is_full: bool,
}

impl std::io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_TEXT {
            self.is_full = true;
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The same template without marks of what a model is trained on, which Python's extension knows alone.
fn without_training_blocks(template: &str) -> String {
    let mut parts = template.split("{%");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("{%");
        let Some((tag, rest)) = part.split_once("%}") else {
            text.push_str(part);
            continue;
        };
        text.push_str(
            &match tag.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace()) {
                "generation" => tag.replace("generation", "if true"),
                "endgeneration" => tag.replace("endgeneration", "endif"),
                _ => tag.to_owned(),
            },
        );
        text.push_str("%}");
        text.push_str(rest);
    }
    text
}

/// The date and time now, in UTC.
fn strftime_now(format: &str) -> Result<String, Error> {
    let seconds = i64::try_from(SystemClock.now().seconds()).unwrap_or_default();
    let now = jiff::Timestamp::from_second(seconds)
        .map(|now| now.to_zoned_datetime(jiff::tz::TimeZone::UTC));
    let written = now.and_then(|now| jiff::fmt::strtime::format(format, &now));
    written.map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// JSON as Python writes it, not escaped for web pages as this filter does otherwise.
#[expect(clippy::needless_pass_by_value, reason = "filters are called like that")]
fn tojson(value: Serde<Value>, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let _ = options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let mut value = value.0;
    if sorted {
        value.sort_all_objects();
    }
    let compact = separators.is_some_and(|texts| texts.first().is_some_and(|text| text == ","));
    let written = match indent {
        Some(indent) => write(
            &value,
            PrettyFormatter::with_indent(" ".repeat(indent.min(MAX_INDENT)).as_bytes()),
        ),
        None if compact => write(&value, CompactFormatter),
        None => write(&value, Spaced),
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn write(value: &Value, formatter: impl Formatter) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A space after commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The same message with ids that the model's template accepts. Equal ids stay equal.
fn with_fitting_ids(message: &Value, voice: &Voice) -> Value {
    let mut message = message.clone();
    if !voice.format.short_ids {
        return message;
    }
    let fit = |id: &mut Value| {
        if let Some(text) = id.as_str() {
            *id = short_id(text).into();
        }
    };
    if let Some(id) = message.get_mut("tool_call_id") {
        fit(id);
    }
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(id) = call.get_mut("id") {
            fit(id);
        }
    }
    message
}

fn short_id(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let digest = Sha256::digest(id.as_bytes());
    let letters = digest.iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()] as char);
    letters.take(9).collect()
}

/// The conversation for a template that knows system, user and assistant only.
fn in_words(messages: &[Value], tools: &[Value]) -> Vec<Value> {
    let mut told: Vec<Value> = Vec::new();
    let mut result_before = false;
    for message in messages {
        let content = message["content"].as_str().unwrap_or_default();
        let is_result = message["role"] == "tool";
        if is_result {
            let result = format!("<tool_response>\n{content}\n</tool_response>");
            match told.last_mut() {
                Some(before) if result_before => {
                    let text = before["content"].as_str().unwrap_or_default();
                    before["content"] = format!("{text}\n{result}").into();
                }
                _ => told.push(json!({ "role": "user", "content": result })),
            }
        } else if let Some(calls) = message.get("tool_calls").and_then(Value::as_array) {
            let mut lines = vec![content.to_owned()];
            lines.retain(|line| !line.is_empty());
            lines.extend(calls.iter().map(call_in_words));
            told.push(json!({ "role": "assistant", "content": lines.join("\n") }));
        } else {
            told.push(message.clone());
        }
        result_before = is_result;
    }
    if tools.is_empty() {
        return told;
    }
    let offer = offer(tools);
    match told.first_mut().filter(|first| first["role"] == "system") {
        Some(system) => {
            let text = system["content"].as_str().unwrap_or_default();
            system["content"] = format!("{text}\n\n{offer}").into();
        }
        None => told.insert(0, json!({ "role": "system", "content": offer })),
    }
    told
}

fn call_in_words(call: &Value) -> String {
    let function = &call["function"];
    let call = json!({ "name": function["name"], "arguments": function["arguments"] });
    format!("<tool_call>\n{}\n</tool_call>", write(&call, Spaced).unwrap_or_default())
}

fn offer(tools: &[Value]) -> String {
    let tools = tools.iter().map(|tool| write(tool, Spaced).unwrap_or_default());
    let tools: Vec<String> = tools.collect();
    format!(
        "You can call these functions:\n<tools>\n{}\n</tools>\nTo call one, answer with its name and arguments as JSON:\n<tool_call>\n{{\"name\": <name>, \"arguments\": <arguments>}}\n</tool_call>",
        tools.join("\n")
    )
}

/// The same conversation with its system message at the head of the first user message.
fn without_system(messages: &[Value]) -> Option<Vec<Value>> {
    let (system, rest) = messages.split_first().filter(|(first, _)| first["role"] == "system")?;
    let mut rest = rest.to_vec();
    let user = rest.first_mut().filter(|first| first["role"] == "user")?;
    let text = |message: &Value| message["content"].as_str().unwrap_or_default().to_owned();
    user["content"] = format!("{}\n\n{}", text(system), text(user)).into();
    Some(rest)
}

const TEMPLATE: &str = "chat";
/// Steps of one rendering: far beyond any real conversation, and an end to a hostile one.
const TEMPLATE_FUEL: u64 = 50_000_000;
/// Bytes of one rendering: more than any model reads, and than bodies are allowed to bring.
const MAX_TEXT: usize = 32 << 20;
const MAX_INDENT: usize = 16;
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

#[cfg(test)]
mod tests;
