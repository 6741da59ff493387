//! What a client is told when something fails: one table.
//!
//! Clients see the message of *their* mistakes; of ours they see the kind and the request id.

use std::time::Duration;

use admission::tenancy::LimitKind;
use admission::{AdmitError, RateState};
use domain::{ErrorKind, JobError, RequestId, with_causes};
use proto::WorkerError;
use routing::RouteError;
use serde_json::{Value, json};

/// A failure, ready to be told to a client and to be labelled.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: String,
    /// The field of the request that is to blame.
    param: Option<String>,
    /// What it is called, where that is not what its kind is.
    code: Option<&'static str>,
    retry_in: Option<Duration>,
    /// The rate that refuses, if one does.
    rate: Option<Box<RateShown>>,
    /// What really happened, for the log.
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// How a kind of failure looks in the protocol of `OpenAI`.
pub(crate) struct Appearance {
    pub(crate) status: u16,
    error_type: &'static str,
    code: Option<&'static str>,
    /// SDKs retry 408, 409, 429 and 5xx by themselves; this tells them not to bother.
    retry_is_useless: bool,
}

/// A rate that is used up, as its headers show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateShown {
    /// What the headers' names end with.
    pub(crate) unit: RateUnit,
    pub(crate) state: RateState,
}

/// The two rates that headers tell about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RateUnit {
    Requests,
    Tokens,
}

impl RateShown {
    const fn of(limit: LimitKind, max: u64, reset_in: Duration) -> Option<Self> {
        let unit = match limit {
            LimitKind::RequestsPerMinute => RateUnit::Requests,
            LimitKind::TokensPerMinute => RateUnit::Tokens,
            LimitKind::TokensPerDay
            | LimitKind::ConcurrentRequests
            | LimitKind::GpuMillisPerMinute => return None,
        };
        Some(Self { unit, state: RateState { limit: max, remaining: 0, reset_in } })
    }
}

/// The table: what each kind of failure looks like.
pub(crate) const fn appearance(kind: ErrorKind) -> Appearance {
    let (status, error_type, code) = match kind {
        ErrorKind::InvalidRequest => (400, INVALID, None),
        ErrorKind::ContextLengthExceeded => (400, INVALID, Some("context_length_exceeded")),
        ErrorKind::Unauthenticated => (401, INVALID, Some("invalid_api_key")),
        ErrorKind::Forbidden => (403, INVALID, Some("model_not_allowed")),
        ErrorKind::NotFound => (404, INVALID, Some("unknown_url")),
        ErrorKind::ModelNotFound => (404, INVALID, Some("model_not_found")),
        ErrorKind::MethodNotAllowed => (405, INVALID, Some("method_not_supported")),
        ErrorKind::RequestTimeout => (408, INVALID, Some("request_timeout")),
        ErrorKind::BodyTooLarge => (413, INVALID, Some("request_too_large")),
        ErrorKind::HeadTooLarge => (431, INVALID, Some("headers_too_large")),
        ErrorKind::RateLimited => (429, "rate_limit_error", Some("rate_limit_exceeded")),
        ErrorKind::BudgetExceeded => (429, "insufficient_quota", Some("insufficient_quota")),
        ErrorKind::ClientGone => (499, INVALID, Some("client_closed_request")),
        ErrorKind::Internal => (500, SERVER, Some("internal_error")),
        ErrorKind::Overloaded => (503, SERVER, Some("overloaded")),
        ErrorKind::Unavailable => (503, SERVER, Some("unavailable")),
        ErrorKind::DeadlineExceeded => (504, SERVER, Some("deadline_exceeded")),
    };
    let retry_is_useless = matches!(kind, ErrorKind::BudgetExceeded);
    Appearance { status, error_type, code, retry_is_useless }
}

/// The code of a kind of failure, for answers that tell about one without being one.
pub(crate) const fn code(kind: ErrorKind) -> Option<&'static str> {
    appearance(kind).code
}

impl Failure {
    /// A mistake of the client, which `message` explains.
    pub(crate) fn of(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            code: None,
            retry_in: None,
            rate: None,
            source: None,
        }
    }

    /// A wrong value in the field `param`.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into());
        Self { param, ..Self::of(ErrorKind::InvalidRequest, message) }
    }

    /// The same, blaming the field `param`.
    pub(crate) fn blaming(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    /// The client left.
    pub(crate) fn client_gone() -> Self {
        Self::of(ErrorKind::ClientGone, "the client closed the connection")
    }

    /// Our own failure: the client sees its kind only.
    fn ours(
        kind: ErrorKind,
        retry_in: Option<Duration>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let message = match kind {
            ErrorKind::Overloaded => "all workers are busy; try again later",
            ErrorKind::Unavailable => "the service is not available right now; try again later",
            ErrorKind::DeadlineExceeded => "the answer did not come in time",
            _ => "the request failed; if it fails again, report the request id",
        };
        Self { retry_in, source: Some(source.into()), ..Self::of(kind, message) }
    }

    /// An unexpected failure of ours.
    pub(crate) fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::ours(ErrorKind::Internal, None, source)
    }

    /// The answer took longer than a request may.
    pub(crate) fn too_late() -> Self {
        Self::ours(ErrorKind::DeadlineExceeded, None, "the request's deadline passed")
    }

    /// Nobody can say whether a budget has more for a running stream.
    pub(crate) fn unpayable() -> Self {
        let retry_in = Some(Duration::from_secs(1));
        Self::ours(ErrorKind::Unavailable, retry_in, "budgets could not be asked for too long")
    }

    /// More requests run than this gateway holds at a time.
    pub(crate) fn crowded() -> Self {
        let retry_in = Some(Duration::from_secs(1));
        Self::ours(ErrorKind::Overloaded, retry_in, "the gateway holds its most requests")
    }

    /// No worker has been heard of yet: whether a model exists is not known.
    pub(crate) fn no_models_yet() -> Self {
        let retry_in = Some(Duration::from_secs(1));
        Self::ours(ErrorKind::Unavailable, retry_in, "no worker serves a model yet")
    }

    pub(crate) const fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) const fn retry_in(&self) -> Option<Duration> {
        self.retry_in
    }

    /// The rate that refuses, if one does.
    pub(crate) fn rate(&self) -> Option<&RateShown> {
        self.rate.as_deref()
    }

    pub(crate) const fn retry_is_useless(&self) -> bool {
        appearance(self.kind).retry_is_useless
    }

    /// The cause, with its causes, for the log.
    pub(crate) fn cause(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {}", self.message, with_causes(source.as_ref())),
            None => self.message.clone(),
        }
    }

    /// The error object of `OpenAI`'s API, with the request id beside it.
    pub(crate) fn body(&self, request: RequestId) -> Value {
        let Appearance { error_type, code, .. } = appearance(self.kind);
        let code = self.code.or(code);
        json!({
            "error": {
                "message": self.message,
                "type": error_type,
                "param": self.param,
                "code": code,
            },
            "request_id": request,
        })
    }
}

