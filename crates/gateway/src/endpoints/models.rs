//! `GET /v1/models` and `GET /v1/models/{id}`.

use admission::Caller;
use domain::{ModelKind, ModelName};
use http::Method;
use serde_json::{Value, json};

use super::{Action, Endpoint};
use crate::catalog::Model;
use crate::failure::Failure;
use crate::gateway::Gateway;

pub(crate) const LIST: Endpoint =
    Endpoint { method: Method::GET, path: "/v1/models", action: Action::Read(list) };

pub(crate) const ONE: Endpoint =
    Endpoint { method: Method::GET, path: "/v1/models/*", action: Action::Read(one) };

#[expect(clippy::unnecessary_wraps, reason = "every `Read` action has one type")]
fn list(gateway: &Gateway, caller: &Caller, _: &str) -> Result<Value, Failure> {
    let models = gateway.catalog().visible_to(caller);
    let data: Vec<Value> = models.iter().map(|model| describe(model)).collect();
    Ok(json!({ "object": "list", "data": data }))
}

fn one(gateway: &Gateway, caller: &Caller, name: &str) -> Result<Value, Failure> {
    Ok(describe(&*gateway.catalog().model(caller, &ModelName::new(name))?))
}

fn describe(model: &Model) -> Value {
    let dimensions = match model.info.kind {
        ModelKind::Text => None,
        ModelKind::Embedding { dimensions } => Some(dimensions),
    };
    let mut described = json!({
        "id": model.info.name,
        "object": "model",
        // Models have no date of their own; clients only need a number.
        "created": 0,
        "owned_by": "tollgate",
        "context_length": model.info.context_length,
        "digest": model.info.digest,
        "weights": model.info.weights,
    });
    if let Some(dimensions) = dimensions {
        // It makes vectors of so many numbers, and no text.
        described["embedding_dimensions"] = dimensions.into();
    }
    described
}
