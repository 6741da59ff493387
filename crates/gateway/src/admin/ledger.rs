//! Whether the ledger adds up.

use std::sync::Arc;

use admission::tenancy::{Action, Resource};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::asked::Caller;
use super::refusal::Refusal;
use super::{AdminApi, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(verify))
}

/// What a verification found.
#[derive(Serialize, ToSchema)]
#[schema(as = LedgerVerification)]
pub(super) struct Verification {
    /// Whether everything is as it must be.
    clean: bool,
    /// Ledger rows that were added up.
    rows: u64,
    /// Budgets whose balance was derived again, each window by itself.
    balances: u64,
    /// Lives of workers whose time was added up.
    worker_lives: u64,
    /// Lines of the audit log that were checked.
    audit_lines: u64,
    /// Everything that is not as it must be, in words.
    differences: Vec<String>,
}

/// Adds everything up again from the ledger's rows, and tells where it differs from what is kept.
///
/// It takes as long as reading every row does; one runs at a time.
#[utoipa::path(
    get, path = "/ledger/verification", operation_id = "verify_ledger", tag = "money",
    responses((status = 200, description = "What was found.", body = Verification)),
)]
async fn verify(
    State(api): State<Arc<AdminApi>>,
    Caller(actor): Caller,
) -> Result<Json<Verification>, Refusal> {
    api.registry.authorize(actor, Action::Read, Resource::Ledger).await?;
    let busy = |_| Refusal::busy("the ledger is being added up already");
    let _alone = api.verifying.try_lock().map_err(busy)?;
    let found = api.database.verify().await?;
    Ok(Json(Verification {
        clean: found.is_clean(),
        rows: found.rows,
        balances: found.balances,
        worker_lives: found.workers,
        audit_lines: found.audit_lines,
        differences: found.differences,
    }))
}
