//! What a sequence is started with, to the wire and back.

use std::sync::Arc;

use domain::{CacheSalt, Format, ModelDigest, OutputRules, Priority, Sampling, Share, TextRules};

use crate::contract::{Start, WorkerError};
use crate::convert::invalid;
use crate::wire;

impl From<Start> for wire::Start {
    fn from(start: Start) -> Self {
        let Start {
            request,
            model,
            prompt,
            generated,
            max_output,
            allowance,
            sampling,
            output,
            share,
            salt,
        } = start;
        Self {
            request_id: request.to_string(),
            model_digest: model.as_str().to_owned(),
            prompt: prompt.to_vec(),
            generated,
            max_output,
            allowance,
            sampling: Some(sampling.into()),
            output: Some(output.into()),
            share: Some(share.into()),
            cache_salt: salt.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<wire::Start> for Start {
    type Error = WorkerError;

    fn try_from(start: wire::Start) -> Result<Self, WorkerError> {
        let sampling = start.sampling.ok_or_else(|| invalid("start.sampling is missing"))?;
        Ok(Self {
            request: start.request_id.parse().map_err(|error| invalid(&format!("{error}")))?,
            model: ModelDigest::new(start.model_digest),
            prompt: start.prompt.into(),
            generated: start.generated,
            max_output: start.max_output,
            allowance: start.allowance,
            sampling: sampling.try_into()?,
            output: start.output.unwrap_or_default().try_into()?,
            share: start.share.ok_or_else(|| invalid("start.share is missing"))?.try_into()?,
            salt: salt(&start.cache_salt)?,
        })
    }
}

impl From<Sampling> for wire::Sampling {
    fn from(sampling: Sampling) -> Self {
        let Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
        } = sampling;
        let logit_bias =
            logit_bias.into_iter().map(|(token, bias)| wire::LogitBias { token, bias }).collect();
        Self {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            seed,
        }
    }
}

impl TryFrom<wire::Sampling> for Sampling {
    type Error = WorkerError;

    fn try_from(sampling: wire::Sampling) -> Result<Self, WorkerError> {
        let numbers = [
            sampling.temperature,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        ];
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(invalid("start.sampling has a value that is not finite"));
        }
        Ok(Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling
                .logit_bias
                .into_iter()
                .map(|bias| (bias.token, bias.bias))
                .collect(),
            seed: sampling.seed,
        })
    }
}

impl From<OutputRules> for wire::OutputRules {
    fn from(rules: OutputRules) -> Self {
        let OutputRules {
            format,
            logprobs,
            min_tokens,
            ignore_eos,
            stop_token_ids,
            allowed_token_ids,
            bad_words,
            text: _, // whoever starts a sequence tells its text
        } = rules;
        let run = |tokens: &Vec<u32>| wire::TokenRun { tokens: tokens.clone() };
        Self {
            format: wire_format(format),
            logprobs,
            min_tokens,
            ignore_eos,
            stop_token_ids: stop_token_ids.to_vec(),
            allowed_token_ids: allowed_token_ids.map(|ids| ids.to_vec()).unwrap_or_default(),
            bad_words: bad_words.iter().map(run).collect(),
        }
    }
}

impl TryFrom<wire::OutputRules> for OutputRules {
    type Error = WorkerError;

    fn try_from(rules: wire::OutputRules) -> Result<Self, WorkerError> {
        let wire::OutputRules {
            format,
            logprobs,
            min_tokens,
            ignore_eos,
            stop_token_ids,
            allowed_token_ids,
            bad_words,
        } = rules;
        let format = format.map_or(Ok(Format::Text), Format::try_from)?;
        let bad_words: Vec<Vec<u32>> = bad_words.into_iter().map(|run| run.tokens).collect();
        if bad_words.iter().any(Vec::is_empty) {
            return Err(invalid("start.output.bad_words has a run without tokens"));
        }
        let allowed = (!allowed_token_ids.is_empty()).then(|| ascending(allowed_token_ids));
        Ok(Self {
            format,
            logprobs,
            min_tokens,
            ignore_eos,
            stop_token_ids: ascending(stop_token_ids),
            allowed_token_ids: allowed,
            bad_words: bad_words.into(),
            text: TextRules::default(),
        })
    }
}

/// The same ids in order, each once.
fn ascending(mut ids: Vec<u32>) -> Arc<[u32]> {
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}

