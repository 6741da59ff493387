//! The admin listener: probes and metrics for machines, tenants and money for administrators.
//!
//! Everything under `/admin/v1` but its description needs an administrator's token; what its role may do is
//! decided by the [`Registry`] alone, and every handler asks it. Each resource is complete in its own file
//! and has one line in [`RESOURCES`]. The description is made of the same handlers and types as the answers.
//!
//! Promises: what refuses is a problem (RFC 9457) that says what to do; no answer holds a secret but the one
//! that made it; a change needs the version that its asker saw, and is done once under an idempotency key.
//!
//! The listener is meant for loopback or a private network.

mod admins;
mod answer;
mod asked;
mod audit;
mod budgets;
mod configuration;
mod description;
mod end_users;
mod keys;
mod ledger;
mod loading;
mod organizations;
mod policy;
mod prices;
mod probes;
mod projects;
mod records;
mod refusal;
mod status;
mod usage;
mod whoami;
mod words;
mod workers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use admission::tenancy::Registry;
use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};
use domain::{Clock, Timestamp};
use store::Database;
use tokio::sync::Mutex;
use utoipa_axum::router::OpenApiRouter;

use self::refusal::Refusal;
use crate::gateway::Gateway;
use crate::reload::Reloads;

/// What the admin listener shows and changes.
pub(crate) struct AdminApi {
    gateway: Arc<Gateway>,
    reloads: Arc<Reloads>,
    registry: Registry,
    database: Database,
    clock: Arc<dyn Clock>,
    /// Taken while the ledger is added up: that reads every row, and one at a time is enough.
    verifying: Mutex<()>,
}

impl AdminApi {
    pub(crate) fn new(
        reloads: Arc<Reloads>,
        registry: Registry,
        database: Database,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let gateway = Arc::clone(&reloads.gateway);
        Self { gateway, reloads, registry, database, clock, verifying: Mutex::default() }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// The admin listener's routes.
pub(crate) fn routes(api: AdminApi) -> Router {
    let (routes, _) = described().split_for_parts();
    routes
        .fallback(|| async { Refusal::no_route() })
        .method_not_allowed_fallback(|| async { Refusal::no_method() })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_response(answer::finish))
        .with_state(Arc::new(api))
}

/// Routes with their descriptions.
fn described() -> Routes {
    let resources = RESOURCES.iter().fold(Routes::new(), |all, one| all.merge(one()));
    Routes::with_openapi(description::frame()).merge(probes::routes()).nest(ROOT, resources)
}

/// Routes of one resource.
type Routes = OpenApiRouter<Arc<AdminApi>>;

/// What there is under [`ROOT`]: one file and one line each.
static RESOURCES: &[fn() -> Routes] = &[
    organizations::routes,
    projects::routes,
    end_users::routes,
    keys::routes,
    admins::routes,
    prices::routes,
    budgets::routes,
    usage::routes,
    ledger::routes,
    audit::routes,
    status::routes,
    workers::routes,
    loading::routes,
    configuration::routes,
    whoami::routes,
    description::routes,
];

const ROOT: &str = "/admin/v1";
const MAX_BODY_BYTES: usize = 256 << 10;
