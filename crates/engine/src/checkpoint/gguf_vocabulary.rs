//! Makes a `tokenizer.json` of the tokens that a GGUF file holds.
//!
//! Promise: the same tokens as the model's own tokenizer gives, for the kinds that are known here; any other kind is an
//! error that names the entry and says what to do. What the format has no word for (that a special token swallows the
//! spaces behind it) is known by the model's name, as in llama.cpp.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value, json};

use super::gguf_metadata::{Metadata, malformed, required};
use super::gguf_pieces::{Piece, merges};
use super::gguf_splits::Split;
use crate::LoadError;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// Never text: ends of turns and the like.
    Control,
    /// Text that is found before anything is merged.
    UserDefined,
    /// A place in the vocabulary with nothing in it.
    Unused,
    /// One byte of what has no other token.
    Byte,
}

struct Token<'a> {
    text: &'a str,
    kind: Kind,
}

/// The tokenizer in a file, whose model has a `vocabulary` of this size.
pub(super) fn tokenizer_json(metadata: &Metadata, vocabulary: usize) -> Result<Vec<u8>, LoadError> {
    if let Some(whole) = metadata.text("tokenizer.huggingface.json")? {
        return Ok(whole.as_bytes().to_vec());
    }
    let tokens = tokens(metadata)?;
    if tokens.len() > vocabulary {
        return Err(malformed(format!(
            "`{TOKENS}` has {} tokens, and the model {vocabulary}",
            tokens.len()
        )));
    }
    let file = match there(MODEL, metadata.text(MODEL)?)? {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => pieces(metadata, &tokens)?,
        other => return Err(unsupported(MODEL, other)),
    };
    let bytes = serde_json::to_vec(&file).map_err(|error| malformed(error.to_string()))?;
    // Whoever reads it later could not say what is wrong with the file.
    match tokenizers::Tokenizer::from_bytes(&bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(malformed(format!("its tokens make no tokenizer: {error}"))),
    }
}

/// The tokens whose names say that a turn or a text ends.
pub(super) fn tokens_that_end(metadata: &Metadata) -> Result<Vec<u32>, LoadError> {
    if !metadata.has(TOKENS) {
        return Ok(Vec::new());
    }
    let tokens = tokens(metadata)?;
    let ends = |token: &Token<'_>| {
        matches!(token.kind, Kind::Control | Kind::UserDefined) && ENDS.contains(&token.text)
    };
    let ids = tokens.iter().zip(0_u32..).filter(|(token, _)| ends(token));
    Ok(ids.map(|(_, id)| id).collect())
}

fn tokens(metadata: &Metadata) -> Result<Vec<Token<'_>>, LoadError> {
    let texts = there(TOKENS, metadata.texts(TOKENS)?)?;
    let kinds = metadata.numbers(KINDS)?;
    let kinds = kinds.unwrap_or_else(|| vec![f64::from(NORMAL); texts.len()]);
    if kinds.len() != texts.len() {
        return Err(malformed(format!("`{KINDS}` has another length than `{TOKENS}`")));
    }
    let mut seen = HashSet::with_capacity(texts.len());
    let mut tokens = Vec::with_capacity(texts.len());
    for (text, number) in texts.into_iter().zip(kinds) {
        let kind = match number as i64 {
            // Without a name it cannot be meant.
            _ if text.is_empty() => Kind::Unused,
            0 | 1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            other => return Err(malformed(format!("`{KINDS}` has a {other}"))),
        };
        if kind != Kind::Unused && !seen.insert(text) {
            return Err(malformed(format!("`{TOKENS}` has {text:?} twice")));
        }
        tokens.push(Token { text, kind });
    }
    Ok(tokens)
}

/// Byte-level pairs (as GPT-2): every byte is a letter, and merges say what is joined.
fn byte_level(metadata: &Metadata, tokens: &[Token<'_>]) -> Result<Value, LoadError> {
    let name = there(PRE, metadata.text(PRE)?)?;
    let split = Split::named(name).ok_or_else(|| unsupported(PRE, name))?;
    let merges = there(MERGES, metadata.texts(MERGES)?)?;
    let known: HashSet<&str> = used(tokens).map(|(token, _)| token.text).collect();
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        // A token may begin with a space, but none ends before its second letter.
        let second = merge.char_indices().nth(1).map_or(merge.len(), |(at, _)| at);
        let at = merge[second..].find(' ').map(|at| at + second);
        let pair = at.map(|at| (&merge[..at], &merge[at + 1..]));
        match pair.filter(|(left, right)| known.contains(left) && known.contains(right)) {
            Some(pair) => pairs.push(pair),
            None => {
                return Err(malformed(format!("`{MERGES}` has {merge:?}, which joins no tokens")));
            }
        }
    }
    let ends = Ends::read(metadata, tokens, split.begins)?;
    let decoder = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    let mut file = file(metadata, tokens, &ends)?;
    file.insert(
        "normalizer".to_owned(),
        if split.composed { json!({ "type": "NFC" }) } else { Value::Null },
    );
    file.insert("pre_tokenizer".to_owned(), split.pre_tokenizer());
    file.insert("decoder".to_owned(), decoder);
    file.insert(
        "model".to_owned(),
        json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": split.whole_words, "vocab": vocabulary(tokens), "merges": pairs,
        }),
    );
    Ok(Value::Object(file))
}

