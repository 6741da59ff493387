//! One choice as it forms: tokens in, what may be shown out.
//!
//! Text is held back while it might become a stop string, a character, a mark of thoughts or a call of a function. What is told of a
//! token is held back with the token's text, and is not told where a stop string swallowed it.

use std::collections::VecDeque;
use std::sync::Arc;

use cache::CachedAnswer;
use domain::{FinishReason, Logprobs, OutputRules};

use super::Exchange;
use crate::endpoints::{CallPiece, Delta, FunctionCall, TokenTold, Told};
use crate::reasoning::{ReasoningParser, Split};
use crate::text::{Detokenizer, ModelText, Scanned, StopStrings};
use crate::tools::{Part, ToolParser};

/// One choice of an answer.
pub(super) struct Output {
    model: Arc<ModelText>,
    detokenizer: Detokenizer,
    stops: StopStrings,
    /// Tokens in whose text no stop string may end.
    min_tokens: u32,
    bytes_so_far: usize,
    thinking: Option<ReasoningParser>,
    tools: Option<ToolParser>,
    tokens: Option<TokenLog>,
    /// All that was shown, before calls were told from content.
    raw: String,
    told: Told,
    stopped: bool,
    /// A stop string was met within a call.
    call_is_cut: bool,
    /// Tokens that it took in: all up to the one that completed it.
    taken: u32,
}

/// What is told of tokens whose text is not shown yet.
#[derive(Default)]
struct TokenLog {
    waiting: VecDeque<Waiting>,
    /// Bytes and characters of text that tokens came to, shown or not.
    bytes: usize,
    characters: usize,
}

struct Waiting {
    told: TokenTold,
    /// Where its text begins and ends, in bytes; it ends where the text of a later token begins if it is not a
    /// character by itself.
    start: usize,
    end: Option<usize>,
}

impl Output {
    pub(super) fn new(exchange: &Exchange) -> Self {
        let model = Arc::clone(&exchange.model.text);
        let voice = model.voice();
        let tools = exchange.tools.as_ref().map(|tools| ToolParser::new(tools, voice));
        let visible = if tools.is_some() { voice.tokens.as_slice() } else { &[] };
        let OutputRules { min_tokens, text, .. } = exchange.job.output();
        let thinks = model.thinking();
        let thinking = thinks.and_then(|thinks| thinks.parser(text.reasoning));
        let marks = thinks.filter(|_| thinking.is_some()).map(|thinks| thinks.tokens.as_slice());
        let detokenizer = Detokenizer::new(Arc::clone(&model)).showing(visible);
        let tells_tokens = exchange.job.output().logprobs.is_some();
        Self {
            detokenizer: detokenizer
                .showing(marks.unwrap_or_default())
                .showing_special(text.special_tokens),
            stops: StopStrings::new(exchange.job.stop()).showing(text.stop_string),
            min_tokens: *min_tokens,
            bytes_so_far: 0,
            thinking,
            tools,
            tokens: tells_tokens.then(TokenLog::default),
            raw: String::new(),
            told: Told { tells_tokens, ..Told::default() },
            stopped: false,
            call_is_cut: false,
            taken: 0,
            model,
        }
    }

    /// How many tokens it is complete with, if it is to end there, whatever the model would say.
    pub(super) fn is_complete_with(&self) -> Option<u32> {
        self.stopped.then_some(self.taken)
    }

    /// Takes in new tokens.
    pub(super) fn push(&mut self, ids: &[u32], logprobs: &[Logprobs]) -> Delta {
        let mut delta = Delta::default();
        for (at, id) in ids.iter().enumerate() {
            if self.stopped {
                break;
            }
            if let Some(thinking) = &mut self.thinking {
                thinking.note(self.bytes_so_far);
            }
            self.taken += 1;
            let fresh = self.detokenizer.push(&[*id]);
            self.bytes_so_far += fresh.len();
            if let Some(log) = &mut self.tokens {
                log.push(&self.model, *id, logprobs.get(at), &fresh);
            }
            let scanned = self.scan(&fresh);
            self.show(scanned, &mut delta);
        }
        delta
    }

    /// What is left when no more tokens come, for the reason `finish`.
    pub(super) fn finish(&mut self, finish: FinishReason) -> Delta {
        let mut delta = Delta::default();
        if !self.stopped {
            let rest = self.detokenizer.finish();
            let scanned = self.scan(&rest);
            self.show(scanned, &mut delta);
        }
        if !self.stopped {
            let held = self.stops.finish();
            self.show(Scanned::Text(held), &mut delta);
        }
        if let Some(thinking) = &mut self.thinking {
            let rest = thinking.finish();
            self.told.reasoning_tokens = thinking.tokens();
            self.think(&rest, &mut delta);
        }
        if let Some(tools) = &mut self.tools {
            let parts = tools.finish();
            self.take_in(parts, &mut delta);
        }
        if let (Some(log), false) = (&mut self.tokens, self.stopped) {
            let rest: Vec<TokenTold> = log.waiting.drain(..).map(|waiting| waiting.told).collect();
            self.told.tokens.extend(rest.iter().cloned());
            delta.tokens.extend(rest);
        }
        if self.call_is_cut {
            // Half a call is none. A stream has told of it by now, and its end says that it is not whole.
            self.told.calls.pop();
            self.told.call_is_cut = true;
        }
        // A stop string may be met in the very last token.
        self.told.finish = if self.stopped { FinishReason::Stop } else { finish };
        delta
    }