impl From<AdmitError> for Failure {
    fn from(error: AdmitError) -> Self {
        let (kind, retry_in) = (error.kind(), error.retry_in());
        match error {
            AdmitError::Quota(_) | AdmitError::Ledger(_) => {
                Self::ours(kind, Some(Duration::from_secs(1)), error)
            }
            AdmitError::ModelForbidden { .. } => Self::of(kind, error.to_string()).blaming("model"),
            AdmitError::LargerThanOwnBound { field, .. } => {
                let failure = Self::of(kind, error.to_string()).blaming(field);
                Self { code: Some(OWN_BOUND), ..failure }
            }
            AdmitError::Blocked { .. } => {
                Self { code: Some("blocked"), ..Self::of(kind, error.to_string()) }
            }
            AdmitError::Expired { .. } if kind == ErrorKind::Forbidden => {
                Self { code: Some("expired"), ..Self::of(kind, error.to_string()) }
            }
            AdmitError::LimitReached { limit, max, retry_in: reset_in, .. } => {
                let rate = RateShown::of(limit, max, reset_in).map(Box::new);
                Self { retry_in, rate, ..Self::of(kind, error.to_string()) }
            }
            _ => Self { retry_in, ..Self::of(kind, error.to_string()) },
        }
    }
}

impl From<RouteError> for Failure {
    fn from(error: RouteError) -> Self {
        if let RouteError::Worker(WorkerError::Format(message)) = error {
            return Self::of(ErrorKind::InvalidRequest, message);
        }
        if let RouteError::Worker(WorkerError::TooLong(message)) = error {
            return Self::of(ErrorKind::ContextLengthExceeded, message);
        }
        Self::ours(error.kind(), error.retry_in(), error)
    }
}

impl Failure {
    /// The request does not make a job; `prompt` and `output` name the fields to blame.
    pub(crate) fn no_job(error: &JobError, prompt: &str) -> Self {
        let kind = match error {
            JobError::EmptyPrompt => ErrorKind::InvalidRequest,
            JobError::ContextExceeded { .. } => ErrorKind::ContextLengthExceeded,
        };
        Self::of(kind, error.to_string()).blaming(prompt)
    }
}

/// What it is called that a request is not to cost as much as it would.
pub(crate) const OWN_BOUND: &str = "own_bound_exceeded";
const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_a_client_or_a_server_error() {
        for kind in ErrorKind::ALL {
            assert!((400..600).contains(&appearance(kind).status), "{kind:?}");
        }
    }

    #[test]
    fn the_two_kinds_of_429_are_told_apart() {
        let rate = Failure::of(ErrorKind::RateLimited, "").body(RequestId::generate());
        let budget = Failure::of(ErrorKind::BudgetExceeded, "").body(RequestId::generate());
        assert_eq!(rate["error"]["code"], "rate_limit_exceeded");
        assert_eq!(budget["error"]["code"], "insufficient_quota");
    }

    #[test]
    fn a_sequence_that_no_worker_has_room_for_is_the_clients_mistake() {
        let refused = WorkerError::TooLong("at most 64 tokens fit".to_owned());
        let failure = Failure::from(RouteError::Worker(refused)).blaming("messages");
        let body = failure.body(RequestId::generate());
        assert_eq!(appearance(failure.kind()).status, 400);
        assert_eq!(body["error"]["code"], "context_length_exceeded");
        assert_eq!(body["error"]["param"], "messages");
        assert!(body["error"]["message"].as_str().unwrap().contains("64"));
    }

    #[test]
    fn who_is_blocked_is_not_told_that_a_model_is_not_allowed() {
        let code = |error: AdmitError| {
            Failure::from(error).body(RequestId::generate())["error"]["code"].clone()
        };
        let (scope, model) =
            (domain::ScopeId::Key(domain::KeyId::generate()), domain::ModelName::new("a"));
        assert_eq!(code(AdmitError::Blocked { scope }), "blocked");
        assert_eq!(code(AdmitError::Expired { scope }), "invalid_api_key");
        assert_eq!(code(AdmitError::ModelForbidden { model }), "model_not_allowed");
    }

    #[test]
    fn a_client_does_not_see_what_went_wrong_inside() {
        let failure = Failure::internal("password is hunter2");
        assert!(!failure.body(RequestId::generate()).to_string().contains("hunter2"));
        assert!(failure.cause().contains("hunter2"));
    }
}
