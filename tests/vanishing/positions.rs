//! A worker that vanishes after each token of an answer in turn: gateway, router and engines in this process, and
//! a client over HTTP.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use admission::tenancy::{Actor, NewKey, Terms};
use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use domain::{ModelDigest, ModelFiles, Rent};
use futures_util::{Stream, StreamExt as _, stream};
use gateway::{InProcessWorker, Installation, Launch, Listener, RawGateway};
use proto::{Event, Generation, Start, StateStream, Wishes, Worker, WorkerError};
use serde_json::{Value, json};
use system_tests::Api;
use tempfile::TempDir;
use tokio::sync::oneshot;
use worker::{LocalWorker, RawWorker};

use crate::questions::question;
use crate::say;
use crate::transcript::Transcript;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_the_same_whichever_token_its_worker_vanishes_after() -> anyhow::Result<()> {
    let fuse = Arc::new(Fuse(AtomicI64::new(OFF)));
    let house = House::start(&fuse).await?;
    let mut told = question(2);
    told["logprobs"] = json!(true);
    told["top_logprobs"] = json!(2);
    for (kind, question) in [("schema", told), ("tool", question(3))] {
        let undisturbed = house.ask(&question).await?;
        let tokens = undisturbed.completion_tokens();
        for position in 0..tokens {
            fuse.burn_after(position);
            let disturbed = house.ask(&question).await?;
            ensure!(fuse.is_off(), "no worker vanished after {position} tokens");
            ensure!(
                disturbed == undisturbed,
                "a {kind} answer differs when its worker vanishes after {position} of {tokens} tokens:\n{undisturbed:?}\n{disturbed:?}"
            );
        }
        say(&format!(
            "positions: a {kind} answer of {tokens} tokens is the same whichever of them its worker vanishes after"
        ));
    }
    house.close().await
}

/// When the next worker that is asked vanishes: after so many tokens.
struct Fuse(AtomicI64);

impl Fuse {
    fn burn_after(&self, tokens: u64) {
        self.0.store(tokens as i64, Ordering::SeqCst);
    }

    fn take(&self) -> Option<usize> {
        usize::try_from(self.0.swap(OFF, Ordering::SeqCst)).ok()
    }

    fn is_off(&self) -> bool {
        self.0.load(Ordering::SeqCst) == OFF
    }
}

const OFF: i64 = -1;

/// A worker that vanishes when its fuse has burnt down, for the one who asked.
struct Vanishing {
    inner: Arc<dyn Worker>,
    fuse: Arc<Fuse>,
}

#[async_trait]
impl Worker for Vanishing {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let allowance = start.allowance;
        let fuse = self.fuse.take();
        let generation = self.inner.generate(start).await?;
        let Some(left) = fuse else { return Ok(generation) };
        Ok(Generation::new(allowance, |wishes| cut(generation, wishes, left)))
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        self.inner.watch().await
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.inner.drain(leaves_in).await
    }

    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError> {
        self.inner.set_price(rent).await
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        self.inner.model_files(model).await
    }
}

/// The same events until `left` tokens have come; then the worker cannot be reached.
fn cut(
    generation: Generation,
    wishes: Wishes,
    left: usize,
) -> Pin<Box<dyn Stream<Item = Event> + Send>> {
    let whole = (generation, wishes, Some(left));
    stream::unfold(whole, async |(mut generation, mut wishes, left)| {
        let left = left?;
        if left == 0 {
            let lost = Event::lost(WorkerError::Unreachable("it vanished".to_owned()));
            return Some((lost, (generation, wishes, None)));
        }
        let control = generation.control();
        let mut event = loop {
            tokio::select! {
                event = generation.next() => break event?,
                Some((allowance, stop)) = wishes.next() => {
                    control.extend(allowance);
                    if let Some(reason) = stop {
                        control.stop(reason);
                    }
                }
            }
        };
        let mut still = left;
        if let Event::Tokens { ids, logprobs, .. } = &mut event {
            ids.truncate(left);
            logprobs.truncate(left);
            still -= ids.len();
        }
        Some((event, (generation, wishes, Some(still))))
    })
    .boxed()
}

/// A gateway with two workers that vanish, and a client of it.
struct House {
    api: Api,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Result<(), gateway::GatewayError>>,
    _data: TempDir,
}

impl House {
    async fn start(fuse: &Arc<Fuse>) -> anyhow::Result<Self> {
        let data = TempDir::with_prefix("tollgate-").context("create a folder")?;
        let settings = format!("data = \"{}\"\nworkers = []\n{SETTINGS}", data.path().display());
        let settings = toml::from_str::<RawGateway>(&settings)?.check()?;
        let installation = Installation::embedded(data.path().to_owned()).await?;
        let registry = installation.registry();
        let project = registry.establish().await?.project;
        let key = NewKey::called("tests", project.id);
        let key = registry.change(Actor::Local, &key, &Terms::default()).await?;
        let key = key.secret.context("a key has a secret")?;

        let listeners = [Listener::bind(settings.listen)?, Listener::bind(settings.admin_listen)?];
        let endpoint = format!("http://{}", listeners[0].address());
        let mut in_process = Vec::new();
        for name in ["one", "other"] {
            let worker = RawWorker::demo().check()?;
            let started = LocalWorker::start(
                &worker.model_name,
                &worker.model,
                worker.engine.clone(),
                worker.rent,
                &mut |_| (),
            );
            let inner = Arc::new(started?).over_pipes();
            let worker = Arc::new(Vanishing { inner, fuse: Arc::clone(fuse) });
            in_process.push(InProcessWorker { name: name.to_owned(), worker });
        }
        let (predecessor, configuration) = (None, None);
        let launch = Launch { settings, listeners, in_process, predecessor, configuration };
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(gateway::run(launch, move || _ = ready.send(()), async move {
            _ = stopped.await;
        }));
        is_ready.await.context("the gateway becomes ready")?;
        Ok(Self { api: Api::new(&endpoint, key.expose()), stop, running, _data: data })
    }

    async fn ask(&self, question: &Value) -> anyhow::Result<Transcript> {
        Transcript::read(&self.api, question, &AtomicUsize::new(0)).await
    }

    async fn close(self) -> anyhow::Result<()> {
        drop(self.stop);
        Ok(self.running.await??)
    }
}

/// Every worker vanishes often here, and is to be asked again.
const SETTINGS: &str = "
listen = \"127.0.0.1:0\"
admin_listen = \"127.0.0.1:0\"
[cache]
enabled = false
[routing]
breaker_failures = 1000000
breaker_percent = 100
[[prices]]
model = \"tollgate-demo\"
input = \"0.10\"
cached_input = \"0.05\"
output = \"0.40\"
";
