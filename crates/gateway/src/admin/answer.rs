//! How records are shown: with the version as their tag, and marked when nothing was done for it now.

use admission::tenancy::{Changed, Fate, Kept};
use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::asked::Known;

/// An answer that shows one record.
pub(super) struct Answer<T> {
    status: StatusCode,
    headers: HeaderMap,
    body: Option<T>,
}

/// Some of the records that were asked for, in the order of their ids.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The records.
    pub(super) items: Vec<T>,
    /// What to ask for next as `after`; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) next: Option<String>,
}

impl<T> Answer<T> {
    /// A record that is read by somebody who may know it already.
    pub(super) fn read(version: u64, known: &Known, body: T) -> Self {
        let (status, body) = if known.is(version) {
            (StatusCode::NOT_MODIFIED, None)
        } else {
            (StatusCode::OK, Some(body))
        };
        Self { status, headers: HeaderMap::new(), body }.tagged(version)
    }

    /// A record as a change left it.
    pub(super) fn changed<K: Kept>(changed: &Changed<K>, body: T) -> Self {
        let answer = Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Some(body) };
        match changed.fate {
            Fate::Done | Fate::Unchanged => answer.tagged(changed.record.version()),
            Fate::Replayed => {
                answer.tagged(changed.record.version()).marked(IDEMPOTENCY_REPLAYED, "true")
            }
            Fate::Planned => answer.marked(DRY_RUN, "true"),
        }
    }

    /// A record that is new in a collection.
    pub(super) fn made<K: Kept>(changed: &Changed<K>, collection: &str, body: T) -> Self {
        let answer = Self::changed(changed, body);
        if changed.fate == Fate::Planned {
            return answer;
        }
        let address = format!("{}/{collection}/{}", super::ROOT, changed.record.id());
        let answer = answer.marked(header::LOCATION, &address);
        Self { status: StatusCode::CREATED, ..answer }
    }

    /// A record that is gone, as it was. It has no tag any more.
    pub(super) fn removed<K: Kept>(changed: &Changed<K>, body: T) -> Self {
        let mut answer = Self::changed(changed, body);
        answer.headers.remove(header::ETAG);
        answer
    }

    fn tagged(self, version: u64) -> Self {
        self.marked(header::ETAG, &format!("\"{version}\""))
    }

    fn marked(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let Self { status, headers, body } = self;
        match body {
            Some(body) => (status, headers, Json(body)).into_response(),
            None => (status, headers).into_response(),
        }
    }
}

/// What every answer has: nobody on the way keeps it.
pub(super) async fn finish(mut response: Response) -> Response {
    let kept = HeaderValue::from_static("no-store");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(kept);
    response
}

const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const DRY_RUN: HeaderName = HeaderName::from_static("dry-run");
