//! What a client asked for, as an endpoint understood it: checked, not yet matched to a model.

mod conversation;
mod dollars;
mod reading;
mod refused;
mod rules;
mod tools;
mod wording;

use std::sync::Arc;

use domain::{GpuTime, ModelName, NanoUsd, OutputRules, OwnBound, Priority, Sampling};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::failure::Failure;
use crate::fields::{Fields, wrong_type};
use crate::tools::Tools;

pub(crate) use conversation::{Conversation, EFFORT, PromptEnd, VARIABLES};
pub(crate) use reading::{Echo, Kept, Reading};
pub(crate) use refused::{refuse_in_chats, refuse_in_completions};
pub(crate) use tools::tools;

/// A request for an answer.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) model: ModelName,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) reading: Reading,
    /// The prompt is the beginning of the answer.
    pub(crate) echo: bool,
    /// `None`: as much as the context allows.
    pub(crate) max_output: Option<u32>,
    /// Sequences that answer it.
    pub(crate) choices: u32,
    pub(crate) sampling: Sampling,
    /// The caller asked for reproducible sampling, or for none.
    pub(crate) reproducible: bool,
    /// What is asked of the output beside that, before tools have their say.
    pub(crate) output: OutputRules,
    /// Words that it may not contain.
    pub(crate) bad_words: Vec<String>,
    /// The field that asks for a form, if one does.
    pub(crate) format_field: Option<String>,
    /// What may be called.
    pub(crate) tools: Option<Arc<Tools>>,
    pub(crate) priority: Priority,
    pub(crate) stop: Vec<String>,
    pub(crate) delivery: Delivery,
    pub(crate) bound: OwnBound,
}

/// What to continue.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    /// Messages for the model's chat template, and what it is filled with beside them.
    Chat(Conversation),
    /// Plain text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// About how many bytes of text or ids it holds.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Chat(conversation) => conversation.bytes(),
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => ids.len() * size_of::<u32>(),
        }
    }

    /// The request field it came from, or most of it.
    pub(crate) fn field(&self) -> &'static str {
        let bytes = |values: &[Value]| values.iter().map(text_bytes).sum::<usize>();
        match self {
            Self::Chat(Conversation { messages, tools, .. }) if bytes(tools) > bytes(messages) => {
                "tools"
            }
            Self::Chat(_) => "messages",
            Self::Text(_) | Self::Tokens(_) => "prompt",
        }
    }
}

/// How the answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One JSON object at the end.
    Whole,
    /// Server-sent events as tokens come.
    Stream {
        /// With a last chunk that holds the usage.
        include_usage: bool,
    },
}

/// About how long it is when it is written out. Templates write names, numbers and brackets, too.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + QUOTES,
        Value::Array(list) => QUOTES + list.iter().map(text_bytes).sum::<usize>(),
        Value::Object(object) => {
            let field = |(name, value): (&String, &Value)| name.len() + QUOTES + text_bytes(value);
            QUOTES + object.iter().map(field).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => SCALAR_BYTES,
    }
}

impl Call {
    /// Reads what chat and text completions have in common.
    pub(crate) fn parse(
        fields: &Fields<'_>,
        prompt: Prompt,
        max_output: Option<u32>,
        logprobs: Option<u32>,
    ) -> Result<Self, Failure> {
        refused::refuse_unsupported(fields)?;
        let (output, format_field) = rules::rules(fields, logprobs, max_output)?;
        let output = wording::worded(fields, output)?;
        let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
        let sampling = sampling(fields, seed)?;
        Ok(Self {
            model: ModelName::new(fields.required_text("model")?),
            prompt: Arc::new(prompt),
            reading: Reading::of(fields)?,
            echo: false,
            max_output,
            choices: choices(fields)?,
            output,
            bad_words: wording::bad_words(fields)?,
            format_field,
            tools: None,
            priority: priority(fields)?,
            reproducible: sampling.temperature == 0.0 || seed.is_some(),
            sampling,
            stop: stop(fields)?,
            delivery: delivery(fields)?,
            bound: own_bound(fields)?,
        })
    }
}

/// The most that the caller wants to spend on it.
pub(crate) fn own_bound(fields: &Fields<'_>) -> Result<OwnBound, Failure> {
    Ok(OwnBound { money: max_cost(fields)?, gpu: max_gpu(fields)? })
}

/// The most that the caller wants to be charged, in dollars: a number, or text where exactness matters.
fn max_cost(fields: &Fields<'_>) -> Result<Option<NanoUsd>, Failure> {
    match fields.value(MAX_COST) {
        None => Ok(None),
        Some(Value::String(text)) => dollars(text).map(Some),
        // A number prints as the shortest text that reads back the same: what the client wrote.
        Some(Value::Number(number)) => dollars(&number.to_string()).map(Some),
        Some(other) => Err(wrong_type(MAX_COST, "an amount in dollars", other)),
    }
}

