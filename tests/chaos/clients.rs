//! Clients that ask for whole answers and for streams, over HTTP/1.1 and HTTP/2, and sometimes leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use system_tests::{Api, Fleet, Reply};
use tokio::task::JoinHandle;

/// What a client saw of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// `None` if there was no head of a reply.
    pub(crate) status: Option<u16>,
    /// The server's name of it; empty without a head.
    pub(crate) request: String,
    /// What it was told to pay, if it was answered to the end.
    pub(crate) charge: Option<i64>,
    /// What it asked.
    pub(crate) question: String,
    /// The text, if it was answered to the end.
    pub(crate) text: String,
}

impl Seen {
    /// A reply in one piece.
    pub(crate) fn of(reply: &Reply) -> Self {
        let request = reply.request_id().to_owned();
        let (charge, text) = (reply.charge(), reply.text());
        Self { status: Some(reply.status), request, charge, text, ..Self::default() }
    }
}

/// Clients at work.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<anyhow::Result<Vec<Seen>>>>,
}

struct Client {
    api: Api,
    random: fastrand::Rng,
}

impl Load {
    /// Sets twelve clients to work, a third of them over HTTP/2.
    pub(crate) fn start(fleet: &Fleet, random: &mut fastrand::Rng) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|number| {
            let api = if number % 3 == 0 {
                Api::over_http2(&fleet.gateway.endpoint(), &fleet.key())
            } else {
                fleet.api()
            };
            let mut client = Client { api, random: random.fork() };
            let over = Arc::clone(&over);
            tokio::spawn(async move { client.work(&over).await })
        });
        Self { clients: clients.collect(), over }
    }

    /// Lets every client end its last request, and returns what they saw.
    pub(crate) async fn finish(self) -> anyhow::Result<Vec<Seen>> {
        self.over.store(true, Ordering::SeqCst);
        let mut seen = Vec::new();
        for client in self.clients {
            seen.extend(client.await.context("a client panicked")??);
        }
        Ok(seen)
    }
}

impl Client {
    async fn work(&mut self, over: &AtomicBool) -> anyhow::Result<Vec<Seen>> {
        let mut all = Vec::new();
        while !over.load(Ordering::SeqCst) {
            let mut seen = Seen::default();
            let asked = tokio::time::timeout(LIMIT, self.ask(&mut seen)).await;
            if asked.is_err() {
                bail!("a request is stuck: {seen:?}");
            }
            if seen.status.is_none() {
                // The gateway is gone: a moment, as every client library takes one.
                tokio::time::sleep(PAUSE).await;
            }
            all.push(seen);
        }
        Ok(all)
    }

    /// One request. That a connection breaks is no failure here.
    async fn ask(&mut self, seen: &mut Seen) {
        let request = self.question();
        seen.question = request.to_string();
        match self.random.u8(..6) {
            0 | 1 => self.whole(&request, seen).await,
            2 => {
                let leave = Duration::from_millis(self.random.u64(1..400));
                let asking = self.whole(&request, seen);
                let _ = tokio::time::timeout(leave, asking).await;
            }
            3 => {
                let texts = self.random.usize(..40);
                self.stream(&request, texts, seen).await;
            }
            _ => self.stream(&request, usize::MAX, seen).await,
        }
    }

    async fn whole(&self, request: &Value, seen: &mut Seen) {
        let Ok(reply) = self.api.chat(request).await else { return };
        *seen = Seen { question: std::mem::take(&mut seen.question), ..Seen::of(&reply) };
    }

    /// Reads a stream, and leaves after `texts` pieces of text.
    async fn stream(&self, request: &Value, texts: usize, seen: &mut Seen) {
        let Ok(mut events) = self.api.try_open(request).await else { return };
        seen.status = Some(events.status());
        events.told().request_id().clone_into(&mut seen.request);
        while events.told().texts() < texts {
            match events.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        if events.told().done {
            seen.charge = events.told().charge();
            seen.text = events.told().text();
        }
    }

    /// One of a few hundred questions, so that some are asked again.
    fn question(&mut self) -> Value {
        let subject = SUBJECTS[self.random.usize(..SUBJECTS.len())];
        let content = format!("Tell me a story about {subject} and {} frogs.", self.random.u8(..8));
        let max_tokens = [20, 80, 250][self.random.usize(..3)];
        let mut question = json!({
            "model": "tollgate-demo",
            "messages": [{ "role": "user", "content": content }],
            "max_tokens": max_tokens,
        });
        match self.random.u8(..4) {
            0 => question["temperature"] = json!(1),
            1 => question["seed"] = json!(self.random.u8(..3)),
            _ => question["temperature"] = json!(0),
        }
        question
    }
}

const CLIENTS: usize = 12;
const SUBJECTS: &[&str] = &["a dragon", "the sea", "an old king", "two friends"];
/// Twice what the gateway allows one request, and more.
const LIMIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(50);
