//! How a request that is refused is told so: problem details for HTTP APIs (RFC 9457).
//!
//! Decides the status of every error, exhaustively, so that a new one must choose. Of failures of ours the
//! asker sees the kind, and the log sees the cause.

use std::time::Duration;

use admission::StoreError;
use admission::tenancy::RegistryError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use domain::Problems;
use serde::Serialize;
use store::UsageError;
use utoipa::ToSchema;

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Refusal(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    problem: Problem,
    retry_in: Option<Duration>,
}

/// Why a request was refused, and what to do (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Names the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:tollgate:problem:not_found")]
    kind: String,
    /// The kind of problem in a few words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What is wrong.
    detail: String,
    /// What to do about it.
    remedy: String,
    /// The kind of problem, for programs; the same as at the end of `type`.
    #[schema(example = "not_found")]
    code: &'static str,
    /// Each field that is wrong, if fields are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<FieldProblem>,
}

/// What is wrong with one field.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FieldProblem {
    /// Its path in the request, or the name of a header.
    #[schema(example = "policy.limits[0].max")]
    field: String,
    /// What is wrong, and what to do.
    message: String,
}

/// A kind of problem: what programs see, and what people see.
#[derive(Clone, Copy)]
struct Kind {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
}

impl Refusal {
    fn of(kind: Kind, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let Kind { status, code, title } = kind;
        let problem = Problem {
            kind: format!("{TYPE}{code}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            remedy: remedy.into(),
            code,
            problems: Vec::new(),
        };
        Self(Box::new(Told { status, problem, retry_in: None }))
    }

    /// Nobody is named by the token, or there is none.
    pub(super) fn unauthenticated() -> Self {
        let detail = "the administrator's token is missing or wrong";
        let remedy = "send a token as `Authorization: Bearer ...`; a tenant's API key is none";
        Self::of(UNAUTHENTICATED, detail, remedy)
    }

    /// Fields are wrong.
    pub(super) fn invalid(problems: &Problems) -> Self {
        let told = problems.iter().map(|problem| FieldProblem {
            field: problem.at.clone(),
            message: problem.message.clone(),
        });
        let told: Vec<FieldProblem> = told.collect();
        let remedy = "correct the fields that are named, and send it again";
        let mut refusal = Self::of(INVALID, problems.to_string(), remedy);
        refusal.0.problem.problems = told;
        refusal
    }

    /// One field is wrong.
    pub(super) fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut problems = Problems::default();
        problems.add(field, message);
        Self::invalid(&problems)
    }