fn max_gpu(fields: &Fields<'_>) -> Result<Option<GpuTime>, Failure> {
    let millis = fields.integer(MAX_GPU, 1..=MAX_GPU_MILLIS)?;
    Ok(millis.map(gpu_millis))
}

/// The same bounds from headers, for clients whose library sends no fields of its own. The tighter
/// one counts where both are given.
pub(crate) fn bound_from_headers(
    max_cost_usd: Option<&str>,
    max_gpu_ms: Option<&str>,
) -> Result<OwnBound, Failure> {
    let money = max_cost_usd.map(dollars).transpose()?;
    let gpu = max_gpu_ms.map(|text| {
        let millis = text.trim().parse().ok();
        let millis = millis.filter(|millis| (1..=MAX_GPU_MILLIS).contains(millis));
        millis.map(gpu_millis).ok_or_else(|| {
            let message = format!("`{MAX_GPU}` must be a whole number from 1 to {MAX_GPU_MILLIS}");
            Failure::invalid(MAX_GPU, message)
        })
    });
    Ok(OwnBound { money, gpu: gpu.transpose()? })
}

/// A number for the conversation that a caller names.
pub(crate) fn session_number(name: &str) -> u64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Call {
    /// What comes before the answer, if the prompt does.
    pub(crate) fn echo(&self) -> Option<Echo> {
        let whole = || match &*self.prompt {
            Prompt::Text(text) if self.reading.kept == Kept::All => Some(text.clone()),
            Prompt::Text(_) | Prompt::Tokens(_) | Prompt::Chat(_) => None,
        };
        self.echo.then(|| Echo(whole()))
    }

    /// The same, bounded by `bound` too, and as urgent as was said elsewhere, if it was.
    pub(crate) fn bounded_by(mut self, bound: OwnBound, priority: Option<Priority>) -> Self {
        self.bound = tighter(self.bound, bound);
        self.priority = priority.unwrap_or(self.priority);
        self
    }
}

/// How urgent a header says that a request is.
pub(crate) fn priority_said(word: &str) -> Result<Priority, Failure> {
    let named = Priority::ALL.into_iter().find(|priority| priority.name() == word.trim());
    named.ok_or_else(|| {
        let names = Priority::ALL.map(Priority::name).join(", ");
        let message = format!("`{PRIORITY_HEADER}` must be one of {names}, not `{word}`");
        Failure::invalid(PRIORITY_HEADER, message)
    })
}

/// The tighter of two bounds, of money and of time.
pub(crate) fn tighter(one: OwnBound, other: OwnBound) -> OwnBound {
    fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
        one.into_iter().chain(other).min()
    }
    OwnBound { money: least(one.money, other.money), gpu: least(one.gpu, other.gpu) }
}

/// The token ids in a list that stands at `path`.
pub(crate) fn token_ids(path: &str, list: &[Value]) -> Result<Vec<u32>, Failure> {
    let id = |(at, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong_type(&format!("{path}[{at}]"), "a token id", value))
    };
    list.iter().enumerate().map(id).collect()
}

fn dollars(text: &str) -> Result<NanoUsd, Failure> {
    dollars::amount(text.trim()).ok_or_else(|| {
        let message = format!(
            "`{MAX_COST}` must be an amount in dollars with at most nine decimals, such as 0.05, not `{text}`"
        );
        Failure::invalid(MAX_COST, message)
    })
}

fn gpu_millis(millis: i64) -> GpuTime {
    GpuTime::from_nanos(millis.unsigned_abs() * NANOS_PER_MILLI)
}

/// A bound on the output, in tokens.
pub(crate) fn max_output(fields: &Fields<'_>, name: &str) -> Result<Option<u32>, Failure> {
    let tokens = fields.integer(name, 1..=i64::from(u32::MAX))?;
    Ok(tokens.and_then(|tokens| u32::try_from(tokens).ok()))
}

/// How many answers are asked for. The best of several is not chosen here.
fn choices(fields: &Fields<'_>) -> Result<u32, Failure> {
    let count = fields.integer("n", 1..=MAX_CHOICES)?.unwrap_or(1);
    let best_of = fields.integer("best_of", 1..=i64::from(u32::MAX))?.unwrap_or(count);
    if best_of != count {
        let message = format!("`best_of` must be `n`, which is {count}; leave it out");
        return Err(Failure::invalid("best_of", message));
    }
    Ok(count as u32)
}

