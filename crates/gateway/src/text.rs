//! Text to tokens and back, for one model.
//!
//! The gateway counts prompts exactly before they are admitted, so tokenizer and chat template
//! live here, and come from the worker that serves the model: the two cannot disagree.

mod detokenizer;
mod literal;
pub(crate) mod template;
mod variables;

use std::collections::HashMap;
use std::ops::Range;

use domain::{ErrorKind, ModelFiles, Reasoning};
use tokenizers::Tokenizer;

use crate::call::{Conversation, Prompt, PromptEnd};
use crate::failure::Failure;
use crate::reasoning::Thinking;
pub(crate) use crate::text::detokenizer::Detokenizer;
use crate::text::literal::Literals;
use crate::text::template::ChatTemplate;
use crate::tools::Voice;

/// Tokenizer and chat template of one model.
pub(crate) struct ModelText {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// How it writes that it calls a function.
    voice: Voice,
    /// How it marks what it thinks, if it does.
    thinking: Option<Thinking>,
    /// The texts of special tokens.
    special: HashMap<u32, String>,
    /// Token texts spell bytes in letters that can be shown.
    spells_bytes: bool,
    /// Bytes of the longest token: a text of `n` bytes has at least `n` divided by this tokens.
    longest_token: usize,
    /// Texts that are control tokens where the template writes them, and letters where anybody else does.
    literals: Literals,
}