fn wire_format(format: Format) -> Option<wire::Format> {
    use wire::format::{Choice, JsonObject, Kind};
    let kind = match format {
        Format::Text => return None,
        Format::JsonObject => Kind::JsonObject(JsonObject {}),
        Format::JsonSchema(schema) => Kind::JsonSchema(schema.to_string()),
        Format::Regex(regex) => Kind::Regex(regex.to_string()),
        Format::Choice(texts) => Kind::Choice(Choice { texts: texts.to_vec() }),
        Format::Grammar(grammar) => Kind::Grammar(grammar.to_string()),
    };
    Some(wire::Format { kind: Some(kind) })
}

impl TryFrom<wire::Format> for Format {
    type Error = WorkerError;

    fn try_from(format: wire::Format) -> Result<Self, WorkerError> {
        use wire::format::Kind;
        // An unknown kind must not pass for free text.
        Ok(match format.kind.ok_or_else(|| invalid("unknown output format"))? {
            Kind::JsonObject(_) => Self::JsonObject,
            Kind::JsonSchema(schema) => Self::JsonSchema(schema.into()),
            Kind::Regex(regex) => Self::Regex(regex.into()),
            Kind::Choice(choice) => Self::Choice(choice.texts.into()),
            Kind::Grammar(grammar) => Self::Grammar(grammar.into()),
        })
    }
}

impl From<Share> for wire::Share {
    fn from(Share { tenant, weight, priority }: Share) -> Self {
        let priority = match priority {
            Priority::Interactive => wire::Priority::Interactive,
            Priority::Standard => wire::Priority::Standard,
            Priority::Batch => wire::Priority::Batch,
        };
        Self { tenant: tenant.to_string(), weight, priority: priority.into() }
    }
}

impl TryFrom<wire::Share> for Share {
    type Error = WorkerError;

    fn try_from(share: wire::Share) -> Result<Self, WorkerError> {
        let tenant = share.tenant.parse().map_err(|error| invalid(&format!("{error}")))?;
        if share.weight == 0 {
            return Err(invalid("start.share.weight must be at least 1"));
        }
        let priority = match wire::Priority::try_from(share.priority) {
            Ok(wire::Priority::Interactive) => Priority::Interactive,
            Ok(wire::Priority::Standard) => Priority::Standard,
            Ok(wire::Priority::Batch) => Priority::Batch,
            Ok(wire::Priority::Unspecified) | Err(_) => return Err(invalid("unknown priority")),
        };
        Ok(Self { tenant, weight: share.weight, priority })
    }
}

/// Sixteen bytes: anything else would put tenants together.
pub(crate) fn salt(bytes: &[u8]) -> Result<CacheSalt, WorkerError> {
    let bytes = bytes.try_into().map_err(|_| invalid("cache_salt must have 16 bytes"))?;
    Ok(CacheSalt::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use domain::{ProjectId, RequestId};

    use super::*;

    fn start(format: Format) -> Start {
        let tenant = ProjectId::generate();
        Start {
            request: RequestId::generate(),
            model: ModelDigest::new("00"),
            prompt: [1, 2].into(),
            generated: vec![3],
            max_output: 4,
            allowance: 5,
            sampling: Sampling::greedy(),
            output: OutputRules {
                format,
                logprobs: Some(0),
                min_tokens: 6,
                ignore_eos: true,
                stop_token_ids: [7, 8].into(),
                allowed_token_ids: Some([9, 10].into()),
                bad_words: [vec![11], vec![12, 13]].into(),
                text: TextRules::default(),
            },
            share: Share { tenant, weight: 7, priority: Priority::Batch },
            salt: CacheSalt::of(tenant),
        }
    }

    #[test]
    fn a_start_reads_back_as_it_was_sent() {
        let formats = [
            Format::Text,
            Format::JsonObject,
            Format::JsonSchema("{}".into()),
            Format::Regex("a+".into()),
            Format::Choice(["a".to_owned(), "b".to_owned()].into()),
            Format::Grammar("start: \"a\"".into()),
        ];
        for start in formats.map(start) {
            assert_eq!(Start::try_from(wire::Start::from(start.clone())), Ok(start));
        }
    }

    #[test]
    fn what_would_put_tenants_together_is_refused() {
        let said = wire::Start::from(start(Format::Text));
        let saltless = wire::Start { cache_salt: Vec::new(), ..said.clone() };
        let nobody = wire::Start { share: None, ..said.clone() };
        let weightless = wire::Share { weight: 0, ..said.share.clone().unwrap() };
        let weightless = wire::Start { share: Some(weightless), ..said };
        for start in [saltless, nobody, weightless] {
            assert!(matches!(Start::try_from(start), Err(WorkerError::Invalid(_))));
        }
    }
}
