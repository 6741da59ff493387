//! The description of the admin API in the words of `OpenAPI` 3.1.
//!
//! Handlers and types describe themselves; here is only what holds for all of them: the frame, the token, and
//! how refusals look.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::Type;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, Ref,
    RefOr, Response, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::routes;

use super::Routes;
use super::refusal::{FieldProblem, Problem};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(read))
}

/// Tells what there is, in the words of `OpenAPI` 3.1. It needs no token.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "describe", tag = "operation",
    responses((status = 200, description = "This document.", body = Object)),
)]
async fn read() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document())
}

/// The whole description, as text.
pub(super) fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let (_, document) = super::described().split_for_parts();
        let text = finished(document).to_pretty_json().unwrap_or_default();
        format!("{text}\n")
    });
    &DOCUMENT
}

/// What the description has before anything is in it.
pub(super) fn frame() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Tollgate admin API")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .build();
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An administrator's token."))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme(TOKEN, SecurityScheme::Http(token))
        .schema(Problem::name(), Problem::schema())
        .schema(FieldProblem::name(), FieldProblem::schema())
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

/// The description with what every operation has.
fn finished(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        let is_open = !path.starts_with(super::ROOT) || path.ends_with("/openapi.json");
        let shows_one = path.contains("/{id}");
        for operation in operations(item) {
            if !is_open {
                operation.security = Some(vec![SecurityRequirement::new(TOKEN, NO_SCOPES)]);
                let refused = refused();
                operation.responses.responses.insert("default".to_owned(), RefOr::T(refused));
            }
            if shows_one && operation.parameters.iter().flatten().any(|one| one.name == KNOWN) {
                let unchanged = Response::new("The record has the version that is known.");
                operation.responses.responses.insert("304".to_owned(), RefOr::T(unchanged));
            }
            let makes = operation.responses.responses.contains_key("201");
            if shows_one || makes {
                tag(operation);
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, post, put, patch, delete, .. } = item;
    [get, post, put, patch, delete].into_iter().filter_map(Option::as_mut)
}

/// Says that answers show the record's version.
fn tag(operation: &mut Operation) {
    let tag = HeaderBuilder::new()
        .schema(ObjectBuilder::new().schema_type(Type::String))
        .description(Some("The version of the record, for `If-Match` and `If-None-Match`."))
        .build();
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with('2')
        {
            response.headers.insert("ETag".to_owned(), tag.clone());
        }
    }
}

fn refused() -> Response {
    let content =
        ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    ResponseBuilder::new()
        .description("Why it was refused, and what to do.")
        .content("application/problem+json", content)
        .build()
}

const ABOUT: &str = "Tenants, prices, usage and money of one Tollgate installation. \
    A change needs `If-Match`, is done once under an `Idempotency-Key`, and only said under `dry_run`.";
const TOKEN: &str = "token";
const KNOWN: &str = "If-None-Match";
const NO_SCOPES: [&str; 0] = [];
