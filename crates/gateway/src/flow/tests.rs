//! The whole flow in memory: no ports, a stopped clock, a scripted worker.

mod embeddings;
mod options;
mod outputs;
mod stops;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use admission::bank::{Bank, BankError, Draw, Drawn, Founding};
use admission::tenancy::{
    Actor, Amount, BudgetDraft, Enforcement, MemoryTenants, NewKey, Registry, Terms, Window,
};
use admission::{
    Admission, AdmissionParts, Admitted, Books, Claim, Directory, Entry, Ledger, Pepper,
    SliceSettings, SlicedQuota, Slices, StoreError,
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use domain::{
    Clock, GatewayId, ModelDigest, ModelFiles, ModelInfo, ModelName, NanoUsd, OrganizationId,
    Price, SystemClock,
};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use proto::{ScriptedWorker, Worker};
use routing::{Router, RouterSettings};
use serde_json::{Value, json};
use store::{MemoryBank, MemoryCache, MemoryCacheSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::catalog::{Catalog, Tariff};
use crate::config::Shares;
use crate::door::App;
use crate::gateway::{FlowSettings, Gateway, Parts};
use crate::metrics::Metrics;

/// A gateway with one scripted worker.
struct World {
    app: Arc<App>,
    gateway: Arc<Gateway>,
    worker: Arc<ScriptedWorker>,
    written: Arc<Written>,
    bank: Arc<MutableBank>,
    key: String,
    background: Vec<AbortOnDropHandle<()>>,
}

impl World {
    async fn new(pace: Duration) -> Self {
        Self::with(pace, None).await
    }

    async fn with(pace: Duration, budget: Option<i64>) -> Self {
        let worker = ScriptedWorker::new(info(), files(), 4).paced(pace);
        Self::around(worker, budget).await
    }

    async fn around(worker: ScriptedWorker, budget: Option<i64>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let tenants = Arc::new(MemoryTenants::new(Arc::clone(&clock)));
        let (pepper, gateway_id) = (Pepper::generate(), GatewayId::generate());
        let registry = Registry::new(Arc::clone(&tenants) as _, pepper.clone(), Arc::clone(&clock));
        let project = registry.project_named("default").await.unwrap();
        let mut new = NewKey::called("test", project.id);
        new.policy.budgets = budget.map(|nanos| vec![of(NanoUsd::from_nanos(nanos))]);
        let made = registry.change(Actor::Local, &new, &Terms::default()).await.unwrap();
        let key = made.secret.unwrap();
        let directory = Arc::new(Directory::open(tenants, pepper).await.unwrap());
        let slices = SliceSettings { gateways: 1, request_timeout: Duration::from_mins(10) };
        let slices = Slices::new(gateway_id, 1, slices);
        let written = Arc::new(Written::default());
        let bank = MemoryBank::new(Arc::clone(&clock));
        let bank = Arc::new(MutableBank { bank, silent: AtomicBool::new(false) });
        let quota = SlicedQuota::new(
            slices,
            Arc::clone(&bank) as _,
            Arc::clone(&written) as _,
            Arc::clone(&clock),
        );
        let worker = Arc::new(worker);
        let named = [("scripted".to_owned(), Arc::clone(&worker) as Arc<dyn Worker>)];
        let router = Router::new(named, RouterSettings::default());
        let background = router.follow();
        let parts = AdmissionParts {
            gateway: gateway_id,
            directory: Arc::clone(&directory),
            quota: Arc::new(quota),
            ledger: Arc::clone(&written) as _,
            clock: Arc::clone(&clock),
        };
        let tier = MemoryCache::new(MemoryCacheSettings::default());
        let gateway = Arc::new(Gateway::new(Parts {
            admission: Admission::new(parts),
            catalog: Catalog::new(
                Arc::clone(&router),
                directory,
                Tariff { prices: prices(), markup_percent: 100, shares: Shares::default() },
            ),
            router,
            cache: Some(cache::Cache::new(vec![Arc::new(tier)])),
            metrics: Metrics::new().unwrap(),
            clock,
            settings: ArcSwap::from_pointee(flow_settings()),
        }));
        let mut world = Self {
            app: Arc::new(App::new(Arc::clone(&gateway))),
            gateway,
            worker,
            written,
            bank,
            key: key.expose().to_owned(),
            background,
        };
        world.follow_catalog();
        while world.gateway.readiness().is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // From here on time stands still, and jumps when everybody waits.
        tokio::time::pause();
        world
    }

    fn follow_catalog(&mut self) {
        let gateway = Arc::clone(&self.gateway);
        let follow = tokio::spawn(async move { gateway.catalog().follow().await });
        self.background.push(AbortOnDropHandle::new(follow));
    }

    /// A connection on which `request` was sent.
    async fn send(&self, request: &str) -> DuplexStream {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let app = Arc::clone(&self.app);
        tokio::spawn(async move {
            let (_stop, stopped) = watch::channel(false);
            let session = ServerSession::new_http1(Box::new(far));
            app.process_new_http(session, &stopped).await;
        });
        near.write_all(request.as_bytes()).await.unwrap();
        near
    }

    /// The whole reply to a chat request.
    async fn chat(&self, body: &Value) -> String {
        let mut connection = self.send(&self.request(body)).await;
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await.unwrap();
        reply
    }

    fn request(&self, body: &Value) -> String {
        let (body, key) = (body.to_string(), &self.key);
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// Ledger rows as (outcome, completion tokens, charge), once every hold is settled.
    async fn rows(&self) -> Vec<(String, i64, i64)> {
        while self.gateway.admission().open_holds().await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rows = self.written.rows.lock().unwrap();
        let row = |row: &Entry| {
            let tokens = i64::from(row.usage.completion_tokens);
            (row.outcome.name().to_owned(), tokens, row.charge.charge.nanos())
        };
        rows.iter().map(row).collect()
    }
}

/// A ledger of which every row is looked at.
#[derive(Default)]
struct Written {
    rows: Mutex<Vec<Entry>>,
}

#[async_trait]
impl Ledger for Written {
    async fn open(&self, _: &Admitted) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self, entry: &Entry) -> Result<(), StoreError> {
        self.rows.lock().unwrap().push(entry.clone());
        Ok(())
    }
}

/// A bank that can fall silent.
struct MutableBank {
    bank: MemoryBank,
    silent: AtomicBool,
}

impl MutableBank {
    fn fall_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    fn speak(&self) -> Result<&MemoryBank, BankError> {
        let silent = self.silent.load(Ordering::SeqCst);
        if silent { Err(BankError("nobody is there".into())) } else { Ok(&self.bank) }
    }
}

#[async_trait]
impl Bank for MutableBank {
    async fn draw(&self, draw: &Draw) -> Result<Drawn, BankError> {
        self.speak()?.draw(draw).await
    }

    async fn found(&self, of: OrganizationId, foundings: &[Founding]) -> Result<(), BankError> {
        self.speak()?.found(of, foundings).await
    }
}

#[async_trait]
impl Books for Written {
    async fn settle_up(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn spent(
        &self,
        _: OrganizationId,
        claims: &[Claim],
    ) -> Result<Vec<Founding>, StoreError> {
        let fresh = |claim: &Claim| Founding { account: claim.account, spent: Vec::new() };
        Ok(claims.iter().map(fresh).collect())
    }
}

fn of(amount: NanoUsd) -> BudgetDraft {
    BudgetDraft {
        id: None,
        amount: Amount::Money(amount),
        window: Window::Total,
        enforcement: Enforcement::Hard,
        alert_percent: Vec::new(),
        model: None,
    }
}

/// What came until there were `number` events.
async fn until_events(connection: &mut DuplexStream, number: usize) -> String {
    let mut seen = Vec::new();
    while String::from_utf8_lossy(&seen).matches("data: ").count() < number {
        let mut part = [0; 4096];
        let count = connection.read(&mut part).await.unwrap();
        seen.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn info() -> ModelInfo {
    ModelInfo {
        name: ModelName::new("scripted"),
        digest: ModelDigest::new("0123456789abcdef"),
        context_length: 2048,
        vocabulary: 4000,
        stop_tokens: Vec::new(),
        weights: "none".to_owned(),
        kind: domain::ModelKind::Text,
    }
}

fn files() -> ModelFiles {
    let tokenizer = include_bytes!("../../../engine/demo-model/tokenizer.json");
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    ModelFiles { tokenizer: tokenizer[..].into(), chat_template: Some(template.into()) }
}

/// 100 nano-dollars for each prompt token, 400 for each token of output.
fn prices() -> HashMap<ModelName, Price> {
    let price = |nanos| domain::PricePerMillion::new(NanoUsd::from_nanos(nanos)).unwrap();
    let tokens = Price::Tokens {
        input: price(100_000_000),
        cached_input: price(50_000_000),
        output: price(400_000_000),
    };
    HashMap::from([(ModelName::new("scripted"), tokens)])
}

fn flow_settings() -> FlowSettings {
    FlowSettings {
        max_head_bytes: 4096,
        max_body_bytes: 65_536,
        max_requests: 8,
        request_timeout: Duration::from_mins(2),
    }
}

fn ask(max_tokens: u32, stream: bool) -> Value {
    json!({
        "model": "scripted",
        "messages": [{ "role": "user", "content": "hello" }],
        "max_tokens": max_tokens,
        "stream": stream,
    })
}

#[tokio::test]
async fn a_whole_answer_has_its_usage_and_leaves_one_row() {
    let world = World::new(Duration::ZERO).await;

    let reply = world.chat(&ask(5, false)).await;

    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["usage"]["completion_tokens"], 5);
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    let charge = body["usage"]["cost_details"]["charge_nano_usd"].as_i64().unwrap();
    assert_eq!(world.rows().await, [("length".to_owned(), 5, charge)]);
}

#[tokio::test]
async fn a_quiet_stream_is_kept_alive_with_comments() {
    let world = World::new(Duration::from_secs(40)).await;

    let reply = world.chat(&ask(1, true)).await;

    // The token comes after 40 s and the end after 40 more: two comments in each wait.
    assert_eq!(reply.matches(": ping\n\n").count(), 4, "{reply}");
    assert!(reply.contains("data: [DONE]"));
}

#[tokio::test]
async fn an_answer_that_takes_too_long_ends_with_an_error_and_pays_for_what_was_delivered() {
    let world = World::new(Duration::from_secs(50)).await;

    let reply = world.chat(&ask(10, true)).await;

    assert!(reply.contains("deadline_exceeded"), "{reply}");
    assert!(!reply.contains("[DONE]"), "it did not end well");
    // Two tokens came in 120 s; the prompt has at least one token.
    let rows = world.rows().await;
    assert_eq!((rows[0].0.as_str(), rows[0].1), ("deadline_exceeded", 2));
    assert!(rows[0].2 > 800);
}

#[tokio::test]
async fn a_whole_answer_that_never_came_is_not_charged() {
    let world = World::new(Duration::from_secs(50)).await;

    let reply = world.chat(&ask(10, false)).await;

    assert!(reply.starts_with("HTTP/1.1 504"), "{reply}");
    assert_eq!(world.rows().await[0].2, 0, "nothing was delivered");
}

#[tokio::test]
async fn a_client_that_leaves_pays_for_what_was_produced_and_frees_its_place() {
    let world = World::new(Duration::from_secs(1)).await;
    let mut connection = world.send(&world.request(&ask(1000, true))).await;

    until_events(&mut connection, 4).await;
    drop(connection);

    let rows = world.rows().await;
    assert_eq!(rows[0].0, "client_gone");
    assert!((2..=5).contains(&rows[0].1), "{} tokens were produced", rows[0].1);
    assert!(rows[0].2 >= rows[0].1 * 400);
    assert_eq!(world.gateway.in_flight(), 0);
    // It stops at its next step, and that is all that is wasted: at most one token of a millisecond.
    let metrics = world.gateway.metrics().text();
    let value = |name: &str| {
        metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
    };
    assert_eq!(value("tollgate_wasted_gpu_seconds_count"), Some(1.0), "{metrics}");
    assert!(value("tollgate_wasted_gpu_seconds_sum").unwrap() <= 0.001, "{metrics}");
}

#[tokio::test]
async fn a_budget_ends_a_stream_at_the_last_token_it_pays_for() {
    let world = World::with(Duration::ZERO, Some(50_000)).await;

    let reply = world.chat(&ask(1000, true)).await;

    assert!(reply.contains("\"finish_reason\":\"length\""), "{reply}");
    let last = reply.split("data: ").filter(|event| event.starts_with('{')).last().unwrap();
    assert!(last.contains("insufficient_quota"), "{last}");
    let rows = world.rows().await;
    assert_eq!(rows[0].0, "budget");
    assert!(rows[0].2 <= 50_000 && rows[0].2 > 50_000 - 400, "charged {}", rows[0].2);
    let refused = world.chat(&ask(1, false)).await;
    assert!(refused.contains("insufficient_quota") && refused.contains("x-should-retry: false"));
}

#[tokio::test]
async fn a_stream_waits_while_nobody_can_say_what_its_budget_has_left_and_then_goes_on() {
    let world = World::with(Duration::from_millis(10), Some(10_000_000)).await;
    let mut connection = world.send(&world.request(&ask(1500, true))).await;
    let mut told = until_events(&mut connection, 4).await;

    world.bank.fall_silent(true);
    tokio::time::sleep(Duration::from_secs(12)).await;
    world.bank.fall_silent(false);
    connection.read_to_string(&mut told).await.unwrap();

    assert!(told.contains("\"finish_reason\":\"length\"") && !told.contains("error"), "{told}");
    let rows = world.rows().await;
    assert_eq!((rows[0].0.as_str(), rows[0].1), ("length", 1500));
}

#[tokio::test]
async fn a_stream_whose_budget_nobody_can_tell_for_long_ends_with_an_error_and_pays_for_what_came()
{
    let world = World::with(Duration::from_millis(10), Some(10_000_000)).await;
    let mut connection = world.send(&world.request(&ask(1500, true))).await;
    let mut told = until_events(&mut connection, 4).await;

    world.bank.fall_silent(true);
    connection.read_to_string(&mut told).await.unwrap();

    assert!(told.contains("server_error") && !told.contains("insufficient_quota"), "{told}");
    let rows = world.rows().await;
    assert_eq!(rows[0].0, "unavailable");
    assert!((65..1500).contains(&rows[0].1), "{} tokens", rows[0].1);
    assert!(rows[0].2 >= rows[0].1 * 400);
}

#[tokio::test]
async fn a_worker_that_fails_for_good_ends_a_stream_with_an_error_event() {
    let world = World::new(Duration::ZERO).await;
    for _ in 0..4 {
        world.worker.break_next_after(1);
    }

    let reply = world.chat(&ask(50, true)).await;

    assert!(reply.contains("\"error\""), "{reply}");
    assert!(!reply.contains("[DONE]"));
    assert!(!reply.contains("scripted break"), "our failures are not told to strangers");
}

#[tokio::test]
async fn the_same_question_is_answered_from_the_cache_and_costs_nothing() {
    let world = World::new(Duration::ZERO).await;
    let mut question = ask(5, false);
    question["temperature"] = json!(0);

    let first = world.chat(&question).await;
    question["stream"] = json!(true);
    let second = world.chat(&question).await;

    assert!(first.contains("x-tollgate-cache: miss"));
    assert!(second.contains("x-tollgate-cache: hit") && second.contains("[DONE]"));
    let rows = world.rows().await;
    assert_eq!((rows[1].0.as_str(), rows[1].1, rows[1].2), ("cache_hit", 5, 0));
}

#[tokio::test]
async fn a_cached_answer_whose_client_left_costs_nothing() {
    let world = World::new(Duration::ZERO).await;
    let mut question = ask(80, true);
    question["temperature"] = json!(0);
    world.chat(&question).await;

    // Whether the hit or the hang-up is seen first is a toss, so several leave.
    for _ in 0..16 {
        drop(world.send(&world.request(&question)).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let rows = world.rows().await;
    assert!(rows.len() > 1, "some were admitted before they were seen to have left");
    assert!(rows[1..].iter().all(|row| row.2 == 0), "{rows:?}");
}

#[tokio::test]
async fn what_is_checked_first_is_told_first() {
    let world = World::new(Duration::ZERO).await;
    let key = &world.key;
    let cases = [
        ("GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "404", "unknown_url"),
        ("PUT /v1/models HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(), "405", "method_not_supported"),
        // Who you are comes before what you say.
        (
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n{".to_owned(),
            "401",
            "invalid_api_key",
        ),
        (
            format!(
                "POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 1\r\n\r\n{{"
            ),
            "400",
            "not valid JSON",
        ),
        (
            format!(
                "POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 99999999\r\n\r\n"
            ),
            "413",
            "request_too_large",
        ),
        (
            format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(5000)),
            "431",
            "headers_too_large",
        ),
        ("garbage\r\n\r\n".to_owned(), "400", "not valid HTTP"),
    ];
    for (request, status, told) in cases {
        let mut connection = world.send(&request).await;
        connection.shutdown().await.unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {reply}");
        assert!(reply.contains(told), "{request}: {reply}");
    }
    assert!(world.rows().await.is_empty(), "nothing was admitted");
}
