//! The endpoints: one file each, and one line in [`ENDPOINTS`].
//!
//! An endpoint is a codec: it turns a body into a [`Call`] and pieces of an answer into the JSON of
//! its protocol. It does not know how an answer comes about.

mod chat;
mod completions;
pub(crate) mod embeddings;
mod estimate;
mod models;
mod probes;
mod told;

use domain::{Charge, ErrorKind, FinishReason, Job, RequestId, Usage};
use http::Method;
use serde_json::{Value, json};

use crate::call::Call;
use crate::failure::{Failure, OWN_BOUND, code};
use crate::gateway::Gateway;
use admission::{Caller, Estimate};
pub(crate) use told::{Call as FunctionCall, CallPiece, Delta, TokenTold, Told};

/// Every endpoint there is.
pub(crate) static ENDPOINTS: &[Endpoint] = &[
    chat::ENDPOINT,
    completions::ENDPOINT,
    embeddings::ENDPOINT,
    estimate::ENDPOINT,
    models::LIST,
    models::ONE,
    probes::HEALTHZ,
    probes::HEALTH,
    probes::READYZ,
];

/// Where an endpoint is and what it does.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    /// The path; a `*` at the end stands for a name.
    pub(crate) path: &'static str,
    pub(crate) action: Action,
}

/// What an endpoint does.
pub(crate) enum Action {
    /// Answers by running a model.
    Answer(&'static dyn Codec),
    /// Answers with the vectors of texts.
    Embed,
    /// Tells what an answer would come to, without running anything.
    Estimate(fn(&[u8]) -> Result<Call, Failure>, fn(&Job, &Estimate) -> Value),
    /// Reads something for a caller; the text is what `*` stood for.
    Read(fn(&Gateway, &Caller, &str) -> Result<Value, Failure>),
    /// Tells anybody how the gateway is: a status and a word.
    Probe(fn(&Gateway) -> (u16, Value)),
}

/// The protocol of one inference endpoint.
pub(crate) trait Codec: Sync {
    /// What ids of its answers begin with.
    fn id_prefix(&self) -> &'static str;
    /// Reads the body.
    fn parse(&self, body: &[u8]) -> Result<Call, Failure>;
    /// A whole answer.
    fn whole(&self, about: &About, choices: &[Told], end: &Ending) -> Value;
    /// The chunk that opens a choice, if the protocol has one.
    fn opening(&self, about: &About, index: usize) -> Option<Value>;
    /// A chunk with more of a choice.
    fn delta(&self, about: &About, index: usize, delta: &Delta) -> Value;
    /// The chunk that says why a choice ends.
    fn closing(&self, about: &About, index: usize, told: &Told) -> Value;
    /// A chunk without choices, for the usage and errors of a stream.
    fn bare(&self, about: &About) -> Value;
}

/// What every message of one answer repeats.
pub(crate) struct About {
    pub(crate) request: RequestId,
    pub(crate) id: String,
    /// Seconds since 1970 (UTC).
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    /// What comes before every answer.
    pub(crate) echo: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) finish: FinishReason,
    pub(crate) usage: Usage,
    pub(crate) charge: Charge,
    /// Tokens that the model thought with before it answered.
    pub(crate) reasoning_tokens: u32,
    /// The request's own field that ended it, if it was not a budget.
    pub(crate) own_bound: Option<&'static str>,
}

/// A matched endpoint, and what its `*` stands for.
pub(crate) struct Match {
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) name: String,
}

/// The endpoint for a method and a path.
pub(crate) fn find(method: &Method, path: &str) -> Result<Match, Failure> {
    let mut known_path = false;
    for endpoint in ENDPOINTS {
        let Some(name) = endpoint.name_in(path) else { continue };
        known_path = true;
        if endpoint.method == *method {
            return Ok(Match { endpoint, name: without_escapes(name) });
        }
    }
    if known_path {
        let message = format!("{method} is not supported for {path}");
        return Err(Failure::of(ErrorKind::MethodNotAllowed, message));
    }
    let message = format!("there is no endpoint {path}; see GET /v1/models for a start");
    Err(Failure::of(ErrorKind::NotFound, message))
}

