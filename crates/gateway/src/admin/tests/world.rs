//! Two organizations, three projects and an administrator of every role, behind the admin listener's routes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admission::bearer::BearerTokens;
use admission::tenancy::{
    Actor, Amount, BudgetDraft, Changed, EndUser, Enforcement, Key, NewAdmin, NewEndUser, NewKey,
    NewOrganization, NewPrice, NewProject, Organization, PriceRecord, Project, Registry,
    Request as Change, Role, Terms, Window,
};
use admission::{
    Admission, AdmissionParts, Admitted, Directory, Entry, Outcome, Quantity, SliceSettings,
};
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use domain::{
    AdminId, Charge, FinishReason, GatewayId, GpuTime, HoldId, KeyId, ManualClock, ModelDigest,
    ModelName, NanoUsd, OrganizationId, Price, ProjectId, RequestId, Scope, Timestamp, Usage,
};
use proto::{ScriptedWorker, Worker};
use routing::RouterSettings;
use serde_json::Value;
use store::{Database, StoreSettings};
use tower::ServiceExt as _;

use super::super::{AdminApi, routes};
use crate::catalog::{Catalog, Tariff};
use crate::config::{RawGateway, Shares};
use crate::gateway::{FlowSettings, Gateway, Parts};
use crate::link::WorkerLink;
use crate::metrics::Metrics;
use crate::outside::Outside;
use crate::reload::{Configuration, Reloads};

/// The admin listener's routes, and what is behind them.
pub(super) struct World {
    pub(super) routes: Router,
    /// A registry of its own on the same records.
    pub(super) registry: Registry,
    pub(super) database: Database,
    pub(super) clock: Arc<ManualClock>,
    pub(super) worker: Arc<ScriptedWorker>,
    pub(super) people: People,
    _folder: tempfile::TempDir,
}

/// Who and what there is.
pub(super) struct People {
    pub(super) acme: Organization,
    pub(super) globex: Organization,
    /// Of acme, acme and globex.
    pub(super) projects: [Project; 3],
    pub(super) keys: [Key; 3],
    /// There is nothing in it.
    pub(super) vacant: Organization,
    /// Of acme; there is nothing in it.
    pub(super) idle: Project,
    pub(super) end_user: EndUser,
    /// It has not begun.
    pub(super) price: PriceRecord,
    pub(super) admins: Vec<Administrator>,
    /// A second administrator of every role.
    pub(super) others: Vec<AdminId>,
}

/// Somebody with a token.
pub(super) struct Administrator {
    pub(super) name: &'static str,
    pub(super) id: AdminId,
    pub(super) token: String,
}

/// What was answered.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

/// A request that is being put together.
pub(super) struct Asking<'a> {
    world: &'a World,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
}

