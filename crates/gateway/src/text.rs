//! Text to tokens and back, for one model.
//!
//! The gateway counts prompts exactly before they are admitted, so tokenizer and chat template
//! live here, and come from the worker that serves the model: the two cannot disagree.

mod detokenizer;
mod literal;
pub(crate) mod template;

use domain::{ErrorKind, ModelFiles};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::call::Prompt;
use crate::failure::Failure;
pub(crate) use crate::text::detokenizer::Detokenizer;
use crate::text::literal::{Literals, Marked};
use crate::text::template::ChatTemplate;
use crate::tools::Voice;

/// Tokenizer and chat template of one model.
pub(crate) struct ModelText {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// How it writes that it calls a function.
    voice: Voice,
    /// Token texts spell bytes in letters that can be shown.
    spells_bytes: bool,
    /// Bytes of the longest token: a text of `n` bytes has at least `n` divided by this tokens.
    longest_token: usize,
    /// Texts that are control tokens where the template writes them, and letters where anybody else does.
    literals: Literals,
}

/// The model's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextError {
    #[error("read tokenizer: {0}")]
    Tokenizer(String),
    #[error("read chat template")]
    Template(#[source] minijinja::Error),
}

impl ModelText {
    /// The text of a model whose turns `stop_tokens` end.
    pub(crate) fn new(files: &ModelFiles, stop_tokens: &[u32]) -> Result<Self, TextError> {
        let unreadable = |error: tokenizers::Error| TextError::Tokenizer(error.to_string());
        let mut tokenizer = Tokenizer::from_bytes(&files.tokenizer).map_err(unreadable)?;
        // Files of models that embed often say to cut or fill up every text; neither would be what was sent.
        tokenizer.with_truncation(None).map_err(unreadable)?.with_padding(None);
        let template = files.chat_template.as_deref();
        let voice = Voice::of(&tokenizer, template);
        let template = template.map(ChatTemplate::new).transpose().map_err(TextError::Template)?;
        let template = template.map(|mut template| {
            let text = |id: &u32| tokenizer.id_to_token(*id).unwrap_or_default();
            // What the tokenizer itself puts before any text is what prompts begin with.
            let empty = tokenizer.encode_fast("", true);
            let first = empty.ok().and_then(|empty| empty.get_ids().first().copied());
            template.bos_token = first.as_ref().map(text).unwrap_or_default();
            template.eos_token = stop_tokens.first().map(text).unwrap_or_default();
            template
        });
        let decoder = tokenizer.get_decoder().and_then(|it| serde_json::to_string(it).ok());
        let spells_bytes = decoder.is_some_and(|decoder| decoder.contains("ByteLevel"));
        let longest_token = tokenizer.get_vocab(true).keys().map(String::len).max().unwrap_or(1);
        let literals = Literals::of(&tokenizer);
        Ok(Self { tokenizer, template, voice, spells_bytes, longest_token, literals })
    }

    /// The tokens of `prompt`; refuses early what cannot fit in `context_length` tokens.
    pub(crate) fn encode(&self, prompt: &Prompt, context_length: u32) -> Result<Vec<u32>, Failure> {
        let (text, mark, add_special_tokens) = match prompt {
            Prompt::Tokens(ids) => return Ok(ids.clone()),
            Prompt::Text(text) => (text.clone(), None, true),
            Prompt::Chat { messages, tools } => match self.literals.mark(messages, tools)? {
                None => (self.render(messages, tools)?, None, false),
                Some(Marked { messages, tools, mark }) => {
                    (self.render(&messages, &tools)?, Some(mark), false)
                }
            },
        };
        if text.len() / self.longest_token > context_length as usize {
            let message = format!(
                "this model's maximum context length is {context_length} tokens, and the prompt has {} bytes; shorten it",
                text.len()
            );
            let failure = Failure::of(ErrorKind::ContextLengthExceeded, message);
            return Err(failure.blaming(prompt.field()));
        }
        let Some(mark) = mark else { return self.ids(&text, add_special_tokens) };
        let pieces = text.split(mark).map(|piece| self.ids(piece, add_special_tokens));
        let pieces: Vec<Vec<u32>> = pieces.collect::<Result<_, _>>()?;
        Ok(pieces.concat())
    }

    /// The tokens of a whole text, with what the model's tokenizer puts around texts.
    pub(crate) fn tokens_of(&self, text: &str) -> Result<Vec<u32>, Failure> {
        self.ids(text, true)
    }

    fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, Failure> {
        let encoding = self.tokenizer.encode_fast(text, add_special_tokens);
        let encoding = encoding.map_err(|error| Failure::internal(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// How the model writes that it calls a function.
    pub(crate) const fn voice(&self) -> &Voice {
        &self.voice
    }

    /// The bytes that a token stands for; they need not be whole characters.
    pub(crate) fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(text) = self.tokenizer.id_to_token(id) else { return Vec::new() };
        if self.tokenizer.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            return text.into_bytes();
        }
        if self.spells_bytes {
            let bytes: Option<Vec<u8>> = text.chars().map(spelled_byte).collect();
            return bytes.unwrap_or_else(|| text.into_bytes());
        }
        match fallback_byte(&text) {
            Some(byte) => vec![byte],
            None => text.replace('\u{2581}', " ").into_bytes(),
        }
    }

    /// The bytes that a token adds to a text, whatever stands before it; `None` if that matters.
    fn own_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let Some(text) = self.tokenizer.id_to_token(id) else { return Some(Vec::new()) };
        let added = self.tokenizer.get_added_vocabulary();
        if added.is_special_token(&text) {
            return Some(Vec::new());
        }
        if self.spells_bytes {
            return Some(self.token_bytes(id));
        }
        if added.get_added_tokens_decoder().contains_key(&id) {
            return None;
        }
        fallback_byte(&text).map(|byte| vec![byte])
    }