/// A prompt in tokens.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) ids: Vec<u32>,
    /// How the output behind it is told.
    pub(crate) reasoning: Reasoning,
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
        let thinking = Thinking::of(&tokenizer, template);
        let added = tokenizer.get_added_tokens_decoder().into_iter();
        let special = added.filter(|(_, token)| token.special);
        let special = special.map(|(id, token)| (id, token.content)).collect();
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
        Ok(Self {
            tokenizer,
            template,
            voice,
            thinking,
            special,
            spells_bytes,
            longest_token,
            literals,
        })
    }

    /// The tokens of `prompt`, with what the tokenizer puts around texts if `special_tokens` says so; refuses early
    /// what cannot fit in `context_length` tokens.
    pub(crate) fn encode(
        &self,
        prompt: &Prompt,
        special_tokens: Option<bool>,
        context_length: u32,
    ) -> Result<Encoded, Failure> {
        let mut reasoning = Reasoning::AsText;
        let (text, mark, is_usual) = match prompt {
            Prompt::Tokens(ids) => return Ok(Encoded { ids: ids.clone(), reasoning }),
            Prompt::Text(text) => (text.clone(), None, true),
            Prompt::Chat(conversation) => {
                let marked = self.literals.mark(conversation)?;
                let text = self.render(marked.as_ref().map_or(conversation, |(it, _)| it))?;
                let goes_on = conversation.ending == PromptEnd::Open;
                if let Some(thinking) = &self.thinking {
                    reasoning = thinking.after(&text, goes_on);
                }
                (text, marked.map(|(_, mark)| mark), false)
            }
        };
        let add_special_tokens = special_tokens.unwrap_or(is_usual);
        if text.len() / self.longest_token > context_length as usize {
            let message = format!(
                "this model's maximum context length is {context_length} tokens, and the prompt has {} bytes; shorten it",
                text.len()
            );
            let failure = Failure::of(ErrorKind::ContextLengthExceeded, message);
            return Err(failure.blaming(prompt.field()));
        }
        let ids = match mark {
            None => self.ids(&text, add_special_tokens)?,
            Some(mark) => {
                let piece =
                    |(at, piece): (usize, &str)| self.ids(piece, add_special_tokens && at == 0);
                let pieces = text.split(mark).enumerate().map(piece);
                pieces.collect::<Result<Vec<Vec<u32>>, _>>()?.concat()
            }
        };
        Ok(Encoded { ids, reasoning })
    }

    /// The runs of tokens that write `word` where it begins a text, and behind a space.
    pub(crate) fn runs_of(&self, word: &str) -> Result<Vec<Vec<u32>>, Failure> {
        let (alone, spaced) = (self.ids(word, false)?, self.ids(&format!(" {word}"), false)?);
        // A space that is a token of its own is part of no word.
        let differs = spaced.len() == alone.len() && spaced.first() != alone.first();
        let runs = [Some(alone), differs.then_some(spaced)].into_iter().flatten();
        Ok(runs.filter(|run| !run.is_empty()).collect())
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

    /// How the model marks what it thinks, if it does.
    pub(crate) const fn thinking(&self) -> Option<&Thinking> {
        self.thinking.as_ref()
    }

    /// The text of a prompt's tokens.
    pub(crate) fn text_of(&self, ids: &[u32]) -> String {
        self.decode(ids)
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

    fn render(&self, conversation: &Conversation) -> Result<String, Failure> {
        let Some(template) = &self.template else {
            let message = "this model has no chat template; use /v1/completions";
            return Err(Failure::invalid("messages", message));
        };
        let variables = variables::variables(template, conversation, self.thinking.is_some())?;
        template.render(conversation, &variables, &self.voice).map_err(|error| {
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
    /// Bytes of `held` in which none may end.
    passed: usize,
    /// The one that is found is shown.
    shown: bool,
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
        Self { stops: stops.to_vec(), held: String::new(), passed: 0, shown: false }
    }

    /// The same, showing the one that is found, if `shown` says so.
    pub(crate) const fn showing(mut self, shown: bool) -> Self {
        self.shown = shown;
        self
    }

    pub(crate) fn push(&mut self, text: &str) -> Scanned {
        self.held.push_str(text);
        if let Some(found) = first_stop(&self.held, &self.stops, self.passed) {
            self.held.truncate(if self.shown { found.end } else { found.start });
            return Scanned::Stopped(std::mem::take(&mut self.held));
        }
        Scanned::Text(self.certain())
    }

    /// Takes text in whose middle none may end yet; what can be shown.
    pub(crate) fn pass(&mut self, text: &str) -> String {
        self.held.push_str(text);
        self.passed = self.held.len();
        self.certain()
    }

    /// What cannot become one any more.
    fn certain(&mut self) -> String {
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        self.passed = self.passed.saturating_sub(self.held.len());
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Where the stop string is that is complete first, of those that end behind `passed` bytes; of several that end
/// together, the longest.
///
/// First complete, not first begun: a stream ends as soon as it may, so the end must not depend on text
/// that has not come yet.
fn first_stop(text: &str, stops: &[String], passed: usize) -> Option<Range<usize>> {
    let found = stops.iter().filter_map(|stop| {
        let from = text.ceil_char_boundary((passed + 1).saturating_sub(stop.len()));
        let at = from + text.get(from..)?.find(stop.as_str())?;
        Some((at + stop.len(), at))
    });
    found.min().map(|(end, start)| start..end)
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
        let ids = text.encode(&prompt, None, 1000).unwrap().ids;
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

    proptest! {
        #[test]
        fn a_stop_string_ends_the_text_only_behind_what_passed(
            text in "[ab]{0,24}",
            stops in prop::collection::vec("[ab]{1,4}", 1..3),
            cuts in prop::collection::vec(0_usize..24, 0..6),
            passing in 0_usize..4,
            shown: bool,
        ) {
            let pieces = pieces(&text, &cuts);
            let passed: usize = pieces.iter().take(passing).map(String::len).sum();
            let complete_at = |end: &usize| {
                let ended = stops.iter().filter(|stop| text[..*end].ends_with(stop.as_str()));
                let bytes = ended.map(String::len).max()?;
                Some(text[..if shown { *end } else { end - bytes }].to_owned())
            };
            let expected = (passed + 1..=text.len()).find_map(|end| complete_at(&end));
            let mut scanner = StopStrings::new(&stops).showing(shown);
            let (mut told, mut stopped) = (String::new(), false);
            for (at, piece) in pieces.iter().enumerate() {
                if at < passing {
                    told.push_str(&scanner.pass(piece));
                    continue;
                }
                match scanner.push(piece) {
                    Scanned::Text(text) => told.push_str(&text),
                    Scanned::Stopped(text) => { told.push_str(&text); stopped = true; }
                }
                if stopped { break }
            }
            if !stopped { told.push_str(&scanner.finish()); }
            prop_assert_eq!(told, expected.unwrap_or_else(|| text.clone()));
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