/// `name` with the bytes that `%` and two digits stand for; as it is if that is no text.
fn without_escapes(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|it| char::from(*it).to_digit(16));
        let escaped = digit(0).zip(digit(1)).filter(|_| *first == b'%');
        let taken = escaped.map_or(1, |_| 3);
        bytes.push(escaped.map_or(*first, |(high, low)| (high * 16 + low) as u8));
        rest = &rest[taken..];
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

impl Endpoint {
    fn name_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.strip_suffix('*') {
            Some(prefix) => path.strip_prefix(prefix).filter(|name| !name.is_empty()),
            None => (path == self.path).then_some(""),
        }
    }
}

impl About {
    pub(crate) fn new(
        prefix: &str,
        request: RequestId,
        created: u64,
        model: &crate::catalog::Model,
    ) -> Self {
        let digits = request.to_string();
        let digest = model.info.digest.as_str();
        Self {
            request,
            id: format!("{prefix}{}", digits.trim_start_matches("req_")),
            created,
            model: model.info.name.to_string(),
            fingerprint: format!("fp_{}", &digest[..digest.len().min(12)]),
            echo: None,
        }
    }

    /// The same, with `echo` before every answer.
    pub(crate) fn echoing(self, echo: Option<String>) -> Self {
        Self { echo, ..self }
    }
}

/// Why a choice ended, in the words of the protocol.
pub(crate) const fn finish_name(told: &Told) -> &'static str {
    match told.finish {
        FinishReason::Stop if !told.calls.is_empty() && !told.call_is_cut => "tool_calls",
        FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::Length | FinishReason::Budget => "length",
    }
}

/// The usage object, with what the tenant pays (`cost`, in dollars) and both exact figures.
pub(crate) fn usage(end: &Ending) -> Value {
    let Ending { usage, charge, reasoning_tokens, .. } = end;
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens),
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
        "completion_tokens_details": { "reasoning_tokens": reasoning_tokens },
        // Shown as a number because clients expect one; the exact amount stands below.
        "cost": charge.charge.nanos() as f64 / 1e9,
        "cost_details": {
            "charge_nano_usd": charge.charge.nanos(),
            "cost_nano_usd": charge.cost.nanos(),
            "gpu_nanos": usage.gpu.nanos(),
        },
    })
}

/// What the last message says when a budget, or the request's own bound, ended the answer: of the type and with the code
/// of a request that it lets not even begin.
pub(crate) fn budget_error(own_bound: Option<&str>) -> Value {
    let Some(field) = own_bound else {
        return json!({
            "message": "the budget is used up; the answer stops here. Raise the budget to go on",
            "type": "insufficient_quota",
            "param": null,
            "code": code(ErrorKind::BudgetExceeded),
        });
    };
    json!({
        "message": format!("`{field}` is reached; the answer stops here. Raise `{field}` to go on"),
        "type": "invalid_request_error",
        "param": field,
        "code": OWN_BOUND,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_by_method_and_path() {
        let found = find(&Method::GET, "/v1/models/a/b").unwrap();
        assert_eq!(found.name, "a/b");
        let name = |path| find(&Method::GET, path).unwrap().name;
        assert_eq!(name("/v1/models/a%2Fb%3aq4%20k"), "a/b:q4 k");
        assert_eq!(name("/v1/models/100%25%"), "100%%");
        assert_eq!(name("/v1/models/%ff%zz"), "%ff%zz", "that is no text");
        let kind = |method, path| find(&method, path).err().map(|failure| failure.kind());
        assert_eq!(kind(Method::GET, "/v1/chat/completions"), Some(ErrorKind::MethodNotAllowed));
        assert_eq!(kind(Method::GET, "/v1/models/"), Some(ErrorKind::NotFound));
        assert_eq!(kind(Method::GET, "/v2/models"), Some(ErrorKind::NotFound));
    }
}
