//! What the fuzz targets in `fuzz/` call: bytes that nobody vouches for, to the functions that read them.
//!
//! Decides how one input is cut into what a function reads, and holds what those functions promise; a panic is a
//! finding. There is no stable interface, and nothing of it is in the product.

use domain::ErrorKind;
use serde_json::{Map, Value, json};

use crate::call::Conversation;
use crate::endpoints::{self, Action};
use crate::text::template::ChatTemplate;
use crate::tools::{FORMATS, Function, Part, ToolChoice, ToolParser, Tools, Voice};

/// Renders a conversation by a chat template, and tells how long the text is. The first byte says how the model
/// writes calls; a byte that no UTF-8 text has stands between the template and the JSON of `messages` and `tools`. A
/// conversation that is none is replaced.
pub fn chat_template(input: &[u8]) -> Option<usize> {
    let [format, rest @ ..] = input else { return None };
    let mut parts = rest.splitn(2, |byte| *byte == BETWEEN_PARTS);
    let template = std::str::from_utf8(parts.next()?).ok()?;
    let conversation = parts.next().unwrap_or_default();
    let conversation: Value = serde_json::from_slice(conversation).unwrap_or_default();
    let list = |name: &str| conversation.get(name).and_then(Value::as_array).cloned();
    let messages = list("messages").unwrap_or_else(|| {
        vec![
            json!({ "role": "system", "content": "Be brief." }),
            json!({ "role": "user", "content": "Hi" }),
        ]
    });
    let tools = list("tools").unwrap_or_default();
    let format = FORMATS[usize::from(*format) % FORMATS.len()];
    let voice = Voice { format, tokens: Vec::new() };
    let template = ChatTemplate::new(template).ok()?;
    let conversation = Conversation { messages, tools, ..Conversation::default() };
    let rendered = template.render(&conversation, &Map::new(), &voice);
    rendered.ok().map(|text| text.len())
}

/// Reads an answer for calls of functions, whole and in pieces, in every way that models write them, and tells
/// how many there are. The first byte says whether calls may be parallel and how many of the bytes after it cut the
/// text; the rest is the answer.
pub fn tool_calls(input: &[u8]) -> Option<usize> {
    let [how, rest @ ..] = input else { return None };
    let (cuts, text) = rest.split_at(rest.len().min(usize::from(how >> 1) % MAX_CUTS));
    let text = std::str::from_utf8(text).ok()?;
    let tools = tools(how & 1 == 1);
    let mut calls = 0;
    for format in FORMATS {
        let voice = Voice { format, tokens: Vec::new() };
        let read = |pieces: &mut dyn Iterator<Item = &str>| {
            let mut parser = ToolParser::new(&tools, &voice);
            let mut parts = Vec::new();
            for piece in pieces {
                parts.extend(parser.push(piece));
            }
            parts.extend(parser.finish());
            Answer::of(parts)
        };
        let whole = read(&mut std::iter::once(text));
        let in_pieces = read(&mut pieces(text, cuts));
        assert_eq!(in_pieces, whole, "{}: in pieces, and whole: {text:?}", format.name);
        let by_character = read(&mut text.split_inclusive(|_| true));
        assert_eq!(by_character, whole, "{}: by the character, and whole: {text:?}", format.name);
        assert!(tools.parallel || whole.calls.len() <= 1, "{}: one call is wanted", format.name);
        calls += whole.calls.len();
    }
    Some(calls)
}

/// Reads a request's body as one of the endpoints, which the first byte chooses, does; tells whether it is one.
pub fn request(input: &[u8]) -> bool {
    let [which, body @ ..] = input else { return false };
    let parse = |endpoint: &endpoints::Endpoint| match endpoint.action {
        Action::Answer(codec) => Some(codec.parse(body).map(|_| ())),
        Action::Embed => Some(endpoints::embeddings::parse(body).map(|_| ())),
        Action::Estimate(parse, _) => Some(parse(body).map(|_| ())),
        Action::Read(_) | Action::Probe(_) => None,
    };
    let which = usize::from(*which) % endpoints::ENDPOINTS.len();
    let endpoints = endpoints::ENDPOINTS.iter().cycle().skip(which);
    let read = endpoints.take(endpoints::ENDPOINTS.len()).find_map(parse);
    match read {
        Some(Ok(())) => true,
        Some(Err(failure)) => {
            assert_eq!(failure.kind(), ErrorKind::InvalidRequest, "a body is the caller's");
            false
        }
        None => false,
    }
}

/// All that an answer came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    content: String,
    /// Names and arguments.
    calls: Vec<(String, String)>,
}

impl Answer {
    fn of(parts: Vec<Part>) -> Self {
        let mut answer = Self::default();
        for part in parts {
            match part {
                Part::Text(text) => answer.content.push_str(&text),
                Part::Call { index, name } => {
                    assert_eq!(index, answer.calls.len(), "calls come in order");
                    answer.calls.push((name, String::new()));
                }
                Part::Arguments { index, text } => {
                    assert_eq!(index + 1, answer.calls.len(), "arguments follow their call");
                    answer.calls[index].1.push_str(&text);
                }
            }
        }
        answer
    }
}

fn tools(parallel: bool) -> Tools {
    let function =
        |name: &str| Function { name: name.to_owned(), parameters: None, told: json!({}) };
    let functions = vec![function("weather"), function("add")];
    Tools { functions, choice: ToolChoice::Auto, parallel }
}

/// The text in pieces: each of `cuts` is the length of one, and they begin again at the end.
fn pieces<'a>(text: &'a str, cuts: &'a [u8]) -> impl Iterator<Item = &'a str> {
    let mut rest = text;
    let mut cuts = cuts.iter().cycle();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = cuts.next().map_or(rest.len(), |cut| usize::from(*cut) + 1);
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(length.min(rest.len())));
        rest = after;
        Some(piece)
    })
}

const BETWEEN_PARTS: u8 = 0xFF;
const MAX_CUTS: usize = 16;

#[cfg(test)]
mod tests;
