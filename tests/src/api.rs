//! The API as a client sees it: status, headers, JSON and server-sent events, and nothing retried.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{http, until};

/// A server as the owner of a key sees it. Connections are kept and shared by its clones.
#[derive(Clone, Debug)]
pub struct Api {
    endpoint: String,
    key: String,
    http: reqwest::Client,
}

/// A whole reply, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

/// A stream of server-sent events that is being read. Dropping it leaves: the connection is closed, or
/// the HTTP/2 stream reset.
#[derive(Debug)]
pub struct Events {
    response: Response,
    unread: Vec<u8>,
    told: Told,
}

/// What a stream has told so far.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The headers.
    pub headers: HeaderMap,
    /// The events but the last, `[DONE]`.
    pub events: Vec<Value>,
    /// Whether `[DONE]` was among them.
    pub done: bool,
}

impl Api {
    /// The API at `http://host:port`, over HTTP/1.1.
    pub fn new(endpoint: &str, key: &str) -> Self {
        Self::over(endpoint, key, http())
    }

    /// The same over one HTTP/2 connection, without asking first.
    pub fn over_http2(endpoint: &str, key: &str) -> Self {
        Self::over(endpoint, key, http().http2_prior_knowledge())
    }

    fn over(endpoint: &str, key: &str, http: reqwest::ClientBuilder) -> Self {
        let http = http.timeout(LIMIT).build().unwrap_or_default();
        Self { endpoint: endpoint.to_owned(), key: key.to_owned(), http }
    }

    /// The same server for the owner of another key.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// A request with our key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.endpoint)).bearer_auth(&self.key)
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        Reply::of(self.request(Method::GET, path)).await
    }

    /// `POST path` with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    /// A chat completion in one piece.
    pub async fn chat(&self, body: &Value) -> anyhow::Result<Reply> {
        self.post(CHAT, body).await
    }

    /// The beginning of a chat completion that is streamed; `stream` is set here.
    pub async fn open(&self, body: &Value) -> anyhow::Result<Events> {
        let events = self.try_open(body).await?;
        if events.status() != 200 {
            let reply = Reply::read(events.response).await?;
            bail!("a stream was refused: {} {}", reply.status, reply.body);
        }
        Ok(events)
    }

    /// The same, whatever the status.
    pub async fn try_open(&self, body: &Value) -> anyhow::Result<Events> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let response = self.request(Method::POST, CHAT).json(&body).send().await;
        let response = response.context("ask for a stream")?;
        let told = Told { headers: response.headers().clone(), ..Told::default() };
        Ok(Events { response, unread: Vec::new(), told })
    }

    /// A chat completion that is streamed, to its end.
    pub async fn stream(&self, body: &Value) -> anyhow::Result<Told> {
        self.open(body).await?.rest().await
    }

    /// Waits until the server knows our key.
    pub async fn known(&self) -> anyhow::Result<()> {
        let look = async || Ok((self.get("/v1/models").await?.status == 200).then_some(()));
        until("the key is known", LIMIT, look).await
    }

    /// Waits until the server refuses our key.
    pub async fn unknown(&self) -> anyhow::Result<()> {
        let look = async || Ok((self.get("/v1/models").await?.status == 401).then_some(()));
        until("the key is refused", LIMIT, look).await
    }
}

impl Reply {
    /// Sends a request and reads the whole reply.
    pub async fn of(request: RequestBuilder) -> anyhow::Result<Self> {
        Self::read(request.send().await.context("send a request")?).await
    }

    async fn read(response: Response) -> anyhow::Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.text().await.context("read a reply")?;
        Ok(Self { status, headers, body })
    }

    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The error object.
    pub fn error(&self) -> Value {
        self.json()["error"].take()
    }

    /// The text of the first choice.
    pub fn text(&self) -> String {
        let choice = &self.json()["choices"][0];
        let text = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str());
        text.unwrap_or_default().to_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The id under which the server knows the request.
    pub fn request_id(&self) -> &str {
        self.header("x-request-id").unwrap_or_default()
    }

    /// What the client was told it pays, in nano-dollars.
    pub fn charge(&self) -> Option<i64> {
        self.json()["usage"]["cost_details"]["charge_nano_usd"].as_i64()
    }

    /// Fails, with the body, unless the status is `status`.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(self.status == status, "{} instead of {status}: {}", self.status, self.body);
        Ok(self)
    }
}

impl Events {
    /// The next event; `None` after `[DONE]`, or where a stream without it ends.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            let end = self.unread.windows(2).position(|pair| pair == b"\n\n");
            let Some(end) = end else {
                match self.response.chunk().await.context("read a stream")? {
                    Some(bytes) => self.unread.extend_from_slice(&bytes),
                    None => return Ok(None),
                }
                continue;
            };
            let event: Vec<u8> = self.unread.drain(..end + 2).collect();
            let Some(event) = event.strip_prefix(b"data: ") else { continue };
            if event.starts_with(b"[DONE]") {
                self.told.done = true;
                continue;
            }
            let event: Value = serde_json::from_slice(event).context("read an event")?;
            self.told.events.push(event.clone());
            return Ok(Some(event));
        }
    }

    /// Reads until `number` events with text have come.
    pub async fn texts(&mut self, number: usize) -> anyhow::Result<()> {
        while self.told.texts() < number {
            ensure!(self.next().await?.is_some(), "the stream ended early: {:?}", self.told);
        }
        Ok(())
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// What was told so far.
    pub const fn told(&self) -> &Told {
        &self.told
    }

    /// Reads to the end.
    pub async fn rest(mut self) -> anyhow::Result<Told> {
        while self.next().await?.is_some() {}
        Ok(self.told)
    }
}

impl Told {
    /// The text, joined.
    pub fn text(&self) -> String {
        self.events.iter().filter_map(delta).collect()
    }

    /// The number of events with text.
    pub fn texts(&self) -> usize {
        self.events.iter().filter_map(delta).filter(|text| !text.is_empty()).count()
    }

    /// Why the answer ended.
    pub fn finish_reason(&self) -> Option<&str> {
        self.events.iter().find_map(|event| event["choices"][0]["finish_reason"].as_str())
    }

    /// The usage, in whatever event it was.
    pub fn usage(&self) -> Value {
        let usage = self.events.iter().map(|event| &event["usage"]).find(|usage| usage.is_object());
        usage.cloned().unwrap_or_default()
    }

    /// What the client was told it pays, in nano-dollars.
    pub fn charge(&self) -> Option<i64> {
        self.usage()["cost_details"]["charge_nano_usd"].as_i64()
    }

    /// The error that ended it, if one did.
    pub fn error(&self) -> Option<Value> {
        self.events.iter().find_map(|event| event.get("error")).cloned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The id under which the server knows the request.
    pub fn request_id(&self) -> &str {
        self.header("x-request-id").unwrap_or_default()
    }
}

fn delta(event: &Value) -> Option<&str> {
    event["choices"][0]["delta"]["content"].as_str()
}

const CHAT: &str = "/v1/chat/completions";
/// Far beyond any answer of the demo model: what takes longer is stuck.
const LIMIT: Duration = Duration::from_mins(1);
