//! Several models on one worker, loaded and unloaded while it runs; all over gRPC.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{
    Accounts, Capacity, GpuTime, LoadKind, LoadOrder, ModelDigest, ModelInfo, ModelName, NanoUsd,
    ProjectId, Rent, RequestId, Share,
};
use engine::EngineConfig;
use futures_util::StreamExt;
use futures_util::future::join_all;
use proto::{
    EmbedOrder, Event, Generation, NotLoaded, Worker, WorkerError, WorkerState, load_whole,
};
use worker::{LocalWorker, ModelSource};

use crate::conformance::Subject;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine")
}

/// A worker with the demo model that may load whatever the engine's tests have, and the same over pipes.
fn worker() -> (Arc<LocalWorker>, Arc<dyn Worker>) {
    let config = EngineConfig { kv_bytes: Some(16 << 20), ..EngineConfig::default() };
    let rent = Rent::new(NanoUsd::from_dollars(1), Capacity::OnDemand).unwrap();
    let local = LocalWorker::start("demo", &ModelSource::Demo, config, rent, &mut |_| {});
    let local = Arc::new(local.unwrap().loading_from(root()));
    let worker = Arc::clone(&local).over_pipes();
    (local, worker)
}

fn model(name: &str, path: &str, quantize: Option<&str>) -> LoadOrder {
    let kind = LoadKind::Model { quantize: quantize.map(str::to_owned), tokenizer: None };
    LoadOrder { name: ModelName::new(name), path: path.to_owned(), kind }
}

fn adapter(name: &str, of: &str) -> LoadOrder {
    let kind = LoadKind::Adapter { of: ModelName::new(of) };
    LoadOrder { name: ModelName::new(name), path: "tests/adapters/demo".to_owned(), kind }
}

/// The demo model in fewer bits: other weights of the same vocabulary.
fn quantized(name: &str) -> LoadOrder {
    model(name, "demo-model", Some("q8_0"))
}

async fn load(worker: &Arc<dyn Worker>, order: LoadOrder) -> Result<ModelInfo, WorkerError> {
    load_whole(worker.as_ref(), order, |_, _| {}).await
}

async fn begin(
    worker: &Arc<dyn Worker>,
    model: &ModelDigest,
    tokens: u32,
) -> Result<Generation, WorkerError> {
    let subject = Subject { worker: Arc::clone(worker), model: model.clone(), capacity: 1 };
    worker.generate(subject.start(tokens)).await
}

/// What is left of a sequence, and its billable time.
async fn rest(mut generation: Generation) -> (Vec<u32>, GpuTime) {
    let mut all = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            Event::Tokens { ids, .. } => all.extend(ids),
            Event::Finished { usage, .. } => return (all, usage.gpu),
            other => panic!("{other:?}"),
        }
    }
    panic!("it did not say how it ended")
}

async fn said(worker: &Arc<dyn Worker>, model: &ModelDigest, tokens: u32) -> (Vec<u32>, GpuTime) {
    rest(begin(worker, model, tokens).await.unwrap()).await
}

async fn until(worker: &Arc<dyn Worker>, wanted: impl Fn(&WorkerState) -> bool) -> WorkerState {
    let mut states = worker.watch().await.unwrap();
    loop {
        let state = states.next().await.expect("the worker goes on pushing its state");
        assert_eq!(state.accounts.owned(), state.accounts.wall, "{state:?}");
        if wanted(&state) {
            return state;
        }
    }
}

async fn names(worker: &Arc<dyn Worker>) -> Vec<String> {
    let state = until(worker, |_| true).await;
    state.models.iter().map(|info| info.name.to_string()).collect()
}