/// Pieces with scores (as `SentencePiece`): a space is a letter of its own, and what has no piece is bytes.
fn pieces(metadata: &Metadata, tokens: &[Token<'_>]) -> Result<Value, LoadError> {
    for key in [CHARACTERS, "tokenizer.ggml.normalizer.lowercase"] {
        if metadata.has(key) {
            return Err(unsupported(key, "..."));
        }
    }
    let scores = there(SCORES, metadata.numbers(SCORES)?)?;
    if scores.len() != tokens.len() {
        return Err(malformed(format!("`{SCORES}` has another length than `{TOKENS}`")));
    }
    let letters: Vec<String> = tokens.iter().map(|token| token.text.replace(' ', SPACE)).collect();
    let given = tokens;
    let tokens = &with_runs_of_spaces(given, &letters)[..];
    let score = |token: &Token<'_>, id: u32| {
        let is_run = given[id as usize].kind != token.kind;
        if is_run { f64::INFINITY } else { scores[id as usize] }
    };
    let joined =
        used(tokens).filter(|(token, _)| matches!(token.kind, Kind::Normal | Kind::UserDefined));
    let joined: Vec<Piece<'_>> =
        joined.map(|(token, id)| Piece { id, text: token.text, score: score(token, id) }).collect();
    // Merges are looked for at every letter of every piece.
    if let Some(piece) = joined.iter().find(|piece| piece.text.len() > MAX_PIECE) {
        let problem = format!("token {} of `{TOKENS}` has {} bytes", piece.id, piece.text.len());
        return Err(malformed(problem));
    }
    let bytes = used(tokens).filter(|(token, _)| token.kind == Kind::Byte).count();
    let unknown = used(tokens).find(|(token, _)| token.kind == Kind::Unknown);
    let spaced = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let ends = Ends::read(metadata, tokens, true)?;
    let letter = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    let mut normalizers = vec![letter];
    if spaced {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let mut file = file(metadata, tokens, &ends)?;
    let normalizer = json!({ "type": "Sequence", "normalizers": normalizers });
    file.insert("normalizer".to_owned(), normalizer);
    file.insert("pre_tokenizer".to_owned(), Value::Null);
    file.insert("decoder".to_owned(), json!({ "type": "Sequence", "decoders": decoders }));
    file.insert(
        "model".to_owned(),
        json!({
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|(token, _)| token.text),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": bytes == 256, "ignore_merges": false, "vocab": vocabulary(tokens),
            "merges": merges(&joined),
        }),
    );
    Ok(Value::Object(file))
}

/// Runs of spaces as pieces among the others. Files have them as text that is found before all others, but they are
/// found in a text whose spaces are letters already: so they are joined before all others, whatever score they have.
fn with_runs_of_spaces<'a>(tokens: &[Token<'a>], letters: &'a [String]) -> Vec<Token<'a>> {
    let known: HashSet<&str> = tokens.iter().map(|token| token.text).collect();
    let is_run = |token: &Token<'_>, letters: &str| {
        token.kind == Kind::UserDefined
            && token.text.chars().all(|letter| letter == ' ')
            && !known.contains(letters)
    };
    let pairs = tokens.iter().zip(letters);
    pairs
        .map(|(token, letters)| {
            let is_run = is_run(token, letters);
            if is_run { Token { text: letters, kind: Kind::Normal } } else { Token { ..*token } }
        })
        .collect()
}

/// Tokens that have something in their place, with their ids.
fn used<'a, 'b>(tokens: &'b [Token<'a>]) -> impl Iterator<Item = (&'b Token<'a>, u32)> {
    tokens.iter().zip(0..).filter(|(token, _)| token.kind != Kind::Unused)
}