    fn render(&self, messages: &[Value], tools: &[Value]) -> Result<String, Failure> {
        let Some(template) = &self.template else {
            let message = "this model has no chat template; use /v1/completions";
            return Err(Failure::invalid("messages", message));
        };
        template.render(messages, tools, &self.voice).map_err(|error| {
            // Templates refuse conversations they cannot express by raising an exception.
            let reason = error.detail().unwrap_or("it does not fit the model's chat template");
            Failure::invalid("messages", format!("`messages` cannot be used: {reason}"))
        })
    }

    fn decode(&self, ids: &[u32]) -> String {
        // Only ids from a vocabulary that the tokenizer knows reach this; others decode to nothing.
        self.tokenizer.decode(ids, true).unwrap_or_default()
    }
}

/// The byte that a token of a tokenizer with words of text stands for, if it is no word.
fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

/// The byte that byte-level tokenizers write as `letter`: printable bytes as themselves, the others, in order, as
/// the letters from U+0100 on.
fn spelled_byte(letter: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = u32::from(letter);
    match u8::try_from(code) {
        Ok(byte) => printable(byte).then_some(byte),
        Err(_) => (0..=u8::MAX).filter(|byte| !printable(*byte)).nth(code as usize - 0x100),
    }
}

/// Finds stop strings in text that comes in pieces, and holds back what might become one.
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

/// What [`StopStrings::push`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    /// This much can be shown.
    Text(String),
    /// This much can be shown, and then the answer ends.
    Stopped(String),
}

impl StopStrings {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Scanned {
        self.held.push_str(text);
        if let Some(at) = first_stop(&self.held, &self.stops) {
            self.held.truncate(at);
            return Scanned::Stopped(std::mem::take(&mut self.held));
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Scanned::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where the stop string begins that is complete first; of several that end together, the longest.
///
/// First complete, not first begun: a stream ends as soon as it may, so the end must not depend on text
/// that has not come yet.
fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    let found = stops.iter().filter_map(|stop| Some((text.find(stop.as_str())?, stop.len())));
    found.map(|(at, bytes)| (at + bytes, at)).min().map(|(_, at)| at)
}

/// Bytes of the longest end of `text` that is a beginning of `stop`.
pub(crate) fn overlap(text: &str, stop: &str) -> usize {
    let longest = stop.len().saturating_sub(1).min(text.len());
    (1..=longest)
        .rev()
        .find(|&bytes| text.as_bytes()[text.len() - bytes..] == stop.as_bytes()[..bytes])
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_tokens_are_the_bytes_of_their_text() {
        let tokenizer = include_bytes!("../../engine/demo-model/tokenizer.json");
        let files = ModelFiles { tokenizer: tokenizer[..].into(), chat_template: None };
        let text = ModelText::new(&files, &[]).unwrap();
        let written = "K\u{f6}ln \u{1f642}\n\t<tool_call> \u{4e2d}";
        let prompt = Prompt::Text(written.to_owned());
        let ids = text.encode(&prompt, 1000).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| text.token_bytes(*id)).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), written);
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        let mut stops = StopStrings::new(&["END".to_owned()]);
        assert_eq!(stops.push("abcE"), Scanned::Text("abc".to_owned()));
        assert_eq!(stops.push("N"), Scanned::Text(String::new()));
        assert_eq!(stops.push("Dxyz"), Scanned::Stopped(String::new()));
    }

    #[test]
    fn the_stop_string_that_is_complete_first_ends_the_text() {
        let stops = ["b".to_owned(), "abb".to_owned()];
        assert_eq!(StopStrings::new(&stops).push("abb"), Scanned::Stopped("a".to_owned()));
        let stops = ["b".to_owned(), "ab".to_owned()];
        assert_eq!(StopStrings::new(&stops).push("xab"), Scanned::Stopped("x".to_owned()));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_is_shown() {
        let mut stops = StopStrings::new(&["END".to_owned()]);
        assert_eq!(stops.push("EN"), Scanned::Text(String::new()));
        assert_eq!(stops.push("ENT"), Scanned::Text("ENENT".to_owned()));
        assert_eq!(stops.push("E"), Scanned::Text(String::new()));
        assert_eq!(stops.finish(), "E");
    }

    proptest! {
        #[test]
        fn however_text_is_cut_the_same_is_shown(
            text in "[ab\u{e9}]{0,30}",
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..3),
            cuts in prop::collection::vec(0_usize..30, 0..6),
        ) {
            let complete_at = |end: &usize| {
                let so_far = text.get(..*end)?;
                let ended = stops.iter().filter(|stop| so_far.ends_with(stop.as_str()));
                ended.map(String::len).max().map(|bytes| so_far[..end - bytes].to_owned())
            };
            let expected = (0..=text.len()).find_map(|end| complete_at(&end));
            let expected = expected.unwrap_or_else(|| text.clone());
            let mut scanner = StopStrings::new(&stops);
            let mut shown = String::new();
            let mut stopped = false;
            for piece in pieces(&text, &cuts) {
                if stopped { break }
                match scanner.push(&piece) {
                    Scanned::Text(text) => shown.push_str(&text),
                    Scanned::Stopped(text) => { shown.push_str(&text); stopped = true; }
                }
            }
            if !stopped { shown.push_str(&scanner.finish()); }
            prop_assert_eq!(shown, expected);
        }
    }

    fn pieces(text: &str, cuts: &[usize]) -> Vec<String> {
        let characters: Vec<char> = text.chars().collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (characters.len() + 1)).collect();
        at.extend([0, characters.len()]);
        at.sort_unstable();
        at.windows(2).map(|pair| characters[pair[0]..pair[1]].iter().collect()).collect()
    }
}
