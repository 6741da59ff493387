//! Tells what a model thinks before it answers from the answer, while both form.
//!
//! A way of marking thoughts is a row of [`MARKS`]; whether a model has one is read from its chat template and its
//! tokens. Thoughts stand at the head of an output, or begin in the prompt; marks elsewhere are text. White space
//! beside a mark belongs to nothing.
//!
//! Promise: in whatever pieces the text comes, the same thoughts and the same answer come out, and the same tokens are
//! counted.

use std::collections::VecDeque;

use domain::Reasoning;
use tokenizers::Tokenizer;

use crate::text::overlap;

/// What stands before thoughts and after them.
#[derive(Debug)]
pub(crate) struct Marks {
    opener: &'static str,
    closer: &'static str,
}

/// Every way there is: Qwen 3, `DeepSeek` R1 and most others; Magistral.
pub(crate) static MARKS: [Marks; 2] = [
    Marks { opener: "<think>", closer: "</think>" },
    Marks { opener: "[THINK]", closer: "[/THINK]" },
];

/// How one model marks its thoughts.
#[derive(Debug)]
pub(crate) struct Thinking {
    marks: &'static Marks,
    /// Special tokens among the marks. Detokenizing hides such tokens.
    pub(crate) tokens: Vec<(u32, &'static str)>,
}

impl Thinking {
    /// How a model with this tokenizer and chat template marks its thoughts, if it does.
    pub(crate) fn of(tokenizer: &Tokenizer, template: Option<&str>) -> Option<Self> {
        let added = tokenizer.get_added_tokens_decoder();
        let known =
            |text: &str| tokenizer.token_to_id(text).is_some_and(|id| added.contains_key(&id));
        let written = |marks: &&Marks| {
            template.is_some_and(|template| template.contains(marks.closer))
                || (known(marks.opener) && known(marks.closer))
        };
        let marks = MARKS.iter().find(written)?;
        let special = |text: &'static str| {
            let id = tokenizer.token_to_id(text)?;
            added.get(&id).filter(|token| token.special).map(|_| (id, text))
        };
        let tokens = [marks.opener, marks.closer].into_iter().filter_map(special).collect();
        Some(Self { marks, tokens })
    }

    /// How thoughts are told of an output that follows `prompt`; in the middle of a message, if it goes on with one.
    pub(crate) fn after(&self, prompt: &str, goes_on: bool) -> Reasoning {
        let Marks { opener, closer } = self.marks;
        let Some(opened) = prompt.rfind(opener) else { return Reasoning::Apart };
        let thoughts = &prompt[opened + opener.len()..];
        // Whoever writes of marks in a message has not begun to think.
        let begun = !thoughts.contains(closer) && (goes_on || thoughts.trim().is_empty());
        if begun { Reasoning::Begun } else { Reasoning::Apart }
    }

    /// A reader of an output, if its thoughts are told apart.
    pub(crate) fn parser(&self, reasoning: Reasoning) -> Option<ReasoningParser> {
        let begun = match reasoning {
            Reasoning::AsText => return None,
            Reasoning::Apart => false,
            Reasoning::Begun => true,
        };
        Some(ReasoningParser {
            marks: self.marks,
            state: State::Start { begun },
            held: String::new(),
            position: 0,
            begins_at: 0,
            silent: true,
            undecided: VecDeque::new(),
            counted: 0,
        })
    }
}

/// What came to be certain of an output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) reasoning: String,
    pub(crate) content: String,
}

/// Reads one output.
#[derive(Debug)]
pub(crate) struct ReasoningParser {
    marks: &'static Marks,
    state: State,
    /// What came and is not decided yet.
    held: String,
    /// Where `held` begins in the output, in bytes.
    position: usize,
    /// Where thoughts begin.
    begins_at: usize,
    /// No thought has come yet.
    silent: bool,
    /// Where tokens begin of which it is not certain what they are.
    undecided: VecDeque<usize>,
    counted: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come yet.
    Start {
        begun: bool,
    },
    Inside,
    /// Thoughts have ended.
    Between,
    Answer,
}

impl ReasoningParser {
    /// A token comes whose text begins at this byte of the output.
    pub(crate) fn note(&mut self, begins_at: usize) {
        if !matches!(self.state, State::Between | State::Answer) {
            self.undecided.push_back(begins_at);
        }
    }

    /// Tokens of thoughts so far; marks are none.
    pub(crate) fn tokens(&self) -> u32 {
        let inside = matches!(self.state, State::Inside | State::Start { begun: true });
        let more = self.undecided.iter().filter(|at| inside && **at >= self.begins_at).count();
        self.counted + more as u32
    }

    /// What `text` makes certain.
    pub(crate) fn push(&mut self, text: &str) -> Split {
        self.held.push_str(text);
        let mut split = Split::default();
        while self.advance(&mut split) {}
        split
    }

    /// What is left when no more text comes.
    pub(crate) fn finish(&mut self) -> Split {
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Start { begun: true } | State::Inside => {
                Split { reasoning: rest, content: String::new() }
            }
            State::Start { begun: false } => Split { reasoning: String::new(), content: rest },
            State::Between | State::Answer => Split::default(),
        }
    }

    /// Decides about some of what is held; `false` if more must come first.
    fn advance(&mut self, split: &mut Split) -> bool {
        match self.state {
            State::Start { begun } => self.start(begun),
            State::Inside => self.think(split),
            State::Between => {
                self.skip_blanks();
                let more = !self.held.is_empty();
                if more {
                    self.state = State::Answer;
                }
                more
            }
            State::Answer => {
                split.content.push_str(&self.take(self.held.len()));
                false
            }
        }
    }

    fn start(&mut self, begun: bool) -> bool {
        let opener = self.marks.opener;
        let text = self.held.trim_start();
        if opener.starts_with(text) && text.len() < opener.len() {
            return false;
        }
        if text.starts_with(opener) {
            let mark = self.held.len() - text.len() + opener.len();
            self.take(mark);
            self.begins_at = self.position;
            while self.undecided.front().is_some_and(|at| *at < self.begins_at) {
                self.undecided.pop_front();
            }
            self.state = State::Inside;
        } else {
            self.state = if begun { State::Inside } else { State::Answer };
        }
        true
    }

    fn think(&mut self, split: &mut Split) -> bool {
        if self.silent {
            self.skip_blanks();
        }
        let closer = self.marks.closer;
        let found = self.held.find(closer);
        let end = found.unwrap_or_else(|| self.held.len() - overlap(&self.held, closer));
        let certain = self.held[..end].trim_end().len();
        self.silent &= certain == 0;
        split.reasoning.push_str(&self.take(certain));
        let ends_at = self.position + end - certain;
        let decided = if found.is_some() { ends_at } else { self.position };
        while self.undecided.front().is_some_and(|at| *at < decided) {
            self.undecided.pop_front();
            self.counted += 1;
        }
        if found.is_some() {
            self.undecided.clear();
            self.take(end - certain + closer.len());
            self.state = State::Between;
        }
        found.is_some()
    }

    fn skip_blanks(&mut self) {
        let blanks = self.held.len() - self.held.trim_start().len();
        self.take(blanks);
    }

    /// The first bytes of what is held.
    fn take(&mut self, bytes: usize) -> String {
        self.position += bytes;
        self.held.drain(..bytes).collect()
    }
}

#[cfg(test)]
mod tests;
