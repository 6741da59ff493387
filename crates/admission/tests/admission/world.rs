//! A small world to admit requests in: two keys of one project, a ledger that remembers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use admission::bank::Founding;
use admission::tenancy::{
    Amount, AuditDraft, AuditEntry, Budget, Change, Changes, Committed, Enforcement, Idempotency,
    Key, Limit, LimitKind, Organization, Policy, Project, Record, Tenants, TimeZone, Window,
};
use admission::{
    Admission, AdmissionParts, Admitted, ApiKey, Books, Caller, Claim, Directory, Entry, Ledger,
    Measure, Pepper, SliceSettings, SlicedQuota, Slices, StoreError,
};
use async_trait::async_trait;
use domain::{
    GatewayId, Job, JobParts, KeyId, ManualClock, ModelDigest, ModelName, NanoUsd, OrganizationId,
    OwnBound, Price, PricePerMillion, ProjectId, RequestId, RuleId, Sampling, Timestamp,
};
use store::MemoryBank;

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

/// The limits that tests use.
#[derive(Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) requests_per_minute: Option<u64>,
    pub(crate) concurrent_requests: Option<u64>,
}

impl World {
    pub(crate) async fn new(rules: Rules, keys: usize) -> Self {
        let pepper = Pepper::generate();
        let keys: Vec<ApiKey> = (0..keys).map(|_| ApiKey::generate()).collect();
        let records = records(&keys, &pepper, rules);
        let tenants = Arc::new(FixedTenants(Mutex::new(Changes {
            revision: 1,
            records,
            removed: Vec::new(),
        })));
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let ledger = Arc::new(Rows::default());
        let directory = Directory::open(Arc::clone(&tenants) as _, pepper).await.unwrap();
        let directory = Arc::new(directory);
        let callers = keys.iter().map(|key| directory.identify(key.expose()).unwrap()).collect();
        let settings = SliceSettings { gateways: 1, request_timeout: Duration::from_mins(10) };
        let quota = SlicedQuota::new(
            Slices::new(GATEWAY, 1, settings),
            Arc::new(MemoryBank::new(Arc::clone(&clock) as _)),
            Arc::clone(&ledger) as _,
            Arc::clone(&clock) as _,
        );
        let admission = Admission::new(AdmissionParts {
            gateway: GATEWAY,
            directory: Arc::clone(&directory),
            quota: Arc::new(quota),
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
    bounded_job(prompt, max_output, price, OwnBound::default())
}

pub(crate) fn bounded_job(prompt: usize, max_output: u32, price: Price, bound: OwnBound) -> Job {
    Job::new(JobParts {
        request: RequestId::generate(),
        model: ModelName::new("m"),
        digest: ModelDigest::new("00"),
        context_length: 100_000,
        prompt: vec![1; prompt].into(),
        max_output: Some(max_output),
        choices: 1,
        sampling: Sampling::greedy(),
        output: domain::OutputRules::default(),
        stop: Vec::new(),
        share: domain::Share::of(domain::ProjectId::generate()),
        reproducible: true,
        price,
        bound,
    })
    .unwrap()
}

fn records(keys: &[ApiKey], pepper: &Pepper, rules: Rules) -> Vec<Record> {
    let created_at = Timestamp::default();
    let organization = Organization {
        id: OrganizationId::from_u128(1),
        version: 1,
        name: "acme".to_owned(),
        time_zone: TimeZone::default(),
        policy: policy(rules.organization),
        webhook: None,
        metadata: BTreeMap::new(),
        created_at,
    };
    let project = Project {
        id: ProjectId::from_u128(2),
        version: 1,
        organization: organization.id,
        name: "search".to_owned(),
        policy: policy(rules.project),
        each_end_user: Policy::default(),
        metadata: BTreeMap::new(),
        created_at,
    };
    let own = keys.iter().enumerate().map(|(at, key)| {
        Record::Key(Key {
            id: KeyId::from_u128(3 + at as u128),
            version: 1,
            project: project.id,
            name: format!("key {at}"),
            digest: pepper.digest(key),
            retiring: Vec::new(),
            rotation: None,
            policy: policy(rules.key),
            metadata: BTreeMap::new(),
            created_at,
            revoked_at: None,
        })
    });
    let own: Vec<Record> = own.collect();
    [vec![Record::Organization(organization), Record::Project(project)], own].concat()
}

fn policy((limits, amount): (Limits, Option<NanoUsd>)) -> Policy {
    let limit = |kind, max: Option<u64>| {
        max.map(|max| Limit { id: RuleId::generate(), kind, max, model: None })
    };
    let budget = |amount| Budget {
        id: RuleId::generate(),
        amount: Amount::Money(amount),
        window: Window::Total,
        enforcement: Enforcement::Hard,
        alert_percent: Vec::new(),
        model: None,
    };
    let limits = [
        limit(LimitKind::RequestsPerMinute, limits.requests_per_minute),
        limit(LimitKind::ConcurrentRequests, limits.concurrent_requests),
    ];
    Policy {
        limits: limits.into_iter().flatten().collect(),
        budgets: amount.map(budget).into_iter().collect(),
        ..Policy::default()
    }
}

/// Tenants that a test changes by hand.
pub(crate) struct FixedTenants(pub(crate) Mutex<Changes>);

#[async_trait]
impl Tenants for FixedTenants {
    async fn revision(&self) -> Result<u64, StoreError> {
        Ok(self.0.lock().unwrap().revision)
    }

    async fn changes(&self, _: u64) -> Result<Changes, StoreError> {
        Ok(self.0.lock().unwrap().clone())
    }

    async fn commit(&self, _: &Change) -> Result<Committed, StoreError> {
        Err(StoreError::new("change tenants", "these tenants are fixed"))
    }

    async fn note(&self, _: &AuditDraft) -> Result<(), StoreError> {
        Ok(())
    }

    async fn answered(&self, _: &str, _: Timestamp) -> Result<Option<Idempotency>, StoreError> {
        Ok(None)
    }

    async fn audit(&self, _: u64, _: u32) -> Result<Vec<AuditEntry>, StoreError> {
        Ok(Vec::new())
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
impl Books for Rows {
    async fn settle_up(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn spent(
        &self,
        _: OrganizationId,
        claims: &[Claim],
    ) -> Result<Vec<Founding>, StoreError> {
        let rows = self.closed.lock().unwrap();
        let spent = |claim: &Claim| {
            let own = |entry: &&Entry| {
                entry.admitted.scope.path().any(|scope| scope == claim.account.scope)
            };
            let money = |entry: &Entry| match claim.measure {
                Measure::Money => entry.counted.money.nanos(),
                _ => 0,
            };
            let spent = rows.iter().filter(own).map(money).sum();
            Founding { account: claim.account, spent: vec![(GATEWAY, spent)] }
        };
        Ok(claims.iter().map(spent).collect())
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

const GATEWAY: GatewayId = GatewayId::from_u128(9);