    /// All of a choice that was kept.
    pub(super) fn kept(&mut self, answer: &CachedAnswer) -> Delta {
        let mut delta = Delta::default();
        self.show(Scanned::Text(answer.text.clone()), &mut delta);
        let rest = self.finish(answer.finish);
        delta.extend(rest);
        // Its text does not tell how many tokens it was.
        self.told.reasoning_tokens = answer.reasoning_tokens;
        delta
    }

    /// What came of it so far.
    pub(super) const fn told(&self) -> &Told {
        &self.told
    }

    /// All of it, as the client has it, and before calls were told from content.
    pub(super) fn into_told(self) -> (Told, String) {
        (self.told, self.raw)
    }

    fn show(&mut self, scanned: Scanned, delta: &mut Delta) {
        let text = match scanned {
            Scanned::Text(text) => text,
            Scanned::Stopped(text) => {
                self.stopped = true;
                text
            }
        };
        self.raw.push_str(&text);
        if let Some(log) = &mut self.tokens {
            let tokens = log.shown(self.raw.len(), self.stopped);
            self.told.tokens.extend(tokens.iter().cloned());
            delta.tokens.extend(tokens);
        }
        match &mut self.thinking {
            Some(thinking) => {
                let split = thinking.push(&text);
                self.think(&split, delta);
            }
            None => self.say(&text, delta),
        }
    }

    /// Looks for stop strings in text that the latest token made certain.
    fn scan(&mut self, text: &str) -> Scanned {
        if self.taken > self.min_tokens {
            return self.stops.push(text);
        }
        Scanned::Text(self.stops.pass(text))
    }

    /// Takes in what was told apart of thoughts and answer.
    fn think(&mut self, split: &Split, delta: &mut Delta) {
        self.told.reasoning.push_str(&split.reasoning);
        delta.reasoning.push_str(&split.reasoning);
        if !split.content.is_empty() {
            self.say(&split.content, delta);
        }
    }

    /// Takes in more of the answer.
    fn say(&mut self, text: &str, delta: &mut Delta) {
        let Some(tools) = &mut self.tools else {
            self.told.content.push_str(text);
            delta.content.push_str(text);
            return;
        };
        let parts = tools.push(text);
        self.call_is_cut |= self.stopped && tools.is_within_call();
        self.stopped |= tools.is_complete();
        self.take_in(parts, delta);
    }

    fn take_in(&mut self, parts: Vec<Part>, delta: &mut Delta) {
        for part in parts {
            match part {
                Part::Text(text) => {
                    self.told.content.push_str(&text);
                    delta.content.push_str(&text);
                }
                Part::Call { index, name } => {
                    self.told
                        .calls
                        .push(FunctionCall { name: name.clone(), arguments: String::new() });
                    delta.add_call(CallPiece { index, name: Some(name), arguments: String::new() });
                }
                Part::Arguments { index, text } => {
                    self.told.calls[index].arguments.push_str(&text);
                    delta.add_call(CallPiece { index, name: None, arguments: text });
                }
            }
        }
    }
}

impl TokenLog {
    /// A token came, and `fresh` is the text that it made certain.
    fn push(&mut self, model: &ModelText, id: u32, logprobs: Option<&Logprobs>, fresh: &str) {
        let named = |(id, logprob): &(u32, f32)| (model.token_bytes(*id), *logprob);
        let told = TokenTold {
            bytes: model.token_bytes(id),
            logprob: logprobs.map(|told| told.logprob),
            top: logprobs.map(|told| told.top.iter().map(named).collect()).unwrap_or_default(),
            offset: self.characters,
        };
        let start = self.bytes;
        self.waiting.push_back(Waiting { told, start, end: None });
        if fresh.is_empty() {
            return;
        }
        self.bytes += fresh.len();
        self.characters += fresh.chars().count();
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.end.is_none()) {
            waiting.end = Some(self.bytes);
        }
    }

    /// The tokens of the first `shown` bytes that were not told of before. After the `last` of them come
    /// those of a stop string.
    fn shown(&mut self, shown: usize, last: bool) -> Vec<TokenTold> {
        let mut told = Vec::new();
        while let Some(first) = self.waiting.front() {
            let complete = first.end.is_some_and(|end| end <= shown);
            if !complete && (!last || first.start >= shown) {
                break;
            }
            told.extend(self.waiting.pop_front().map(|waiting| waiting.told));
        }
        if last {
            self.waiting.clear();
        }
        told
    }
}
