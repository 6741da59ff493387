//! How byte-level tokenizers cut text into words before they merge, by the name that GGUF files have for it.
//!
//! Each row is the expression of the models' own tokenizers; a name that is not here is not guessed.

use serde_json::{Value, json};

/// One way to cut text.
#[derive(Debug)]
pub(super) struct Split {
    names: &'static [&'static str],
    way: Way,
    /// A word that is a token is that token, whatever merges would make of it.
    pub(super) whole_words: bool,
    /// A text begins with a token of its own, unless the file says otherwise.
    pub(super) begins: bool,
    /// Text is composed (NFC) first.
    pub(super) composed: bool,
}

#[derive(Debug)]
enum Way {
    /// By one expression after the other, each within what the one before left.
    By(&'static [&'static str]),
    /// As GPT-2 did.
    Gpt2,
    /// The same, digits by themselves.
    Gpt2WithDigits,
}

impl Split {
    /// The way of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        SPLITS.iter().find(|split| split.names.contains(&name))
    }

    /// As `tokenizer.json` says it.
    pub(super) fn pre_tokenizer(&self) -> Value {
        let bytes = |cut: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cut,
            })
        };
        let mut steps = Vec::new();
        match self.way {
            Way::By(expressions) => {
                steps.extend(expressions.iter().map(|expression| {
                    json!({
                        "type": "Split", "pattern": { "Regex": expression },
                        "behavior": "Isolated", "invert": false,
                    })
                }));
                steps.push(bytes(false));
            }
            Way::Gpt2 => steps.push(bytes(true)),
            Way::Gpt2WithDigits => {
                steps.push(json!({ "type": "Digits", "individual_digits": true }));
                steps.push(bytes(true));
            }
        }
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

const fn by(names: &'static [&'static str], expressions: &'static [&'static str]) -> Split {
    Split { names, way: Way::By(expressions), whole_words: false, begins: false, composed: false }
}

static SPLITS: &[Split] = &[
    Split {
        whole_words: true,
        begins: true,
        ..by(&["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"], &[LLAMA3])
    },
    by(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    Split { composed: true, ..by(&["qwen2"], &[QWEN2]) },
    by(&["deepseek-r1-qwen", "megrez"], &[QWEN2]),
    by(&["gpt-4o", "llama4"], &[GPT4O]),
    Split { whole_words: true, begins: true, ..by(&["tekken"], &[TEKKEN]) },
    Split { way: Way::Gpt2, ..by(&["gpt-2", "phi-2", "exaone4", "olmo", "mpt"], &[]) },
    Split {
        way: Way::Gpt2WithDigits,
        ..by(&["smollm", "starcoder", "refact", "command-r", "codeshell"], &[])
    },
    by(&["default"], &[PUNCTUATION, GPT2, "\\p{N}+", "[0-9][0-9][0-9]"]),
];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