/// How urgent the body says that it is.
pub(crate) fn priority(fields: &Fields<'_>) -> Result<Priority, Failure> {
    match fields.text("service_tier")? {
        None | Some("auto" | "default") => Ok(Priority::Standard),
        Some("priority") => Ok(Priority::Interactive),
        Some("flex") => Ok(Priority::Batch),
        Some(other) => {
            let message =
                format!("`service_tier` must be auto, default, priority or flex, not `{other}`");
            Err(Failure::invalid("service_tier", message))
        }
    }
}

fn sampling(fields: &Fields<'_>, seed: Option<i64>) -> Result<Sampling, Failure> {
    let greedy = Sampling::greedy();
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(DEFAULT_TEMPERATURE),
        top_p: fields.number("top_p", 0.0..=1.0)?.unwrap_or(greedy.top_p),
        top_k: top_k(fields)?,
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(greedy.min_p),
        repetition_penalty: fields
            .number("repetition_penalty", 0.01..=10.0)?
            .unwrap_or(greedy.repetition_penalty),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        logit_bias: logit_bias(fields)?,
        seed: seed.map_or_else(random_seed, i64::cast_unsigned),
    })
}

/// vLLM's clients send -1 for all.
fn top_k(fields: &Fields<'_>) -> Result<u32, Failure> {
    let kept = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(kept.and_then(|kept| u32::try_from(kept).ok()).unwrap_or(0))
}

fn random_seed() -> u64 {
    let id = domain::RequestId::generate();
    let (high, low) = id.as_bytes().split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    word(high) ^ word(low)
}

fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, Failure> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let mut biases = Vec::new();
    for (token, _) in object.entries() {
        let path = object.path(token);
        // Written in one way alone, so that no token has two biases.
        let id = token.parse().ok().filter(|id: &u32| id.to_string() == *token);
        let id = id.ok_or_else(|| {
            Failure::invalid(path.clone(), format!("`{path}` must be named by a token id"))
        })?;
        if let Some(bias) = object.number(token, -100.0..=100.0)? {
            biases.push((id, bias));
        }
    }
    if biases.len() > MAX_BIASES {
        let message = format!("`logit_bias` may name at most {MAX_BIASES} tokens");
        return Err(Failure::invalid("logit_bias", message));
    }
    biases.sort_by_key(|(token, _)| *token);
    Ok(biases)
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>, Failure> {
    let texts = match fields.value("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => stop_list(list)?,
        Some(other) => return Err(wrong_type("stop", "a string or a list of strings", other)),
    };
    if texts.len() > MAX_STOPS {
        let message = format!("`stop` may hold at most {MAX_STOPS} strings, not {}", texts.len());
        return Err(Failure::invalid("stop", message));
    }
    if texts.iter().any(|text| text.is_empty() || text.len() > MAX_STOP_BYTES) {
        let message = format!("each string in `stop` must have 1 to {MAX_STOP_BYTES} bytes");
        return Err(Failure::invalid("stop", message));
    }
    Ok(texts)
}

fn stop_list(list: &[Value]) -> Result<Vec<String>, Failure> {
    let text = |(at, value): (usize, &Value)| {
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong_type(&format!("stop[{at}]"), "a string", value))
    };
    list.iter().enumerate().map(text).collect()
}

fn delivery(fields: &Fields<'_>) -> Result<Delivery, Failure> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let options = fields.object("stream_options")?;
    if !stream {
        if options.is_some() {
            let message = "`stream_options` is for streams; set `stream` to true or leave it out";
            return Err(Failure::invalid("stream_options", message));
        }
        return Ok(Delivery::Whole);
    }
    let include_usage = options.map(|options| options.flag("include_usage")).transpose()?.flatten();
    Ok(Delivery::Stream { include_usage: include_usage.unwrap_or(false) })
}

/// Where a client says how urgent a request is whose library has no field for it.
pub(crate) const PRIORITY_HEADER: &str = "x-tollgate-priority";
/// Tokens whose log-probability is told beside each token's own.
pub(crate) const MAX_TOP_LOGPROBS: i64 = 20;
/// Sequences of one request: each is a place on a worker.
const MAX_CHOICES: i64 = 8;
/// Quotes or brackets.
const QUOTES: usize = 2;
/// What a number may be written with, and what is between it and the next.
const SCALAR_BYTES: usize = 8;
const MAX_COST: &str = "max_cost_usd";
const MAX_GPU: &str = "max_gpu_ms";
/// A day.
const MAX_GPU_MILLIS: i64 = 86_400_000;
const NANOS_PER_MILLI: u64 = 1_000_000;
const DEFAULT_TEMPERATURE: f32 = 1.0;
const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 256;
const MAX_BIASES: usize = 1024;

#[cfg(test)]
mod tests;
