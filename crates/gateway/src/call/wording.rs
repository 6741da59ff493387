//! What is asked of the tokens and the text of an output: which tokens it may be of, which of them end it, and what of
//! them is shown.
//!
//! Ids are held against a model's vocabulary, and words made into its tokens, when the model is known.

use std::sync::Arc;

use domain::{OutputRules, TextRules};
use serde_json::Value;

use super::token_ids;
use crate::failure::Failure;
use crate::fields::{Fields, wrong_type};

/// The rules with what is asked of tokens and text.
pub(super) fn worded(fields: &Fields<'_>, rules: OutputRules) -> Result<OutputRules, Failure> {
    // Nothing is ever put between special tokens, so there is nothing to choose.
    fields.flag("spaces_between_special_tokens")?;
    let text = TextRules {
        special_tokens: fields.flag("skip_special_tokens")? == Some(false),
        stop_string: fields.flag("include_stop_str_in_output")? == Some(true),
        ..rules.text
    };
    let stops = ids(fields, "stop_token_ids", MAX_STOP_TOKENS)?.unwrap_or_default();
    let allowed_token_ids = ids(fields, "allowed_token_ids", MAX_ALLOWED_TOKENS)?;
    if allowed_token_ids.as_ref().is_some_and(|ids| ids.is_empty()) {
        let message = "`allowed_token_ids` must hold at least one token; leave it out to allow all";
        return Err(Failure::invalid("allowed_token_ids", message));
    }
    Ok(OutputRules { stop_token_ids: stops, allowed_token_ids, text, ..rules })
}

/// Token ids in order, each once.
fn ids(fields: &Fields<'_>, name: &str, most: usize) -> Result<Option<Arc<[u32]>>, Failure> {
    let Some(list) = fields.list(name)? else { return Ok(None) };
    at_most(name, list, most)?;
    let mut ids = token_ids(name, list)?;
    ids.sort_unstable();
    ids.dedup();
    Ok(Some(ids.into()))
}

/// Words that the output may not contain, without the white space before them.
pub(super) fn bad_words(fields: &Fields<'_>) -> Result<Vec<String>, Failure> {
    let list = fields.list("bad_words")?.unwrap_or_default();
    at_most("bad_words", list, MAX_BAD_WORDS)?;
    let word = |(at, value): (usize, &Value)| {
        let path = format!("bad_words[{at}]");
        let word = value.as_str().ok_or_else(|| wrong_type(&path, "a string", value))?;
        let word = word.trim_start();
        if word.is_empty() || word.len() > MAX_BAD_WORD_BYTES {
            let message =
                format!("`{path}` must have 1 to {MAX_BAD_WORD_BYTES} bytes beside white space");
            return Err(Failure::invalid(path, message));
        }
        Ok(word.to_owned())
    };
    list.iter().enumerate().map(word).collect()
}

fn at_most(name: &str, list: &[Value], most: usize) -> Result<(), Failure> {
    if list.len() <= most {
        return Ok(());
    }
    let message = format!("`{name}` may hold at most {most} entries, not {}", list.len());
    Err(Failure::invalid(name, message))
}

const MAX_STOP_TOKENS: usize = 128;
/// Every token of the largest vocabularies there are.
const MAX_ALLOWED_TOKENS: usize = 1 << 18;
/// Each of them is looked for at every token.
const MAX_BAD_WORDS: usize = 128;
const MAX_BAD_WORD_BYTES: usize = 128;
