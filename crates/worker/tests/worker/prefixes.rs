//! What workers tell of their KV blocks and give each other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{BlockHash, BlockNames, CacheSalt, ModelDigest, ModelFiles, ProjectId, Rent, Usage};
use futures_util::StreamExt;
use proto::{
    BlockContent, BlockStream, BlocksWanted, Event, FetchOrder, Fetched, Generation, GrpcWorker,
    Start, StateStream, Worker, WorkerError, WorkerServer, WorkerState,
};
use tokio::net::TcpListener;
use worker::LocalWorker;

use crate::conformance::Subject;
use crate::workers::local;

/// A start with a prompt of so many tokens.
fn start(subject: &Subject, tokens: u32) -> Start {
    Start { prompt: (0..tokens).map(|token| 300 + token).collect(), ..subject.start(30) }
}

async fn read(worker: &dyn Worker, start: Start) -> (Vec<u32>, Usage) {
    let mut generation = worker.generate(start).await.unwrap();
    let mut tokens = Vec::new();
    loop {
        match generation.next().await.unwrap() {
            Event::Tokens { ids, .. } => tokens.extend(ids),
            Event::Finished { usage, .. } => return (tokens, usage),
            other => panic!("{other:?}"),
        }
    }
}

/// The first state that knows its blocks.
async fn state(worker: &dyn Worker) -> WorkerState {
    let mut states = worker.watch().await.unwrap();
    loop {
        let state = states.next().await.unwrap();
        if state.block_tokens > 0 && !state.prompt_token_time.is_zero() {
            return state;
        }
    }
}

async fn names(worker: &dyn Worker, start: &Start) -> Vec<BlockHash> {
    let block_tokens = state(worker).await.block_tokens;
    BlockNames::new(&start.model, start.salt, block_tokens).all(&start.prompt)
}

async fn served(worker: Arc<dyn Worker>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(WorkerServer::new(worker, None).serve(listener, std::future::pending()));
    address
}

fn order(start: &Start, from: &str) -> FetchOrder {
    let (model, salt) = (start.model.clone(), start.salt);
    FetchOrder { model, salt, tokens: Arc::clone(&start.prompt), from: from.to_owned() }
}

