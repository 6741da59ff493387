//! Tokens to text as they come.
//!
//! Promise: what comes out is the text of all tokens, and nothing of it waits but the beginning of a character whose
//! rest has not come. Bytes that are no character are shown as U+FFFD, each as soon as it is certain; what was said
//! to be U+FFFD is a character like any other.

use std::sync::Arc;

use super::ModelText;

/// Turns tokens into text as they come, and never shows half a character.
///
/// Most tokens are bytes, wherever they stand. Others are words, and some tokenizers decide about spaces by looking at
/// the token before: there a window of earlier tokens is decoded again with each new one, and what is new in it is
/// the text to show.
pub(crate) struct Detokenizer {
    text: Arc<ModelText>,
    /// Bytes of a character that is not whole yet.
    tail: Vec<u8>,
    window: Vec<u32>,
    /// Tokens of the window whose text was shown.
    shown: usize,
    /// Special tokens that are to be seen.
    visible: Vec<(u32, &'static str)>,
    /// All of them are.
    shows_special: bool,
}

impl Detokenizer {
    pub(crate) const fn new(text: Arc<ModelText>) -> Self {
        Self {
            text,
            tail: Vec::new(),
            window: Vec::new(),
            shown: 0,
            visible: Vec::new(),
            shows_special: false,
        }
    }

    /// The same, showing these special tokens as text. Others have none.
    pub(crate) fn showing(mut self, tokens: &[(u32, &'static str)]) -> Self {
        self.visible.extend_from_slice(tokens);
        self
    }

    /// The same, showing every special token as text, if `all` says so.
    pub(crate) const fn showing_special(mut self, all: bool) -> Self {
        self.shows_special = all;
        self
    }

    /// The text that `ids` add.
    pub(crate) fn push(&mut self, ids: &[u32]) -> String {
        let mut fresh = String::new();
        for id in ids {
            if let Some(text) = self.shown_text(*id) {
                fresh.push_str(&self.finish());
                fresh.push_str(&text);
                (self.window, self.shown) = (Vec::new(), 0);
            } else if let Some(bytes) = self.text.own_bytes(*id) {
                if bytes.is_empty() {
                    continue;
                }
                fresh.push_str(&self.whole_characters(&bytes));
                // A word that follows is not the first one.
                (self.window, self.shown) = (vec![*id], 1);
            } else {
                fresh.push_str(&self.finish());
                self.window.push(*id);
                fresh.push_str(&self.words());
            }
        }
        fresh
    }

    /// The text of a special token that is to be seen.
    fn shown_text(&self, id: u32) -> Option<String> {
        let shown = self.visible.iter().find(|(visible, _)| *visible == id);
        let all = || self.text.special.get(&id).filter(|_| self.shows_special).cloned();
        shown.map(|(_, text)| (*text).to_owned()).or_else(all)
    }

    /// What is left when no more tokens come.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.tail)).into_owned()
    }

    /// The text that `bytes` complete.
    fn whole_characters(&mut self, bytes: &[u8]) -> String {
        self.tail.extend_from_slice(bytes);
        let unfinished = self.tail.split_off(self.tail.len() - unfinished(&self.tail));
        let whole = std::mem::replace(&mut self.tail, unfinished);
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// The new text of the window.
    fn words(&mut self) -> String {
        let before = self.text.decode(&self.window[..self.shown]);
        let now = self.text.decode(&self.window);
        if now.len() <= before.len() {
            return String::new();
        }
        let fresh = now.get(before.len()..).unwrap_or_default().to_owned();
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        fresh
    }
}

/// How many bytes at the end of `bytes` begin a character that more bytes could complete.
fn unfinished(bytes: &[u8]) -> usize {
    let could_go_on = |count: &usize| {
        let end = std::str::from_utf8(&bytes[bytes.len() - count..]);
        end.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    (1..=bytes.len().min(LONGEST_BEGINNING)).find(could_go_on).unwrap_or(0)
}

/// A character has at most four bytes.
const LONGEST_BEGINNING: usize = 3;

#[cfg(test)]
mod tests {
    use domain::ModelFiles;
    use proptest::prelude::*;

    use super::*;
    use crate::call::Prompt;

    fn demo() -> Arc<ModelText> {
        let tokenizer = include_bytes!("../../../engine/demo-model/tokenizer.json");
        let files = ModelFiles { tokenizer: tokenizer[..].into(), chat_template: None };
        Arc::new(ModelText::new(&files, &[]).unwrap())
    }

    /// A tokenizer with words, and bytes for what has none.
    fn words() -> Arc<ModelText> {
        let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
        let words = ["\u{2581}", "\u{2581}a", "b", "\u{2581}you", "\u{fffd}", "\u{e9}"];
        let texts = ["<unk>".to_owned()].into_iter().chain(bytes).chain(words.map(str::to_owned));
        let vocabulary: Vec<serde_json::Value> =
            texts.map(|text| serde_json::json!([text, 0.0])).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0",
            "added_tokens": [],
            "normalizer": null,
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
            ] },
            "model": { "type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": true },
        });
        let tokenizer = tokenizer.to_string().into_bytes();
        let files = ModelFiles { tokenizer: tokenizer.into(), chat_template: None };
        Arc::new(ModelText::new(&files, &[]).unwrap())
    }

