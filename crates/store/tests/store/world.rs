//! What the tests of several stores need.

use std::path::Path;
use std::sync::Arc;

use admission::{Admitted, Entry, Outcome};
use domain::{
    Charge, FinishReason, GpuTime, HoldId, KeyId, ManualClock, ModelDigest, ModelName, NanoUsd,
    OrganizationId, ProjectId, RequestId, Scope, Timestamp, Usage,
};
use store::{JournaledLedger, Sqlite};

pub(crate) fn scope() -> Scope {
    Scope {
        organization: OrganizationId::from_u128(1),
        project: ProjectId::from_u128(2),
        user: None,
        key: KeyId::from_u128(3),
    }
}

pub(crate) fn admitted() -> Admitted {
    Admitted {
        hold: HoldId::generate(),
        request: RequestId::generate(),
        scope: scope(),
        model: ModelName::new("m"),
        digest: ModelDigest::new("00"),
        at: Timestamp::from_millis(1),
        prompt_tokens: 3,
    }
}

pub(crate) fn closed(admitted: &Admitted, charge: i64) -> Entry {
    Entry {
        admitted: admitted.clone(),
        outcome: Outcome::Finished(FinishReason::Stop),
        closed_at: Timestamp::from_millis(2),
        usage: Usage { prompt_tokens: 3, gpu: GpuTime::from_nanos(9), ..Usage::default() },
        charge: Charge { cost: NanoUsd::ZERO, charge: NanoUsd::from_nanos(charge) },
        overrun: NanoUsd::ZERO,
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)))
}

pub(crate) async fn database(folder: &Path) -> Sqlite {
    Sqlite::open(&folder.join("tollgate.db")).await.unwrap()
}

pub(crate) async fn ledger(folder: &Path) -> JournaledLedger {
    let database = database(folder).await;
    JournaledLedger::open(&folder.join("ledger.journal"), database, clock()).await.unwrap()
}
