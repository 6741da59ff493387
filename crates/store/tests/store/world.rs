//! What the tests of several stores need.

use std::path::Path;
use std::sync::Arc;

use admission::{Admitted, Entry, Outcome, Quantity};
use domain::{
    Charge, FinishReason, GatewayId, GpuTime, HoldId, KeyId, ManualClock, ModelDigest, ModelName,
    NanoUsd, OrganizationId, ProjectId, RequestId, Scope, Timestamp, Usage, Work,
};
use store::{Database, DatabaseAddress, JournaledLedger};

pub(crate) fn scope() -> Scope {
    Scope {
        organization: OrganizationId::from_u128(1),
        project: ProjectId::from_u128(2),
        user: None,
        key: KeyId::from_u128(3),
    }
}

pub(crate) const GATEWAY: GatewayId = GatewayId::from_u128(9);

pub(crate) fn admitted() -> Admitted {
    Admitted {
        hold: HoldId::generate(),
        request: RequestId::generate(),
        gateway: GATEWAY,
        scope: scope(),
        model: ModelName::new("m"),
        digest: ModelDigest::new("00"),
        at: Timestamp::from_millis(1_780_000_000_000),
        prompt_tokens: 3,
    }
}

pub(crate) fn closed(admitted: &Admitted, charge: i64) -> Entry {
    let (charge, gpu) = (NanoUsd::from_nanos(charge), GpuTime::from_nanos(9));
    let work = Work {
        worker: "w".to_owned(),
        incarnation: "1".to_owned(),
        gpu,
        recompute: GpuTime::ZERO,
        price_per_hour: NanoUsd::from_dollars(1),
        complete: true,
    };
    Entry {
        admitted: admitted.clone(),
        outcome: Outcome::Finished(FinishReason::Stop),
        closed_at: admitted.at,
        usage: Usage { prompt_tokens: 3, gpu, ..Usage::default() },
        charge: Charge { cost: NanoUsd::ZERO, charge },
        overrun: NanoUsd::ZERO,
        counted: Quantity { money: charge, tokens: 3, gpu },
        work: vec![work],
    }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_millis(1_780_000_000_000)))
}

pub(crate) async fn database(folder: &Path) -> Database {
    Database::open(&DatabaseAddress::Sqlite(folder.join("tollgate.db"))).await.unwrap()
}

pub(crate) async fn ledger(folder: &Path) -> JournaledLedger {
    let database = database(folder).await;
    JournaledLedger::open(&folder.join("ledger.journal"), database, clock()).await.unwrap()
}