impl World {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START));
        let slices = SliceSettings { gateways: 1, request_timeout: Duration::from_mins(1) };
        let settings = StoreSettings {
            data: folder.path().to_owned(),
            postgres: None,
            redis: None,
            pepper_file: None,
            cache: None,
            slices,
        };
        let stores = store::open(&settings, Arc::clone(&clock) as _).await.unwrap();
        let registry = || {
            let (tenants, clock) = (Arc::clone(&stores.tenants), Arc::clone(&clock) as _);
            Registry::new(tenants, stores.pepper.clone(), clock)
        };
        let people = people(&registry()).await;
        let tenants = Arc::clone(&stores.tenants);
        let directory = Arc::new(Directory::open(tenants, stores.pepper.clone()).await.unwrap());
        let worker = Arc::new(ScriptedWorker::of_some_model(4));
        let named = [("scripted".to_owned(), Arc::clone(&worker) as Arc<dyn Worker>)];
        let router = routing::Router::new(named, RouterSettings::default());
        let admission = Admission::new(AdmissionParts {
            gateway: stores.gateway,
            directory: Arc::clone(&directory),
            quota: Arc::clone(&stores.quota) as _,
            ledger: Arc::clone(&stores.ledger) as _,
            clock: Arc::clone(&clock) as _,
        });
        let tariff =
            Tariff { prices: HashMap::new(), markup_percent: 100, shares: Shares::default() };
        let tokens = Arc::new(BearerTokens::new(Vec::new(), Arc::clone(&clock) as _).unwrap());
        let gateway = Arc::new(Gateway::new(Parts {
            admission,
            catalog: Catalog::new(Arc::clone(&router), directory, tariff),
            router,
            cache: None,
            metrics: Metrics::new().unwrap(),
            clock: Arc::clone(&clock) as _,
            settings: ArcSwap::from_pointee(flow_settings()),
        }));
        let database = stores.database.clone();
        let reloads = reloads(&gateway, tokens, folder.path());
        let clock_of_api = Arc::clone(&clock) as _;
        let api = AdminApi::new(Arc::new(reloads), registry(), database, clock_of_api);
        Self {
            routes: routes(api),
            registry: registry(),
            database: stores.database.clone(),
            clock,
            worker,
            people,
            _folder: folder,
        }
    }

    /// Does something as the command line would, without terms.
    pub(super) async fn done<R: Change>(&self, request: &R) -> Changed<R::Record> {
        self.registry.change(Actor::Local, request, &Terms::default()).await.unwrap()
    }

    /// The administrator of this name.
    pub(super) fn admin(&self, name: &str) -> &Administrator {
        self.people.admins.iter().find(|admin| admin.name == name).unwrap()
    }

    /// A request that a platform admin makes.
    pub(super) fn ask(&self, method: Method, path: impl Into<String>) -> Asking<'_> {
        let asking =
            Asking { world: self, method, path: path.into(), headers: Vec::new(), body: None };
        asking.by(&self.admin("platform").token)
    }

    pub(super) fn get(&self, path: impl Into<String>) -> Asking<'_> {
        self.ask(Method::GET, path)
    }

    pub(super) fn post(&self, path: impl Into<String>, body: &Value) -> Asking<'_> {
        self.ask(Method::POST, path).json(body)
    }

    pub(super) fn patch(&self, path: impl Into<String>, body: &Value) -> Asking<'_> {
        self.ask(Method::PATCH, path).json(body)
    }

    /// Every page of a list, one after the other.
    pub(super) async fn pages(&self, path: &str) -> Vec<Vec<Value>> {
        let mut pages = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.get(format!("{path}{after}")).send().await.json();
            pages.push(page["items"].as_array().unwrap().clone());
            assert!(pages.len() < 100, "{path} has no end");
            let Some(next) = page.get("next") else { return pages };
            let next = next.as_str().map_or_else(|| next.to_string(), str::to_owned);
            let word = if path.contains("/usage") { "page" } else { "after" };
            after = format!("&{word}={next}");
        }
    }
}

impl Asking<'_> {
    /// The same with another token.
    pub(super) fn by(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// The same without a token.
    pub(super) fn by_nobody(mut self) -> Self {
        self.headers.retain(|(name, _)| *name != "authorization");
        self
    }

    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn json(self, body: &Value) -> Self {
        self.body(&body.to_string()).with("content-type", "application/json")
    }

    pub(super) fn body(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    pub(super) async fn send(self) -> Answered {
        let mut request = Request::builder().method(self.method).uri(self.path);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let request = request.body(self.body.map_or_else(Body::empty, Body::from)).unwrap();
        let response = self.world.routes.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answered { status: head.status, headers: head.headers, text }
    }
}

impl Answered {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn tag(&self) -> String {
        self.header(header::ETAG.as_str()).expect("a record has a tag").to_owned()
    }

    /// The same, if it is what was expected.
    #[track_caller]
    pub(super) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }
}