    fn one_by_one(text: &Arc<ModelText>, ids: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(Arc::clone(text));
        let mut pieces: Vec<String> = ids.iter().map(|id| detokenizer.push(&[*id])).collect();
        pieces.push(detokenizer.finish());
        pieces
    }

    fn ids_of(text: &ModelText, written: &str) -> Vec<u32> {
        text.encode(&Prompt::Text(written.to_owned()), None, 10_000).unwrap().ids
    }

    #[test]
    fn characters_that_follow_a_written_replacement_character_are_shown() {
        let text = demo();
        for written in [
            "\u{fffd}\u{fffd}\u{65e5}\u{672c}\u{8a9e}",
            "\u{fffd}\u{fffd}\u{1f600}",
            "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\u{4e2d}",
        ] {
            assert_eq!(one_by_one(&text, &ids_of(&text, written)).concat(), written);
        }
    }

    #[test]
    fn words_keep_their_spaces_and_bytes_between_them_become_characters() {
        let text = words();
        let id = |byte: u8| u32::from(byte) + 1;
        let (you, b, gap) = (260, 259, 257);
        let ids = [you, id(0xE4), id(0xB8), id(0xAD), gap, id(0xE6), id(0x97), you, b, id(0xFF)];
        let pieces = one_by_one(&text, &ids);
        let shown = ["you", "", "", "\u{4e2d}", " ", "", "", "\u{fffd} you", "b", "\u{fffd}", ""];
        assert_eq!(pieces, shown);
    }

    proptest! {
        #[test]
        fn text_is_the_same_however_its_tokens_come(written in "(\\PC|\u{fffd}|[ -~\n]|\u{65e5}|\u{1f600}){0,40}") {
            let text = demo();
            let ids = ids_of(&text, &written);
            prop_assert_eq!(one_by_one(&text, &ids).concat(), written);
        }

        #[test]
        fn whatever_tokens_come_their_text_is_that_of_all_and_only_half_characters_wait(
            ids in prop::collection::vec(0_u32..4096, 0..60),
        ) {
            let text = demo();
            let pieces = one_by_one(&text, &ids);
            prop_assert_eq!(pieces.concat(), text.decode(&ids));
            let (mut bytes, mut shown) = (Vec::new(), String::new());
            for (id, piece) in ids.iter().zip(&pieces) {
                bytes.extend(text.own_bytes(*id).unwrap());
                shown.push_str(piece);
                let all = String::from_utf8_lossy(&bytes);
                let waits = all.strip_prefix(&shown).unwrap();
                // What waits is one incomplete character, which by itself looks like this.
                prop_assert!(waits.is_empty() || waits == "\u{fffd}", "{:?} waits of {:?}", waits, all);
                let valid = bytes.utf8_chunks().last().is_none_or(|last| last.invalid().is_empty());
                prop_assert!(waits.is_empty() || !valid);
            }
        }
    }
}