    /// The body is not JSON at all.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::of(MALFORMED, detail, "send a JSON object")
    }

    pub(super) fn wrong_media_type() -> Self {
        let detail = "the body is not declared as JSON";
        Self::of(WRONG_MEDIA_TYPE, detail, "send `Content-Type: application/json`")
    }

    pub(super) fn too_large() -> Self {
        let detail = format!("the body has more than {} bytes", super::MAX_BODY_BYTES);
        Self::of(TOO_LARGE, detail, "send less; no record needs as much")
    }

    /// A change does not say which version its asker saw.
    pub(super) fn no_precondition() -> Self {
        let detail = "`If-Match` is missing";
        let remedy = "send the `ETag` of the record as it was read, or `*` for whatever it is now";
        Self::of(NO_PRECONDITION, detail, remedy)
    }

    /// The tag is none that a record ever has.
    pub(super) fn foreign_tag() -> Self {
        let detail = "`If-Match` is not a tag of this record";
        Self::of(FOREIGN_TAG, detail, "read the record again, and send its `ETag` as it is")
    }

    pub(super) fn no_route() -> Self {
        let remedy = "look it up in `/admin/v1/openapi.json`";
        Self::of(NO_ROUTE, "there is nothing at this address", remedy)
    }

    pub(super) fn no_method() -> Self {
        let remedy = "use one of those that `Allow` names";
        Self::of(NO_METHOD, "this address does not know this method", remedy)
    }

    /// The worker of this name cannot be told.
    pub(super) fn lost_worker(name: &str) -> Self {
        let remedy = "try again later; if it goes on, look at the worker";
        Self::of(LOST_WORKER, format!("worker `{name}` does not answer"), remedy).retry_in(PAUSE)
    }

    /// There is no worker of this name.
    pub(super) fn no_worker(name: &str) -> Self {
        let message = format!("no worker is called `{name}`; `/admin/v1/status` lists them");
        Self::invalid_field("worker", message)
    }

    /// What is to be loaded has a name that is taken.
    pub(super) fn model_name_taken(detail: impl Into<String>) -> Self {
        Self::of(NAME_TAKEN, detail, "choose another name, or unload what has it")
    }

    /// The worker serves nothing of this name.
    pub(super) fn no_such_model(detail: impl Into<String>) -> Self {
        Self::of(NO_SUCH_MODEL, detail, "look at what the worker serves, or load it before")
    }

    /// The worker cannot use the files of a model.
    pub(super) fn model_unreadable(detail: impl Into<String>) -> Self {
        Self::of(UNREADABLE, detail, "look at the files on the worker's machine, and load it again")
    }

    /// The worker may not load from there.
    pub(super) fn model_outside(detail: impl Into<String>) -> Self {
        Self::of(
            OUTSIDE,
            detail,
            "put the model below `loading.folder` of the worker's configuration",
        )
    }

    /// A model does not fit.
    pub(super) fn no_memory(detail: impl Into<String>) -> Self {
        Self::of(NO_MEMORY, detail, "unload another model, or load this one in fewer bits")
    }

    /// The worker takes nothing new.
    pub(super) fn worker_drains(name: &str) -> Self {
        let detail = format!("worker `{name}` is draining");
        Self::of(DRAINING, detail, "ask another worker, or this one when it has started again")
    }

    /// The configuration cannot be read again.
    pub(super) fn not_reloaded(detail: impl Into<String>, remedy: &'static str) -> Self {
        Self::of(NOT_RELOADED, detail, remedy)
    }

    /// Somebody else is doing the same, and once at a time is enough.
    pub(super) fn busy(detail: &str) -> Self {
        Self::of(BUSY, detail, "try again when that is over").retry_in(BUSY_PAUSE)
    }

    /// The same, where the asker knows a field by another name.
    pub(super) fn calling(mut self, field: &str, name: &str) -> Self {
        for problem in &mut self.0.problem.problems {
            if problem.field == field {
                name.clone_into(&mut problem.field);
            }
        }
        self
    }

    fn retry_in(mut self, pause: Duration) -> Self {
        self.0.retry_in = Some(pause);
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Told { status, problem, retry_in } = *self.0;
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM)], body).into_response();
        let headers = response.headers_mut();
        if let Some(pause) = retry_in {
            headers.insert(header::RETRY_AFTER, pause.as_secs().into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        let (status, title) = appearance(&error);
        let kind = Kind { status, code: error.label(), title };
        match &error {
            RegistryError::Invalid(problems) => Self::invalid(problems),
            RegistryError::Store(cause) => {
                tracing::warn!(error = ?cause, "tenants not read or changed");
                Self::of(kind, error.detail(), error.remedy()).retry_in(PAUSE)
            }
            RegistryError::Contended => {
                Self::of(kind, error.detail(), error.remedy()).retry_in(PAUSE)
            }
            _ => Self::of(kind, error.detail(), error.remedy()),
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::warn!(error = ?error, "ledger not read");
        let remedy = "try again later; if it goes on, look at the database";
        Self::of(UNAVAILABLE, "read the ledger", remedy).retry_in(PAUSE)
    }
}

impl From<UsageError> for Refusal {
    fn from(error: UsageError) -> Self {
        match error {
            UsageError::Invalid { field, problem } => Self::invalid_field(field, problem),
            UsageError::Store(error) => error.into(),
        }
    }
}

/// The status and the title of an error; exhaustive, so that a new one must choose.
const fn appearance(error: &RegistryError) -> (StatusCode, &'static str) {
    match error {
        RegistryError::UnknownActor { .. } => {
            (StatusCode::UNAUTHORIZED, "The token is not good any more")
        }
        RegistryError::Forbidden { .. } => (StatusCode::FORBIDDEN, "The role may not do this"),
        RegistryError::NotFound { .. } => (StatusCode::NOT_FOUND, "There is no such thing"),
        RegistryError::Invalid(_) => (INVALID.status, INVALID.title),
        RegistryError::NameTaken { .. } => (StatusCode::CONFLICT, "The name is taken"),
        RegistryError::Conflict { .. } => (StatusCode::CONFLICT, "Something is in the way"),
        RegistryError::Revoked { .. } => (StatusCode::CONFLICT, "It was revoked"),
        RegistryError::VersionMoved { .. } => {
            (StatusCode::PRECONDITION_FAILED, "It was changed meanwhile")
        }
        RegistryError::RepetitionDiffers { .. } => {
            (StatusCode::UNPROCESSABLE_ENTITY, "The idempotency key was used for something else")
        }
        RegistryError::Contended => {
            (StatusCode::SERVICE_UNAVAILABLE, "Others changed something first")
        }
        RegistryError::Store(_) => (UNAVAILABLE.status, UNAVAILABLE.title),
    }
}

const fn kind(status: StatusCode, code: &'static str, title: &'static str) -> Kind {
    Kind { status, code, title }
}

const UNAUTHENTICATED: Kind =
    kind(StatusCode::UNAUTHORIZED, "unauthenticated", "An administrator's token is needed");
const INVALID: Kind = kind(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Fields are wrong");
const MALFORMED: Kind = kind(StatusCode::BAD_REQUEST, "malformed", "The body is not JSON");
const WRONG_MEDIA_TYPE: Kind =
    kind(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_media_type", "The body must be JSON");
const TOO_LARGE: Kind = kind(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is too large");
const NO_PRECONDITION: Kind =
    kind(StatusCode::PRECONDITION_REQUIRED, "precondition_required", "A precondition is needed");
const FOREIGN_TAG: Kind =
    kind(StatusCode::PRECONDITION_FAILED, "version_moved", "It was changed meanwhile");
const NO_ROUTE: Kind = kind(StatusCode::NOT_FOUND, "no_such_route", "There is no such address");
const NO_METHOD: Kind =
    kind(StatusCode::METHOD_NOT_ALLOWED, "no_such_method", "There is no such method here");
const BUSY: Kind = kind(StatusCode::SERVICE_UNAVAILABLE, "busy", "It is being done already");
const NOT_RELOADED: Kind =
    kind(StatusCode::CONFLICT, "not_reloaded", "The configuration cannot be read again");
const NAME_TAKEN: Kind = kind(StatusCode::CONFLICT, "model_name_taken", "The name is taken");
const NO_SUCH_MODEL: Kind =
    kind(StatusCode::NOT_FOUND, "no_such_model", "The worker serves no such model");
const UNREADABLE: Kind =
    kind(StatusCode::UNPROCESSABLE_ENTITY, "model_unreadable", "The model cannot be loaded");
const OUTSIDE: Kind =
    kind(StatusCode::FORBIDDEN, "model_outside", "The worker may not load from there");
const NO_MEMORY: Kind = kind(StatusCode::CONFLICT, "no_memory", "The worker has no memory for it");
const DRAINING: Kind = kind(StatusCode::CONFLICT, "worker_draining", "The worker is leaving");
const LOST_WORKER: Kind =
    kind(StatusCode::SERVICE_UNAVAILABLE, "worker_lost", "The worker does not answer");
const UNAVAILABLE: Kind =
    kind(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The database does not answer");

const PROBLEM: &str = "application/problem+json";
const TYPE: &str = "urn:tollgate:problem:";
const PAUSE: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_a_failure_of_ours_is_told_when_to_come_again_and_not_what_went_wrong() {
        let cause = || StoreError::new("open database", std::io::Error::other("hunter2"));
        for refusal in [Refusal::from(RegistryError::Store(cause())), Refusal::from(cause())] {
            let response = refusal.into_response();
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()["retry-after"], "1");
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let text = String::from_utf8(body.to_vec()).unwrap();
            assert!(text.contains("\"unavailable\"") && !text.contains("hunter2"), "{text}");
        }
    }
}
