//! A model's tokens as bytes, read from its `tokenizer.json`.
//!
//! Two ways of writing bytes as token names are in use: each byte as a printable character ("byte level", of
//! GPT-2), and text with a mark for spaces and `<0x..>` for single bytes ("byte fallback", of `SentencePiece`).
//! A token whose bytes are not known, and every token that is no text, is never part of a structured output.

use std::collections::HashMap;

use domain::ModelInfo;
use llguidance::toktrie::{INVALID_TOKEN, TokRxInfo, TokTrie, TokenizerEnv};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

/// The tokens of a model in a tree of their bytes, and its way to cut text into them.
pub(super) struct Vocabulary {
    trie: TokTrie,
    tokenizer: Tokenizer,
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    decoder: Value,
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct AddedToken {
    id: usize,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: Names,
}

/// Token names: by name, or in order with their scores.
#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    Map(HashMap<String, usize>),
    List(Vec<(String, f64)>),
}

/// How bytes are written in token names.
enum Spelling {
    ByteLevel(HashMap<char, u8>),
    ByteFallback { space: String },
}

impl Vocabulary {
    /// Reads the tokens of a model, or says why they cannot be read.
    pub(super) fn read(tokenizer_json: &[u8], model: &ModelInfo) -> Result<Self, String> {
        let file: TokenizerFile = serde_json::from_slice(tokenizer_json)
            .map_err(|error| format!("its tokenizer.json is not understood: {error}"))?;
        let words = file.words(model)?;
        let mut tokenizer = Tokenizer::from_bytes(tokenizer_json)
            .map_err(|error| format!("its tokenizer.json is not understood: {error}"))?;
        // What a format spells is text, even if it looks like a special token.
        tokenizer.set_encode_special_tokens(true);
        let end = model.stop_tokens.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(model.vocabulary, end), &words);
        if !model.stop_tokens.is_empty() {
            trie = trie.with_eos_tokens(&model.stop_tokens);
        }
        Ok(Self { trie, tokenizer })
    }

    /// Cuts text into tokens as the model learnt it, as far as that keeps every byte.
    fn cut(&self, text: &str) -> Vec<u32> {
        let cut = self.tokenizer.encode_fast(text, false);
        match cut {
            // Some tokenizers normalize, or put a space in front.
            Ok(cut) if self.trie.decode_raw(cut.get_ids()) == text.as_bytes() => {
                cut.get_ids().to_vec()
            }
            Ok(_) | Err(_) => self.trie.greedy_tokenize(text.as_bytes()),
        }
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.cut(text))
    }
}

impl TokenizerFile {
    /// The bytes of each token of the model; empty for those that are never used.
    fn words(self, model: &ModelInfo) -> Result<Vec<Vec<u8>>, String> {
        let spelling =
            spelling(&self.decoder).ok_or("its tokenizer spells bytes in an unknown way")?;
        let mut words = vec![Vec::new(); model.vocabulary as usize];
        let names: Vec<(String, usize)> = match self.model.vocab {
            Names::Map(names) => names.into_iter().collect(),
            Names::List(names) => {
                names.into_iter().enumerate().map(|(id, (name, _))| (name, id)).collect()
            }
        };
        for (name, id) in names {
            if let Some(word) = words.get_mut(id) {
                *word = spelling.bytes(&name).unwrap_or_default();
            }
        }
        for AddedToken { id, content, special } in self.added_tokens {
            if let Some(word) = words.get_mut(id) {
                *word = content.into_bytes();
                if special {
                    word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
                }
            }
        }
        for &id in &model.stop_tokens {
            // It ends the output wherever it is drawn, so it must never pass for text.
            if let Some(word) = words.get_mut(id as usize)
                && word.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER)
            {
                word.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
            }
        }
        Ok(words)
    }
}

impl Spelling {
    /// The bytes that a name stands for.
    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        match self {
            Self::ByteLevel(bytes) => name.chars().map(|char| bytes.get(&char).copied()).collect(),
            Self::ByteFallback { space } => {
                let byte = name.strip_prefix("<0x").and_then(|hex| hex.strip_suffix('>'));
                match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => Some(vec![byte]),
                    None => Some(name.replace(space, " ").into_bytes()),
                }
            }
        }
    }
}

/// How a tokenizer with this decoder spells bytes.
fn spelling(decoder: &Value) -> Option<Spelling> {
    let parts = match decoder["decoders"].as_array() {
        Some(parts) => parts.iter().collect(),
        None => vec![decoder],
    };
    let of_type = |name: &str| parts.iter().find(|part| part["type"] == name);
    if of_type("ByteLevel").is_some() {
        return Some(Spelling::ByteLevel(byte_characters()));
    }
    if of_type("ByteFallback").is_none() && of_type("Metaspace").is_none() {
        return None;
    }
    let replaced = of_type("Replace").and_then(|part| part["pattern"]["String"].as_str());
    let marked = of_type("Metaspace").and_then(|part| part["replacement"].as_str());
    let space = replaced.or(marked).unwrap_or("\u{2581}").to_owned();
    Some(Spelling::ByteFallback { space })
}

/// The printable character for each byte: itself if it is printable, else one from 256 on, in order.
fn byte_characters() -> HashMap<char, u8> {
    let mut characters = HashMap::with_capacity(256);
    let mut spare = '\u{100}'..='\u{1ff}';
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let character = if printable { Some(char::from(byte)) } else { spare.next() };
        if let Some(character) = character {
            characters.insert(character, byte);
        }
    }
    characters
}

#[cfg(test)]
mod tests {
    use domain::ModelName;

    use super::*;
    use crate::{Model, ModelSource};

    #[test]
    fn every_token_of_the_demo_model_has_its_bytes() {
        let name = ModelName::new("demo");
        let model = Model::load(name, &ModelSource::Demo, &mut |_| {}).unwrap();
        let json = &model.files().tokenizer;
        let ours = Vocabulary::read(json, model.info()).unwrap();

        let value: Value = serde_json::from_slice(json).unwrap();
        let theirs = llguidance::token_bytes_from_tokenizer_json(&value).unwrap();

        for (id, bytes) in theirs.iter().enumerate() {
            assert_eq!(ours.trie.token(id as u32), bytes, "token {id}");
        }
        assert_eq!(ours.trie.vocab_size(), model.info().vocabulary as usize);
    }

    #[test]
    fn text_is_cut_without_losing_a_byte() {
        let name = ModelName::new("demo");
        let model = Model::load(name, &ModelSource::Demo, &mut |_| {}).unwrap();
        let vocabulary = Vocabulary::read(&model.files().tokenizer, model.info()).unwrap();
        for text in ["{\"name\":\"", "größe 🙂 \u{301}e", "<|im_end|>", " a  b\n"] {
            let tokens = vocabulary.tokenize_bytes(text.as_bytes());
            assert_eq!(vocabulary.trie.decode_raw(&tokens), text.as_bytes());
        }
    }

    #[test]
    fn byte_fallback_names_are_read() {
        let decoder = serde_json::json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"}]});
        let spelling = spelling(&decoder).unwrap();
        assert_eq!(spelling.bytes("<0xFF>"), Some(vec![255]));
        assert_eq!(spelling.bytes("_a_b"), Some(b" a b".to_vec()));
        assert!(super::spelling(&serde_json::json!({"type": "WordPiece"})).is_none());
    }
}