fn why(refused: Result<ModelInfo, WorkerError>) -> (NotLoaded, String) {
    match refused {
        Err(WorkerError::NotLoaded { why, message }) => (why, message),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_models_at_the_same_time_say_what_each_says_alone_and_every_nanosecond_has_one_owner() {
    let (local, both) = worker();
    let demo = local.info().digest.clone();
    let other = load(&both, quantized("other")).await.unwrap();
    assert_ne!(other.digest, demo);
    assert_eq!(names(&both).await, ["demo", "other"]);
    let (_, alone) = worker();
    let (of_demo, _) = said(&alone, &demo, 200).await;
    let (_, alone) = worker();
    load(&alone, quantized("other")).await.unwrap();
    let (of_other, _) = said(&alone, &other.digest, 200).await;
    assert_ne!(of_demo, of_other);

    let began = Instant::now();
    let before = until(&both, |state| state.running == 0).await.accounts;
    let models = [&demo, &other.digest, &demo, &other.digest];
    let together = join_all(models.map(|model| said(&both, model, 200))).await;

    for ((tokens, _), expected) in together.iter().zip([&of_demo, &of_other, &of_demo, &of_other]) {
        assert_eq!(tokens, expected);
    }
    let billed: GpuTime = together.iter().map(|(_, gpu)| *gpu).sum();
    let quiet = |state: &WorkerState| state.running == 0 && state.accounts.requests == billed;
    let state = until(&both, quiet).await;
    let busy = |accounts: Accounts| accounts.owned().nanos() - accounts.idle.nanos();
    let had = Duration::from_nanos(busy(state.accounts) - busy(before));
    assert!(had <= began.elapsed(), "no time was had twice: {had:?}");
    assert_eq!(state.loads.len(), 2, "how it stands is told of each");
    let (of_demo, of_other) = (state.load_of(&demo), state.load_of(&other.digest));
    assert_eq!(of_demo.total_blocks + of_other.total_blocks, state.total_blocks);
    assert_eq!(both.model_files(&other.digest).await, both.model_files(&demo).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_unloaded_while_it_runs_ends_whole_and_takes_nobody_new() {
    let (local, worker) = worker();
    let other = load(&worker, quantized("other")).await.unwrap().digest;
    let (whole, before) = said(&worker, &other, 400).await;
    let mut running = begin(&worker, &other, 400).await.unwrap();
    let Some(Event::Tokens { ids, .. }) = running.next().await else { panic!("no token came") };

    assert_eq!(worker.unload(&ModelName::new("other"), None).await, Ok(1));

    assert_eq!(names(&worker).await, ["demo"]);
    let refused = begin(&worker, &other, 1).await.err();
    assert!(matches!(refused, Some(WorkerError::ModelNotFound(_))), "{refused:?}");
    let again = worker.unload(&ModelName::new("other"), None).await.unwrap_err();
    assert!(matches!(again, WorkerError::NotLoaded { why: NotLoaded::NoSuchModel, .. }), "{again}");
    assert_eq!(local.engines(), 2, "it goes on");
    let (tokens, gpu) = rest(running).await;
    assert_eq!([ids, tokens].concat(), whole);
    let freed = |_: &WorkerState| local.engines() == 1;
    let state = until(&worker, freed).await;
    assert_eq!(state.accounts.requests, before + gpu, "its books outlive it");
    assert!(state.loads.is_empty());
    let again = load(&worker, quantized("other")).await.unwrap();
    assert_eq!(said(&worker, &again.digest, 400).await.0, whole, "it can be loaded again");
    let later = until(&worker, |state| state.running == 0).await;
    assert!(
        later.accounts.wall > state.accounts.wall && later.accounts.idle >= state.accounts.idle
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_ended_in_time_on_a_model_that_goes_is_handed_over() {
    let (local, worker) = worker();
    let other = load(&worker, quantized("other")).await.unwrap().digest;
    let mut going = begin(&worker, &other, 2_000).await.unwrap();
    let mut staying = begin(&worker, &local.info().digest, 300).await.unwrap();
    assert!(matches!(going.next().await, Some(Event::Tokens { .. })));
    assert!(matches!(staying.next().await, Some(Event::Tokens { .. })));

    let told = worker.unload(&ModelName::new("other"), Some(Duration::ZERO)).await;

    assert_eq!(told, Ok(1));
    let last = loop {
        match going.next().await.expect("it says how it ended") {
            Event::Tokens { .. } => {}
            last => break last,
        }
    };
    assert!(matches!(last, Event::HandedOver { .. }), "{last:?}");
    rest(staying).await;
    drop(going);
    until(&worker, |_| local.engines() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_fails_says_why_and_changes_nothing() {
    let (local, worker) = worker();
    let demo = local.info().digest.clone();
    let (whole, _) = said(&worker, &demo, 50).await;
    let cases = [
        (model("demo", "tests/architectures/llama", None), NotLoaded::NameTaken, "`demo`"),
        (model(" ", "tests/architectures/llama", None), NotLoaded::NameTaken, "name"),
        (model("same", "demo-model", None), NotLoaded::NameTaken, "served as `demo`"),
        (model("x", "/etc", None), NotLoaded::Outside, "`loading.folder`"),
        (model("x", "../worker", None), NotLoaded::Outside, "`../worker`"),
        (model("x", "tests/nowhere", None), NotLoaded::Unreadable, "nowhere"),
        (model("x", "tests/adapters/demo", None), NotLoaded::Unreadable, "config.json"),
        (model("x", "tests/architectures/llama", Some("q3")), NotLoaded::Unreadable, "q4_k_m"),
        (model("x", "tests/encoders/bert", Some("q8_0")), NotLoaded::Unreadable, "`quantize`"),
        (adapter("x", "nobody"), NotLoaded::NoSuchModel, "`nobody`"),
    ];
    for (order, expected, words) in cases {
        let path = order.path.clone();

        let (kind, message) = why(load(&worker, order).await);

        assert_eq!(kind, expected, "{path}: {message}");
        assert!(message.contains(words), "{path}: {message}");
    }
    assert_eq!(names(&worker).await, ["demo"]);
    assert_eq!(local.engines(), 1);
    assert_eq!(said(&worker, &demo, 50).await.0, whole);
    worker.drain(None).await.unwrap();
    let refused = load(&worker, quantized("late")).await;
    assert_eq!(refused, Err(WorkerError::Draining));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_does_not_fit_is_refused_with_what_it_needs() {
    let config = EngineConfig { kv_bytes: Some(16 << 20), ..EngineConfig::default() };
    let rent = Rent::default();
    let local = LocalWorker::start("demo", &ModelSource::Demo, config, rent, &mut |_| {}).unwrap();
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("huge");
    std::fs::create_dir(&folder).unwrap();
    let weights = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    weights.set_len(1 << 42).unwrap();
    let local = local.loading_from(place.path().to_owned());
    let worker = Arc::new(local).over_pipes();

    let (kind, message) = why(load(&worker, model("huge", "huge", None)).await);

    assert_eq!(kind, NotLoaded::NoMemory, "{message}");
    assert!(message.contains("MiB") && message.contains("unload"), "{message}");
}

#[tokio::test]
async fn a_worker_without_a_folder_loads_nothing_and_names_the_setting() {
    let (_, local) = crate::workers::local();
    let worker = local.over_pipes();

    let (kind, message) = why(load(&worker, quantized("other")).await);

    assert_eq!(kind, NotLoaded::Outside);
    assert!(message.contains("`loading.folder`"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_every_kind_and_adapters_stand_beside_each_other_and_go_one_by_one() {
    let (local, worker) = worker();
    let (demo, _) = said(&worker, &local.info().digest, 12).await;
    let llama = load(&worker, model("llama", "tests/architectures/llama", None)).await.unwrap();
    let bert = load(&worker, model("bert", "tests/encoders/bert", None)).await.unwrap();
    let mine = load(&worker, adapter("mine", "demo")).await.unwrap();
    let (kind, message) = why(load(&worker, adapter("twin", "demo")).await);
    assert_eq!((kind, message.contains("`mine`")), (NotLoaded::NameTaken, true), "{message}");
    let (kind, message) = why(load(&worker, adapter("no", "bert")).await);
    assert_eq!((kind, message.contains("`bert`")), (NotLoaded::Unreadable, true), "{message}");
    let state = until(&worker, |state| state.models.len() == 4).await;
    assert_eq!(state.load_of(&mine.digest), state.load_of(&local.info().digest));

    let order = EmbedOrder {
        request: RequestId::generate(),
        model: bert.digest.clone(),
        texts: vec![[5, 6, 7].into()],
        share: Share::of(ProjectId::from_u128(1)),
    };
    let embedded = worker.embed(order.clone()).await.unwrap();
    assert_eq!(embedded.vectors.len(), 1);
    let text = EmbedOrder { model: llama.digest.clone(), ..order };
    assert!(matches!(worker.embed(text).await, Err(WorkerError::ModelNotFound(_))));
    assert_ne!(said(&worker, &mine.digest, 12).await.0, demo);
    let refused = begin(&worker, &bert.digest, 1).await.err();
    assert!(matches!(refused, Some(WorkerError::ModelNotFound(_))), "{refused:?}");

    assert_eq!(worker.unload(&ModelName::new("bert"), None).await, Ok(0));
    assert_eq!(worker.unload(&ModelName::new("demo"), None).await, Ok(0));
    assert_eq!(names(&worker).await, ["llama"], "adapters go with their model");
    until(&worker, |_| local.engines() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_caches_hold_is_one_list_that_follows_who_comes_and_goes() {
    let (local, worker) = worker();
    let mut held = std::collections::BTreeSet::new();
    let mut changes = worker.prefixes().await.unwrap();
    let other = load(&worker, quantized("other")).await.unwrap().digest;
    said(&worker, &local.info().digest, 100).await;
    said(&worker, &other, 100).await;
    let mut follow = async |enough: usize, most: usize| {
        while held.len() < enough || held.len() > most {
            let change = changes.next().await.expect("the worker goes on telling");
            if change.reset {
                held.clear();
            }
            held.extend(change.added);
            held.retain(|block| !change.removed.contains(block));
        }
    };
    follow(6, usize::MAX).await; // Three full blocks of each.

    worker.unload(&ModelName::new("other"), None).await.unwrap();

    follow(3, 3).await;
}
