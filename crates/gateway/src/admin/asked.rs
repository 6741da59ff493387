//! What a request says besides its address: who asks, under which terms, with which body.
//!
//! Each is an extractor that describes itself, so that a handler's arguments say what it needs.

use std::sync::Arc;

use admission::tenancy::{Actor, Kept, RegistryError, Terms};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, Required};

use super::AdminApi;
use super::refusal::Refusal;

/// Whoever showed an administrator's token.
pub(super) struct Caller(pub(super) Actor);

/// The id at the end of an address.
pub(super) struct Subject<K: Kept>(pub(super) K::Id);

/// What the query says.
pub(super) struct Filter<T>(pub(super) T);

/// What the body says. No body, and `null`, say what an empty object does.
pub(super) struct Body<T>(pub(super) T);

/// What a reader knows already, by `If-None-Match`.
pub(super) struct Known(Option<String>);

/// The terms of making something.
pub(super) struct Making(pub(super) Terms);

/// The terms of changing something that is there: `If-Match` must say which version of it was seen.
pub(super) struct Changing(pub(super) Terms);

impl FromRequestParts<Arc<AdminApi>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<AdminApi>) -> Result<Self, Refusal> {
        let shown = text(&parts.headers, &header::AUTHORIZATION).ok().flatten();
        let token = shown.and_then(|value| value.split_once(' ')).and_then(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start())
        });
        let token = token.ok_or_else(Refusal::unauthenticated)?;
        let actor = api.registry.recognize(token).await?;
        actor.map(Self).ok_or_else(Refusal::unauthenticated)
    }
}

impl<K: Kept, S: Send + Sync> FromRequestParts<S> for Subject<K> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = path.map_err(|_| Refusal::no_route())?;
        let missing = |_| RegistryError::NotFound { resource: K::RESOURCE, id: id.clone() };
        Ok(Self(id.parse().map_err(missing)?))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Filter<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(filter)) => Ok(Self(filter)),
            Err(rejection) => {
                let cause = std::error::Error::source(&rejection);
                let told = cause.map_or_else(|| rejection.to_string(), ToString::to_string);
                let (path, message) = told.split_once(": ").unwrap_or((".", &told));
                Err(Refusal::invalid_field(field(path, message), message))
            }
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let is_json = is_json(request.headers());
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| {
                match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => Refusal::too_large(),
                    _ => Refusal::malformed("the body did not come whole"),
                }
            })?;
        if matches!(bytes.trim_ascii(), b"" | b"null") {
            return parse(b"{}").map(Self);
        }
        if !is_json {
            return Err(Refusal::wrong_media_type());
        }
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Known {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Ok(Self(text(&parts.headers, &header::IF_NONE_MATCH)?.map(str::to_owned)))
    }
}

impl Known {
    /// Whether the reader knows this version.
    pub(super) fn is(&self, version: u64) -> bool {
        let tag = format!("\"{version}\"");
        let Some(known) = &self.0 else { return false };
        let mut tags = known.split(',').map(str::trim);
        tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Making {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Filter(Manner { dry_run }) = Filter::from_request_parts(parts, state).await?;
        let idempotency_key = text(&parts.headers, &IDEMPOTENCY_KEY)?.map(str::to_owned);
        Ok(Self(Terms { expected_version: None, idempotency_key, dry_run }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Changing {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Making(terms) = Making::from_request_parts(parts, state).await?;
        let tag = text(&parts.headers, &header::IF_MATCH)?.ok_or_else(Refusal::no_precondition)?;
        let expected_version = match tag.trim() {
            "*" => None,
            tag => Some(version(tag).ok_or_else(Refusal::foreign_tag)?),
        };
        Ok(Self(Terms { expected_version, ..terms }))
    }
}

/// How a change is to be done.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manner {
    #[serde(default)]
    dry_run: bool,
}

impl IntoParams for Making {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![
            parameter("dry_run", ParameterIn::Query, Type::Boolean, DRY_RUN),
            parameter("Idempotency-Key", ParameterIn::Header, Type::String, IDEMPOTENCY),
        ]
    }
}

impl IntoParams for Changing {
    fn into_params(place: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut tag = parameter("If-Match", ParameterIn::Header, Type::String, MATCH);
        tag.required = Required::True;
        let mut all = Making::into_params(place);
        all.push(tag);
        all
    }
}

impl IntoParams for Known {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![parameter("If-None-Match", ParameterIn::Header, Type::String, NONE_MATCH)]
    }
}

fn parameter(name: &str, place: ParameterIn, value: Type, about: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(ObjectBuilder::new().schema_type(value)))
        .build()
}

/// A header's text, if the header is there.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let message = match (value.to_str(), values.next()) {
        (Ok(value), None) => return Ok(Some(value)),
        (Ok(_), Some(_)) => "is there twice; send it once",
        (Err(_), _) => "must be visible ASCII characters",
    };
    Err(Refusal::invalid_field(name.as_str(), message))
}

fn is_json(headers: &HeaderMap) -> bool {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = declared.and_then(|declared| declared.split(';').next()).unwrap_or_default();
    MEDIA_TYPES.iter().any(|known| essence.trim().eq_ignore_ascii_case(known))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // A list would be taken for a record's fields in their order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::malformed("the body is not a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let (path, cause) = (error.path().to_string(), error.into_inner());
        let message = cause.to_string();
        if cause.is_data() {
            Refusal::invalid_field(field(&path, &message), message)
        } else {
            Refusal::malformed(message)
        }
    })?;
    reader.end().map_err(|error| Refusal::malformed(error.to_string()))?;
    Ok(parsed)
}

/// The path of a field that is wrong. One that is missing or unknown is named by the message.
fn field(path: &str, message: &str) -> String {
    let begins = ["missing field `", "unknown field `"];
    let named = begins.iter().find_map(|begin| message.strip_prefix(begin)?.split('`').next());
    match (path, named) {
        (".", None) => "body".to_owned(),
        (".", Some(name)) => name.to_owned(),
        (path, None) => path.to_owned(),
        (path, Some(name)) if path == name || path.ends_with(&format!(".{name}")) => {
            path.to_owned()
        }
        (path, Some(name)) => format!("{path}.{name}"),
    }
}

/// The version that a strong tag of ours names.
fn version(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let is_ours = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if is_ours { digits.parse().ok() } else { None }
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const MEDIA_TYPES: [&str; 2] = ["application/json", "application/merge-patch+json"];

const DRY_RUN: &str = "Only say what would be. Nothing changes, and ids of new things are made up.";
const IDEMPOTENCY: &str = "Names this change. Asked for again under the same key within a day, it is not \
    done again, and the answer is that of the first time, its secret included.";
const MATCH: &str = "The `ETag` of the record as it was read, or `*` for whatever it is now.";
const NONE_MATCH: &str = "An `ETag`; while the record has it, the answer is 304 without a body.";
