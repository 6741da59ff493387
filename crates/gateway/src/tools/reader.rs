//! Reads one call, a JSON object with a name and arguments, a character at a time.
//!
//! It decides from the characters alone, so it does not matter in which pieces they come. Arguments are handed on
//! as they are written; nothing is handed on before it is certain that this is a call.

use super::Part;

/// Where a call is read.
#[derive(Debug)]
pub(super) struct CallReader {
    index: usize,
    stage: Stage,
    name: Option<String>,
    /// Arguments that are not handed on yet.
    arguments: String,
    seen_arguments: bool,
    begun: bool,
}

/// What became of a character.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// It belongs to the call, which goes on.
    On,
    /// It is the last one of the call.
    Done,
    /// It does not belong to any call, and neither does what came before.
    NoCall,
}

#[derive(Debug)]
enum Stage {
    Open,
    Key,
    InKey(Text),
    Colon(String),
    Value(String),
    InValue(String, Value),
}

/// A JSON string being read, with its quotes.
#[derive(Debug, Default)]
struct Text {
    raw: String,
    escaped: bool,
}

/// A JSON value being read.
#[derive(Debug)]
enum Value {
    Text(Text),
    Nested { depth: usize, text: Option<Text> },
    Plain(String),
}

impl CallReader {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            stage: Stage::Open,
            name: None,
            arguments: String::new(),
            seen_arguments: false,
            begun: false,
        }
    }

    /// Whether the call has been handed on, so that it is one whatever follows.
    pub(super) const fn begun(&self) -> bool {
        self.begun
    }

    /// Reads `next`; whoever `accepts` names says which ones are functions.
    pub(super) fn read(
        &mut self,
        next: char,
        accepts: &dyn Fn(&str) -> bool,
        parts: &mut Vec<Part>,
    ) -> Read {
        let read = self.advance(next);
        if let (false, Some(name)) = (self.begun, &self.name)
            && self.seen_arguments
        {
            if !accepts(name) {
                return Read::NoCall;
            }
            self.begun = true;
            parts.push(Part::Call { index: self.index, name: name.clone() });
        }
        if self.begun && !self.arguments.is_empty() {
            let text = std::mem::take(&mut self.arguments);
            match parts.last_mut() {
                Some(Part::Arguments { index, text: before }) if *index == self.index => {
                    before.push_str(&text);
                }
                _ => parts.push(Part::Arguments { index: self.index, text }),
            }
        }
        if read == Read::Done && !self.begun { Read::NoCall } else { read }
    }

    fn advance(&mut self, next: char) -> Read {
        let stage = std::mem::replace(&mut self.stage, Stage::Key);
        let blank = next.is_ascii_whitespace();
        self.stage = match (stage, next) {
            (Stage::Open, '{') => Stage::Key,
            (stage @ (Stage::Open | Stage::Key | Stage::Colon(_) | Stage::Value(_)), _)
                if blank =>
            {
                stage
            }
            (Stage::Key, ',') => Stage::Key,
            (Stage::Key, '}') => return Read::Done,
            (Stage::Key, '"') => Stage::InKey(Text::open()),
            (Stage::InKey(mut text), _) => match text.read(next) {
                None => Stage::InKey(text),
                Some(key) => Stage::Colon(key),
            },
            (Stage::Colon(key), ':') => Stage::Value(key),
            (Stage::Value(key), _) => match Value::open(next) {
                Some(value) => {
                    self.take_in(&key, &value, next);
                    Stage::InValue(key, value)
                }
                None => return Read::NoCall,
            },
            (Stage::InValue(key, value), _) => return self.value(key, value, next),
            _ => return Read::NoCall,
        };
        Read::On
    }

    fn value(&mut self, key: String, mut value: Value, next: char) -> Read {
        if value.ends_before(next) {
            if !self.finish_value(&key, &value) {
                return Read::NoCall;
            }
            return self.advance(next);
        }
        let ended = value.read(next);
        self.take_in(&key, &value, next);
        if !ended {
            self.stage = Stage::InValue(key, value);
            return Read::On;
        }
        if self.finish_value(&key, &value) { Read::On } else { Read::NoCall }
    }

    /// Arguments that are an object are handed on as they come.
    fn take_in(&mut self, key: &str, value: &Value, next: char) {
        if is_arguments(key) && matches!(value, Value::Nested { .. }) {
            self.seen_arguments = true;
            self.arguments.push(next);
        }
    }

    /// Takes what only its end makes complete; tells whether it can be part of a call.
    fn finish_value(&mut self, key: &str, value: &Value) -> bool {
        match value {
            Value::Text(text) if key == "name" => {
                self.name = text.content();
                self.name.is_some()
            }
            _ if key == "name" => false,
            // Some models write the object as a string.
            Value::Text(text) if is_arguments(key) => {
                self.seen_arguments = true;
                self.arguments.push_str(&text.content().unwrap_or_default());
                true
            }
            Value::Plain(text) if is_arguments(key) => {
                self.seen_arguments = true;
                self.arguments.push_str(if text == "null" { "{}" } else { text });
                true
            }
            _ => true,
        }
    }
}

impl Text {
    fn open() -> Self {
        Self { raw: "\"".to_owned(), escaped: false }
    }

    /// Its content once `next` has ended it.
    fn read(&mut self, next: char) -> Option<String> {
        self.raw.push(next);
        let escaped = self.escaped;
        self.escaped = next == '\\' && !escaped;
        (next == '"' && !escaped).then(|| self.content().unwrap_or_default())
    }

    fn content(&self) -> Option<String> {
        serde_json::from_str(&self.raw).ok()
    }
}

impl Value {
    fn open(next: char) -> Option<Self> {
        Some(match next {
            '"' => Self::Text(Text::open()),
            '{' | '[' => Self::Nested { depth: 1, text: None },
            '}' | ']' | ',' | ':' => return None,
            plain => Self::Plain(plain.to_string()),
        })
    }

    /// Whether it ended before `next`.
    fn ends_before(&self, next: char) -> bool {
        matches!(self, Self::Plain(_)) && (next.is_ascii_whitespace() || ",}]".contains(next))
    }

    /// Whether `next` is its last character.
    fn read(&mut self, next: char) -> bool {
        match self {
            Self::Text(text) => text.read(next).is_some(),
            Self::Plain(text) => {
                text.push(next);
                false
            }
            Self::Nested { text: inside @ Some(_), .. } => {
                if inside.as_mut().is_some_and(|text| text.read(next).is_some()) {
                    *inside = None;
                }
                false
            }
            Self::Nested { depth, text } => {
                match next {
                    '"' => *text = Some(Text::open()),
                    '{' | '[' => *depth += 1,
                    '}' | ']' => *depth -= 1,
                    _ => {}
                }
                *depth == 0
            }
        }
    }
}

/// Models mix the two names up.
fn is_arguments(key: &str) -> bool {
    matches!(key, "arguments" | "parameters")
}
