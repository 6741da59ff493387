//! Failures, as the rest of the world may see them: a small, fixed set.

/// What kind of failure a caller, a metric or a log line is told about.
///
/// Every error enum has an exhaustive `kind()`, and `gateway` has one table from this to status,
/// `OpenAI` type and code; labels of metrics are [`ErrorKind::label`], so their number is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is malformed, or a value is out of range.
    InvalidRequest,
    /// Prompt and output do not fit the model.
    ContextLengthExceeded,
    /// No credential was sent, or it is unknown, revoked or expired.
    Unauthenticated,
    /// The credential is known, but may not do this.
    Forbidden,
    /// There is no such endpoint.
    NotFound,
    /// There is no such model, or the caller may not see it.
    ModelNotFound,
    /// The endpoint exists, but not for this method.
    MethodNotAllowed,
    /// The body is larger than we read.
    BodyTooLarge,
    /// The head is larger than we read.
    HeadTooLarge,
    /// The body did not arrive in time.
    RequestTimeout,
    /// A rate or concurrency limit is reached; try again soon.
    RateLimited,
    /// A budget is used up; trying again soon does not help.
    BudgetExceeded,
    /// No worker can take the request now.
    Overloaded,
    /// Something we need is not reachable.
    Unavailable,
    /// The answer did not come in time.
    DeadlineExceeded,
    /// The caller left; nobody reads the answer.
    ClientGone,
    /// Our own mistake.
    Internal,
}

impl ErrorKind {
    /// Every kind there is, for tables and tests.
    pub const ALL: [Self; 17] = [
        Self::InvalidRequest,
        Self::ContextLengthExceeded,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::ModelNotFound,
        Self::MethodNotAllowed,
        Self::BodyTooLarge,
        Self::HeadTooLarge,
        Self::RequestTimeout,
        Self::RateLimited,
        Self::BudgetExceeded,
        Self::Overloaded,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::ClientGone,
        Self::Internal,
    ];

    /// The label in metrics, logs and ledger rows.
    pub const fn label(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::ModelNotFound => "model_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadTooLarge => "head_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::RateLimited => "rate_limited",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::ClientGone => "client_gone",
            Self::Internal => "internal",
        }
    }
}

/// An error in words, with its causes.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
