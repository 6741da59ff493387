//! A prompt and the words of a call's rules, in the tokens of a model.

use std::sync::Arc;

use domain::{Format, OutputRules, Reasoning, Sampling, TextRules};

use super::{Model, SHORT_PROMPT_BYTES};
use crate::call::{Call, Kept};
use crate::failure::Failure;
use crate::text::Encoded;

/// The tokens of a call's prompt, and its rules with what only the model knows of them.
pub(super) async fn worded(
    model: &Arc<Model>,
    call: &Call,
    output: OutputRules,
) -> Result<(OutputRules, Vec<u32>), Failure> {
    refuse_joined(call, &output)?;
    let Encoded { ids, reasoning } = encoded(model, call).await?;
    let room = model.info.context_length.saturating_sub(call.max_output.unwrap_or(1));
    let ids = call.reading.kept.of(ids, room);
    let mut bad_words = Vec::new();
    for word in &call.bad_words {
        bad_words.extend(model.text.runs_of(word)?);
    }
    // What is held to a form has no room for thoughts.
    let reasoning = if output.format == Format::Text { reasoning } else { Reasoning::AsText };
    let text = TextRules { reasoning, ..output.text };
    Ok((OutputRules { bad_words: bad_words.into(), text, ..output }, ids))
}

/// A form leaves no choice of tokens that could be narrowed further without losing its way.
fn refuse_joined(call: &Call, output: &OutputRules) -> Result<(), Failure> {
    if output.format == Format::Text {
        return Ok(());
    }
    let field = match &call.bad_words[..] {
        [] if output.allowed_token_ids.is_none() => return Ok(()),
        [] => "allowed_token_ids",
        _ => "bad_words",
    };
    let form = call.format_field.as_deref().unwrap_or("tools");
    let message = format!("`{field}` cannot be used beside `{form}`; leave one of them out");
    Err(Failure::invalid(field, message))
}

/// A form of all of an answer cannot be kept to by one that is calls alone. What `OpenAI` calls a format is one of the
/// content, and there is none.
pub(super) fn refuse_form_of_nothing(call: &Call) -> Result<(), Failure> {
    let of_content = |field: &&String| field.starts_with("response_format");
    let Some(field) = call.format_field.as_ref().filter(|field| !of_content(field)) else {
        return Ok(());
    };
    let message = format!(
        "`{field}` cannot be used where `tool_choice` asks for a call, which is all of the answer; leave one of them out"
    );
    Err(Failure::invalid(field.clone(), message))
}

/// The tokens of a prompt; a long one is read off the network threads.
async fn encoded(model: &Arc<Model>, call: &Call) -> Result<Encoded, Failure> {
    // What is cut need not fit.
    let whole = call.reading.kept == Kept::All;
    let longest = if whole { model.info.context_length } else { u32::MAX };
    let special_tokens = call.reading.special_tokens;
    if call.prompt.bytes() <= SHORT_PROMPT_BYTES {
        return model.text.encode(&call.prompt, special_tokens, longest);
    }
    let (text, prompt) = (Arc::clone(&model.text), Arc::clone(&call.prompt));
    let encoding =
        tokio::task::spawn_blocking(move || text.encode(&prompt, special_tokens, longest));
    encoding.await.map_err(Failure::internal)?
}

/// Refuses tokens that the model does not have; `field` is where the prompt is from.
pub(super) fn known(
    model: &Model,
    field: &str,
    prompt: &[u32],
    sampling: &Sampling,
    output: &OutputRules,
) -> Result<(), Failure> {
    let vocabulary = model.info.vocabulary;
    let biased: Vec<u32> = sampling.logit_bias.iter().map(|(id, _)| *id).collect();
    let named = [
        (field, prompt),
        ("logit_bias", &biased),
        ("stop_token_ids", &output.stop_token_ids),
        ("allowed_token_ids", output.allowed_token_ids.as_deref().unwrap_or_default()),
    ];
    for (field, ids) in named {
        if ids.iter().any(|id| *id >= vocabulary) {
            let message = format!("token ids of this model are below {vocabulary}");
            return Err(Failure::invalid(field, message));
        }
    }
    Ok(())
}