fn over_the_network(worker: &LocalWorker) {
    worker.reach(Box::new(|address| {
        let other = GrpcWorker::new(address, None);
        Ok(Arc::new(other.map_err(|error| WorkerError::Unreachable(error.to_string()))?))
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_follows_the_prefixes_knows_what_the_worker_holds() {
    let (subject, worker) = local();
    let remote = GrpcWorker::new(&served(worker).await, None).unwrap();
    let mut prefixes = remote.prefixes().await.unwrap();
    assert!(prefixes.next().await.unwrap().reset, "everything at first");
    let asked = start(&subject, 150);
    let wanted: BTreeSet<u64> = names(&remote, &asked).await.iter().map(BlockHash::short).collect();

    read(&remote, asked).await;

    let mut known = BTreeSet::new();
    while !wanted.is_subset(&known) {
        let change = tokio::time::timeout(LIMIT, prefixes.next()).await.expect("it is told");
        known.extend(change.unwrap().added);
    }
    let mut late = remote.prefixes().await.unwrap();
    assert!(late.next().await.unwrap().reset);
    assert!(wanted.is_subset(&late.next().await.unwrap().added.into_iter().collect()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_fetched_is_not_computed_and_says_the_same() {
    let ((subject, here), (_, there)) = (local(), local());
    let address = served(here.clone()).await;
    over_the_network(&there);
    let asked = start(&subject, 150);
    let (expected, usage) = read(&*here, asked.clone()).await;
    assert_eq!(usage.cached_tokens, 0);
    let block_bytes = state(&*there).await.block_bytes;

    let fetched = there.fetch(order(&asked, &address)).await.unwrap();

    assert_eq!(fetched, Fetched { blocks: 4, bytes: 4 * block_bytes });
    let (found, usage) = read(&*there, asked.clone()).await;
    assert_eq!((found, usage.cached_tokens), (expected, 128));
    let again = there.fetch(order(&asked, &address)).await.unwrap();
    assert_eq!(again, Fetched::default(), "it has them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sequence_that_was_handed_over_finds_its_output_too() {
    let ((subject, here), (_, there)) = (local(), local());
    let address = served(here.clone()).await;
    over_the_network(&there);
    let asked = start(&subject, 150);
    let (expected, _) = read(&*here, asked.clone()).await;
    let (before, after) = expected.split_at(20);
    let tokens = [&*asked.prompt, before].concat();
    state(&*there).await;

    let order = FetchOrder { tokens: tokens.into(), ..order(&asked, &address) };
    let fetched = there.fetch(order).await.unwrap();

    assert_eq!(fetched.blocks, 5, "170 tokens, 20 of them output");
    let rest = Start { generated: before.to_vec(), ..asked };
    let (rest, usage) = read(&*there, rest).await;
    assert_eq!(rest, after);
    assert_eq!(usage.cached_tokens, 150, "all of the prompt");
    assert_eq!(usage.times.prefill.nanos(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_of_another_tenant_is_fetched() {
    let ((subject, here), (_, there)) = (local(), local());
    let address = served(here.clone()).await;
    over_the_network(&there);
    let asked = start(&subject, 150);
    read(&*here, asked.clone()).await;
    state(&*there).await;

    let salt = CacheSalt::of(ProjectId::from_u128(2));
    let fetched = there.fetch(FetchOrder { salt, ..order(&asked, &address) }).await.unwrap();

    assert_eq!(fetched, Fetched::default());
    let (_, usage) = read(&*there, Start { salt, ..asked }).await;
    assert_eq!(usage.cached_tokens, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_cannot_be_reached_gives_nothing() {
    let (subject, there) = local();
    let asked = start(&subject, 150);
    state(&*there).await;
    let alone = there.fetch(order(&asked, "http://127.0.0.1:1")).await.unwrap();
    assert_eq!(alone, Fetched::default(), "it was not told how to reach others");
    over_the_network(&there);

    let error = there.fetch(order(&asked, "http://127.0.0.1:1")).await.unwrap_err();
    assert!(matches!(error, WorkerError::Unreachable(_)), "{error:?}");
    let model = ModelDigest::new("another");
    let unknown = FetchOrder { model: model.clone(), ..order(&asked, "http://127.0.0.1:1") };
    assert_eq!(there.fetch(unknown).await.unwrap_err(), WorkerError::ModelNotFound(model));
}

/// Gives the blocks of another worker, but not as they are.
struct Liar {
    honest: Arc<LocalWorker>,
    lie: fn(usize, BlockContent) -> BlockContent,
}

#[async_trait]
impl Worker for Liar {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        self.honest.generate(start).await
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        self.honest.watch().await
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.honest.drain(leaves_in).await
    }

    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError> {
        self.honest.set_price(rent).await
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        self.honest.model_files(model).await
    }

    async fn blocks(&self, wanted: BlocksWanted) -> Result<BlockStream, WorkerError> {
        let blocks = self.honest.blocks(wanted).await?.enumerate();
        let lie = self.lie;
        Ok(blocks.map(move |(index, block)| block.map(|block| lie(index, block))).boxed())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn from_the_first_wrong_block_on_nothing_is_taken() {
    let other_name = |index, block: BlockContent| match index {
        2 => BlockContent { name: BlockHash::from_bytes([9; 32]), ..block },
        _ => block,
    };
    let too_short = |index, block: BlockContent| match index {
        2 => BlockContent { content: block.content[1..].to_vec(), ..block },
        _ => block,
    };
    let lies: [fn(usize, BlockContent) -> BlockContent; 2] = [other_name, too_short];
    for lie in lies {
        let ((subject, honest), (_, there)) = (local(), local());
        let asked = start(&subject, 150);
        let (expected, _) = read(&*honest, asked.clone()).await;
        let liar = Arc::new(Liar { honest, lie });
        there.reach(Box::new(move |_| Ok(liar.clone())));
        state(&*there).await;

        let fetched = there.fetch(order(&asked, "anywhere")).await.unwrap();

        assert_eq!(fetched.blocks, 2);
        let (found, usage) = read(&*there, asked).await;
        assert_eq!((found, usage.cached_tokens), (expected, 64));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_block_nobody_has_is_left_out() {
    let (subject, worker) = local();
    let asked = start(&subject, 100);
    read(&*worker, asked.clone()).await;
    let held = names(&*worker, &asked).await;
    let wanted = [BlockHash::from_bytes([9; 32]), held[1]].to_vec();

    let blocks = worker.blocks(BlocksWanted { model: asked.model, names: wanted }).await.unwrap();

    let blocks: Vec<_> = blocks.map(|block| block.unwrap().name).collect().await;
    assert_eq!(blocks, [held[1]]);
}

/// Much longer than any test; a test that would hang fails instead.
const LIMIT: Duration = Duration::from_mins(1);