async fn people(registry: &Registry) -> People {
    let acme = organization(registry, "acme").await;
    let globex = organization(registry, "globex").await;
    let projects = [
        project(registry, "search", acme.id).await,
        project(registry, "ads", acme.id).await,
        project(registry, "maps", globex.id).await,
    ];
    let keys = [
        key(registry, projects[0].id).await,
        key(registry, projects[1].id).await,
        key(registry, projects[2].id).await,
    ];
    let end_user = done(registry, &NewEndUser::called("ann", projects[0].id)).await.record;
    let price = NewPrice {
        model: ModelName::new("m"),
        digest: None,
        effective_from: Some(START.plus(Duration::from_hours(1))),
        price: Price::GpuTime { per_hour: NanoUsd::from_dollars(1), markup_percent: 100 },
    };
    let price = done(registry, &price).await.record;
    let (mut admins, mut others) = (Vec::new(), Vec::new());
    for (name, role) in [
        ("platform", Role::PlatformAdmin),
        ("acme admin", Role::OrganizationAdmin { organization: acme.id }),
        ("finance", Role::Finance { organization: None }),
        ("acme finance", Role::Finance { organization: Some(acme.id) }),
        ("search member", Role::ProjectMember { project: projects[0].id }),
        ("globex admin", Role::OrganizationAdmin { organization: globex.id }),
    ] {
        let made = done(registry, &NewAdmin { name: name.to_owned(), role }).await;
        let token = made.secret.unwrap().expose().to_owned();
        admins.push(Administrator { name, id: made.record.id, token });
        others.push(done(registry, &NewAdmin { name: name.to_owned(), role }).await.record.id);
    }
    let vacant = organization(registry, "vacant").await;
    let idle = project(registry, "idle", acme.id).await;
    People { acme, globex, projects, keys, vacant, idle, end_user, price, admins, others }
}

async fn done<R: Change>(registry: &Registry, request: &R) -> Changed<R::Record> {
    registry.change(Actor::Local, request, &Terms::default()).await.unwrap()
}

async fn organization(registry: &Registry, name: &str) -> Organization {
    let new = NewOrganization { name: name.to_owned(), ..NewOrganization::default() };
    done(registry, &new).await.record
}

async fn project(registry: &Registry, name: &str, organization: OrganizationId) -> Project {
    done(registry, &NewProject::called(name, organization)).await.record
}

async fn key(registry: &Registry, project: ProjectId) -> Key {
    done(registry, &NewKey::called("key", project)).await.record
}

/// A hard budget of so much a day.
pub(super) fn daily(amount: Amount) -> BudgetDraft {
    BudgetDraft {
        id: None,
        amount,
        window: Window::Day,
        enforcement: Enforcement::Hard,
        alert_percent: Vec::new(),
        model: None,
    }
}

/// A ledger row of a request that ended well.
pub(super) fn row(
    (organization, project, key): (OrganizationId, ProjectId, KeyId),
    model: &str,
    at: Timestamp,
    charge: i64,
) -> Entry {
    let (charge, gpu) = (NanoUsd::from_nanos(charge), GpuTime::from_nanos(9));
    Entry {
        admitted: Admitted {
            hold: HoldId::generate(),
            request: RequestId::generate(),
            gateway: GatewayId::from_u128(9),
            scope: Scope { organization, project, user: None, key },
            model: ModelName::new(model),
            digest: ModelDigest::new("00"),
            at,
            prompt_tokens: 3,
        },
        outcome: Outcome::Finished(FinishReason::Stop),
        closed_at: at,
        usage: Usage { prompt_tokens: 3, completion_tokens: 4, gpu, ..Usage::default() },
        charge: Charge { cost: NanoUsd::from_nanos(2), charge },
        overrun: NanoUsd::ZERO,
        counted: Quantity { money: charge, tokens: 7, gpu },
        work: Vec::new(),
    }
}

fn flow_settings() -> FlowSettings {
    FlowSettings {
        max_head_bytes: 1 << 10,
        max_body_bytes: 1 << 10,
        max_requests: 1,
        request_timeout: Duration::from_mins(1),
    }
}

/// 2026-05-28T20:00:00Z
pub(super) const START: Timestamp = Timestamp::from_millis(1_779_998_400_000);

/// A configuration that stays as it is.
fn reloads(gateway: &Arc<Gateway>, tokens: Arc<BearerTokens>, data: &Path) -> Reloads {
    let (data, any) = (data.to_owned(), SocketAddr::from(([127, 0, 0, 1], 0)));
    let read = move || Ok(RawGateway::embedded(data.clone(), any, any));
    let settings =
        read().and_then(|raw: RawGateway| raw.check().map_err(|error| error.to_string()));
    let configuration = Configuration { read: Box::new(read), changed: Arc::default() };
    let settings = settings.unwrap();
    Reloads {
        link: Arc::new(WorkerLink::open(&settings).unwrap()),
        identity: None,
        configuration: Some(configuration),
        settings: tokio::sync::Mutex::new(settings),
        gateway: Arc::clone(gateway),
        tokens,
        outside: Outside::new().unwrap(),
    }
}
