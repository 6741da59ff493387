//! Finds calls in an answer while it forms.
//!
//! Text goes in as it comes; content, calls and arguments come out, each as soon as it is certain what it is.
//! Promise: in whatever pieces the text comes, the same content and the same calls come out. What looks like
//! a call and is none is content, with everything that enclosed it.

use super::format::ToolFormat;
use super::reader::{CallReader, Read};
use super::{Tools, Voice};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Content.
    Text(String),
    /// A function is called.
    Call { index: usize, name: String },
    /// More of a call's arguments.
    Arguments { index: usize, text: String },
}

/// Reads one answer.
#[derive(Debug)]
pub(crate) struct ToolParser {
    format: &'static ToolFormat,
    known: Vec<String>,
    parallel: bool,
    state: State,
    /// What came and is not decided yet.
    held: String,
    /// What was taken for the beginning of a call: content, if it is none.
    doubtful: String,
    calls: usize,
}

#[derive(Debug)]
enum State {
    /// Nothing has come yet.
    Start,
    Text,
    /// A call must begin here.
    Open {
        listed: bool,
    },
    Call {
        reader: Box<CallReader>,
        listed: bool,
        bare: bool,
    },
    /// A call has ended.
    Between {
        listed: bool,
    },
    /// No more than one call is wanted.
    Ended,
}

impl ToolParser {
    pub(crate) fn new(tools: &Tools, voice: &Voice) -> Self {
        Self {
            format: voice.format,
            known: tools.functions.iter().map(|function| function.name.clone()).collect(),
            parallel: tools.parallel,
            state: if voice.format.bare { State::Start } else { State::Text },
            held: String::new(),
            doubtful: String::new(),
            calls: 0,
        }
    }

    /// Whether the answer has all the calls that are wanted.
    pub(crate) const fn is_complete(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether a call has been told of whose end has not come.
    pub(crate) fn is_within_call(&self) -> bool {
        matches!(&self.state, State::Call { reader, .. } if reader.begun())
    }

    /// What `text` adds.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.advance(&mut parts) {}
        parts
    }

    /// What is left when no more text comes.
    pub(crate) fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        let rest = std::mem::take(&mut self.held);
        match &self.state {
            // White space after a call is no content.
            State::Ended | State::Between { .. } => {}
            State::Call { reader, .. } if reader.begun() => {}
            State::Start | State::Text | State::Open { .. } | State::Call { .. } => {
                let doubtful = std::mem::take(&mut self.doubtful);
                say(&mut parts, &(doubtful + &rest));
            }
        }
        parts
    }

    /// Decides about some of what is held; `false` if more must come first.
    fn advance(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Ended => {
                self.held.clear();
                false
            }
            State::Start => self.start(),
            State::Text => self.text(parts),
            State::Open { listed } => self.open(listed, parts),
            State::Call { .. } => self.call(parts),
            State::Between { listed } => self.between(listed),
        }
    }

    fn start(&mut self) -> bool {
        let begun = self.held.trim_start();
        if begun.is_empty() {
            return false;
        }
        if begun.starts_with('{') {
            self.begin_call(false, true);
            return true;
        }
        self.state = State::Text;
        true
    }

    fn text(&mut self, parts: &mut Vec<Part>) -> bool {
        let opener = self.format.opener;
        if let Some(at) = self.held.find(opener) {
            let content = self.held[..at].trim_end().len();
            say(parts, &self.held[..content]);
            self.doubtful = self.held[content..at + opener.len()].to_owned();
            self.held.drain(..at + opener.len());
            self.state = State::Open { listed: false };
            return true;
        }
        // An opener may have begun, and white space before it is no content.
        let certain = self.held.len() - crate::text::overlap(&self.held, opener);
        let certain = self.held[..certain].trim_end().len();
        say(parts, &self.held[..certain]);
        self.held.drain(..certain);
        false
    }

    fn open(&mut self, listed: bool, parts: &mut Vec<Part>) -> bool {
        let Some(next) = self.skip_blanks() else { return false };
        if next == '{' {
            self.begin_call(listed, false);
            return true;
        }
        if next == '[' && self.format.listed && !listed {
            self.doubtful.push(next);
            self.held.remove(0);
            self.state = State::Open { listed: true };
            return true;
        }
        self.doubt_confirmed(parts);
        true
    }

    fn begin_call(&mut self, listed: bool, bare: bool) {
        let reader = Box::new(CallReader::new(self.calls));
        self.state = State::Call { reader, listed, bare };
    }

    fn call(&mut self, parts: &mut Vec<Part>) -> bool {
        let State::Call { reader, listed, bare } = &mut self.state else { return false };
        let (listed, bare, known) = (*listed, *bare, &self.known);
        let accepts = |name: &str| !bare || known.iter().any(|known| known == name);
        let mut taken = 0;
        let mut outcome = Read::On;
        for next in self.held.chars() {
            outcome = reader.read(next, &accepts, parts);
            if outcome == Read::NoCall {
                break;
            }
            taken += next.len_utf8();
            if outcome == Read::Done {
                break;
            }
        }
        let begun = reader.begun();
        let read: String = self.held.drain(..taken).collect();
        if begun {
            self.doubtful.clear();
        } else {
            self.doubtful.push_str(&read);
        }
        match outcome {
            Read::On => return false,
            Read::NoCall if !begun => self.doubt_confirmed(parts),
            Read::Done | Read::NoCall => {
                self.calls += 1;
                self.state = if self.parallel { State::Between { listed } } else { State::Ended };
            }
        }
        true
    }

    /// What was taken for a call is none.
    fn doubt_confirmed(&mut self, parts: &mut Vec<Part>) {
        let doubtful = std::mem::take(&mut self.doubtful);
        say(parts, &doubtful);
        self.state = State::Text;
    }

    fn between(&mut self, listed: bool) -> bool {
        let blanks = self.held.len() - self.held.trim_start().len();
        self.held.drain(..blanks);
        let Some(next) = self.held.chars().next() else { return false };
        let closer = self.format.closer;
        if listed || closer.is_empty() {
            let separator = if listed { ',' } else { ';' };
            if next == separator {
                self.held.remove(0);
                self.state = State::Open { listed };
            } else {
                if listed && next == ']' {
                    self.held.remove(0);
                }
                self.state = State::Text;
            }
            return true;
        }
        if closer.starts_with(self.held.as_str()) && self.held.len() < closer.len() {
            return false;
        }
        if let Some(rest) = self.held.strip_prefix(closer) {
            // Blanks after it are no content either, and no text is held by now but theirs.
            self.held = rest.to_owned();
            self.state = State::Between { listed };
            return true;
        }
        self.state = State::Text;
        true
    }

    /// The first character that is no blank. Blanks before it join what is doubtful.
    fn skip_blanks(&mut self) -> Option<char> {
        let blanks = self.held.len() - self.held.trim_start().len();
        self.doubtful.extend(self.held.drain(..blanks));
        self.held.chars().next()
    }
}

fn say(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

#[cfg(test)]
mod tests;
