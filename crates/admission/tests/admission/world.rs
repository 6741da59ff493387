//! A small world to admit requests in: two keys of one project, a ledger that remembers.

use std::sync::{Arc, Mutex};

use admission::{
    Admission, AdmissionParts, Admitted, ApiKey, Budget, Caller, Directory, Entry, KeyRecord,
    Ledger, Limits, NewKey, Pepper, Place, Snapshot, StoreError, Tenants,
};
use async_trait::async_trait;
use domain::{
    Job, JobParts, KeyId, ManualClock, ModelDigest, ModelName, NanoUsd, OrganizationId, Price,
    PricePerMillion, ProjectId, RequestId, Sampling, Scope, ScopeId, Timestamp,
};
use store::MemoryQuota;

/// Everything a test holds on to.
pub(crate) struct World {
    pub(crate) admission: Admission,
    pub(crate) ledger: Arc<Rows>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) callers: Vec<Caller>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) tenants: Arc<FixedTenants>,
    pub(crate) keys: Vec<ApiKey>,
}

/// What stands at organization, project and each key.
#[derive(Clone, Copy, Default)]
pub(crate) struct Rules {
    pub(crate) organization: (Limits, Option<NanoUsd>),
    pub(crate) project: (Limits, Option<NanoUsd>),
    pub(crate) key: (Limits, Option<NanoUsd>),
}

impl World {
    pub(crate) async fn new(rules: Rules, keys: usize) -> Self {
        let pepper = Pepper::generate();
        let keys: Vec<ApiKey> = (0..keys).map(|_| ApiKey::generate()).collect();
        let records = keys.iter().enumerate().map(|(at, key)| record(at, key, &pepper, rules));
        let snapshot = Snapshot { revision: 1, keys: records.collect() };
        let tenants = Arc::new(FixedTenants(Mutex::new(snapshot)));
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let ledger = Arc::new(Rows::default());
        let directory = Directory::open(Arc::clone(&tenants) as _, pepper).await.unwrap();
        let directory = Arc::new(directory);
        let callers = keys.iter().map(|key| directory.identify(key.expose()).unwrap()).collect();
        let admission = Admission::new(AdmissionParts {
            directory: Arc::clone(&directory),
            quota: Arc::new(MemoryQuota::new(Arc::clone(&clock) as _, [])),
            ledger: Arc::clone(&ledger) as _,
            clock: Arc::clone(&clock) as _,
        });
        Self { admission, ledger, clock, callers, directory, tenants, keys }
    }

    pub(crate) async fn open_holds(&self) -> usize {
        self.admission.open_holds().await.unwrap()
    }
}

/// A job of 100 nano-dollars per prompt token and 400 per output token.
pub(crate) fn job(prompt: usize, max_output: u32) -> Job {
    let per_million = |micros: i64| PricePerMillion::new(NanoUsd::from_nanos(micros)).unwrap();
    let price = Price::Tokens {
        input: per_million(100_000_000),
        cached_input: per_million(50_000_000),
        output: per_million(400_000_000),
    };
    priced_job(prompt, max_output, price)
}

pub(crate) fn priced_job(prompt: usize, max_output: u32, price: Price) -> Job {
    Job::new(JobParts {
        request: RequestId::generate(),
        model: ModelName::new("m"),
        digest: ModelDigest::new("00"),
        context_length: 100_000,
        prompt: vec![1; prompt].into(),
        max_output: Some(max_output),
        sampling: Sampling::greedy(),
        stop: Vec::new(),
        reproducible: true,
        price,
    })
    .unwrap()
}

fn record(at: usize, key: &ApiKey, pepper: &Pepper, rules: Rules) -> KeyRecord {
    let scope = Scope {
        organization: OrganizationId::from_u128(1),
        project: ProjectId::from_u128(2),
        user: None,
        key: KeyId::from_u128(3 + at as u128),
    };
    let place = |scope: ScopeId, (limits, amount): (Limits, Option<NanoUsd>)| Place {
        scope,
        limits,
        budget: amount.map(|amount| Budget { amount }),
    };
    let [organization, project, own] = scope.levels();
    KeyRecord {
        scope,
        digest: pepper.digest(key),
        name: format!("key {at}"),
        created_at: Timestamp::default(),
        revoked_at: None,
        models: Vec::new(),
        places: [
            place(organization, rules.organization),
            place(project, rules.project),
            place(own, rules.key),
        ],
    }
}

/// Tenants that a test changes by hand.
pub(crate) struct FixedTenants(pub(crate) Mutex<Snapshot>);

#[async_trait]
impl Tenants for FixedTenants {
    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.0.lock().unwrap().revision)
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn create_key(&self, _: NewKey) -> Result<KeyRecord, StoreError> {
        Err(StoreError::new("create key", "these tenants are fixed"))
    }

    async fn revoke_key(&self, _: KeyId) -> Result<bool, StoreError> {
        Err(StoreError::new("revoke key", "these tenants are fixed"))
    }

    async fn set_place(&self, _: &Place) -> Result<bool, StoreError> {
        Err(StoreError::new("set limits", "these tenants are fixed"))
    }
}

/// A ledger that remembers, and fails as often as it is told to.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) opened: Mutex<Vec<Admitted>>,
    pub(crate) closed: Mutex<Vec<Entry>>,
    pub(crate) failures: Mutex<u32>,
}

impl Rows {
    pub(crate) fn charged(&self) -> NanoUsd {
        self.closed.lock().unwrap().iter().map(|entry| entry.charge.charge).sum()
    }

    fn fail(&self) -> Result<(), StoreError> {
        let mut failures = self.failures.lock().unwrap();
        if *failures == 0 {
            return Ok(());
        }
        *failures -= 1;
        Err(StoreError::new("write row", "the disk is full"))
    }
}

#[async_trait]
impl Ledger for Rows {
    async fn open(&self, admitted: &Admitted) -> Result<(), StoreError> {
        self.fail()?;
        self.opened.lock().unwrap().push(admitted.clone());
        Ok(())
    }

    async fn close(&self, entry: &Entry) -> Result<(), StoreError> {
        self.fail()?;
        self.closed.lock().unwrap().push(entry.clone());
        Ok(())
    }
}
