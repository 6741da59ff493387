//! `GET /healthz` and `GET /readyz`, for whoever keeps the process running.

use http::Method;
use serde_json::{Value, json};

use super::{Action, Endpoint};
use crate::gateway::Gateway;

/// The process answers.
pub(crate) const HEALTHZ: Endpoint =
    Endpoint { method: Method::GET, path: "/healthz", action: Action::Probe(healthy) };

/// The same, under the name that load tools look for.
pub(crate) const HEALTH: Endpoint =
    Endpoint { method: Method::GET, path: "/health", action: Action::Probe(healthy) };

/// A request sent now would find a model.
pub(crate) const READYZ: Endpoint =
    Endpoint { method: Method::GET, path: "/readyz", action: Action::Probe(ready) };

fn healthy(_: &Gateway) -> (u16, Value) {
    (200, json!({ "status": "ok" }))
}

fn ready(gateway: &Gateway) -> (u16, Value) {
    match gateway.readiness() {
        Ok(()) => (200, json!({ "status": "ready" })),
        Err(reason) => (503, json!({ "status": "not ready", "reason": reason })),
    }
}