fn vocabulary(tokens: &[Token<'_>]) -> Map<String, Value> {
    used(tokens).map(|(token, id)| (token.text.to_owned(), id.into())).collect()
}

/// What every kind of file has: the tokens that are found before all others, and what is put around a text.
fn file(
    metadata: &Metadata,
    tokens: &[Token<'_>],
    ends: &Ends<'_>,
) -> Result<Map<String, Value>, LoadError> {
    let name = metadata.text("general.name")?.unwrap_or_default().to_lowercase();
    let swallows = PHI3.iter().any(|part| name.contains(part));
    let added = used(tokens).filter_map(|(token, id)| {
        let special = match token.kind {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => false,
            Kind::Normal | Kind::Unused | Kind::Byte => return None,
        };
        let strips = swallows && special && !KEEP_SPACES.contains(&token.text);
        Some(json!({
            "id": id, "content": token.text, "single_word": false, "lstrip": false, "rstrip": strips,
            "normalized": false, "special": special,
        }))
    });
    let mut file = Map::new();
    file.insert("version".to_owned(), json!("1.0"));
    file.insert("truncation".to_owned(), Value::Null);
    file.insert("padding".to_owned(), Value::Null);
    file.insert("added_tokens".to_owned(), added.collect());
    file.insert("post_processor".to_owned(), ends.post_processor());
    Ok(file)
}

/// What is put around a text.
struct Ends<'a> {
    first: Option<(u32, &'a str)>,
    last: Option<(u32, &'a str)>,
}

impl<'a> Ends<'a> {
    fn read(metadata: &Metadata, tokens: &[Token<'a>], begins: bool) -> Result<Self, LoadError> {
        if metadata.flag("tokenizer.ggml.add_sep_token")? == Some(true) {
            return Err(unsupported("tokenizer.ggml.add_sep_token", "true"));
        }
        let end = |flag: &str, id: &str, default: bool| {
            if !metadata.flag(flag)?.unwrap_or(default) {
                return Ok(None);
            }
            let number = required(id, metadata.count(id)?)?;
            let token = tokens.get(number).filter(|token| token.kind != Kind::Unused);
            let token =
                token.ok_or_else(|| malformed(format!("`{id}` is {number}, which is no token")))?;
            Ok(Some((number as u32, token.text)))
        };
        Ok(Self {
            first: end("tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", begins)?,
            last: end("tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", false)?,
        })
    }

    fn post_processor(&self) -> Value {
        if self.first.is_none() && self.last.is_none() {
            return Value::Null;
        }
        let special =
            |text: &str, part: u32| json!({ "SpecialToken": { "id": text, "type_id": part } });
        let around = |part: u32| {
            let name = if part == 0 { "A" } else { "B" };
            let mut pieces = vec![json!({ "Sequence": { "id": name, "type_id": part } })];
            if let Some((_, text)) = self.first {
                pieces.insert(0, special(text, part));
            }
            if let Some((_, text)) = self.last {
                pieces.push(special(text, part));
            }
            pieces
        };
        let used: BTreeSet<(u32, &str)> = self.first.into_iter().chain(self.last).collect();
        let used: Map<String, Value> = used
            .into_iter()
            .map(|(id, text)| {
                (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }))
            })
            .collect();
        let pair = [around(0), around(1)].concat();
        json!({
            "type": "TemplateProcessing", "single": around(0),
            "pair": pair, "special_tokens": used,
        })
    }
}

/// What a file that is to be served alone must say.
fn there<T>(key: &str, found: Option<T>) -> Result<T, LoadError> {
    found.ok_or_else(|| LoadError::Unsupported {
        what: format!("a GGUF file without `{key}`"),
        remedy: BESIDE.to_owned(),
    })
}

fn unsupported(key: &str, value: &str) -> LoadError {
    LoadError::Unsupported {
        what: format!("`{key}` `{value}` in a GGUF file"),
        remedy: BESIDE.to_owned(),
    }
}

const BESIDE: &str = "put the model's tokenizer.json beside it";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const CHARACTERS: &str = "tokenizer.ggml.precompiled_charsmap";
const NORMAL: i32 = 1;
/// More bytes than any piece has.
const MAX_PIECE: usize = 1 << 10;
const SPACE: &str = "\u{2581}";

/// Models whose special tokens swallow the spaces behind them, and which of those do not.
const PHI3: [&str; 2] = ["phi-3", "phi3"];
const KEEP_SPACES: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Names of tokens that end a turn or a text, in the models that are served.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
];

#[cfg(test)]
mod tests;
