//! Asks one question and times the answer, chunk by chunk.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

/// Who is asked, and with which keys.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://host:port`
    pub endpoint: String,
    /// One for each tenant; with fewer keys than tenants, tenants share them.
    pub keys: Vec<String>,
}

/// Sends questions to a [`Target`] over connections that are kept.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    http: reqwest::Client,
}

/// A request for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose key is used, as an index.
    pub tenant: usize,
    /// Path below the endpoint.
    pub path: &'static str,
    /// JSON.
    pub body: String,
}

/// What became of one question.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it should have been sent. Waiting to be sent counts as waiting: a generator that falls
    /// behind must not make the server look fast.
    pub due: Instant,
    /// When each chunk with text came.
    pub chunks: Vec<Instant>,
    /// When the answer was complete, or given up.
    pub ended: Instant,
    /// Tokens, as the server's usage says.
    pub prompt_tokens: u64,
    /// Tokens, as the server's usage says.
    pub completion_tokens: u64,
    /// Tokens of the prompt that were not computed, as the server's usage says.
    pub cached_tokens: u64,
    /// What it cost, in nano-dollars; 0 where the server does not say.
    pub charge_nano_usd: u64,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// Why a question was not answered: the server's error code, or what the client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: PromptDetails,
    #[serde(default)]
    cost_details: CostDetails,
}

#[derive(Default, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: u64,
}

#[derive(Default, Deserialize)]
struct CostDetails {
    #[serde(default)]
    charge_nano_usd: u64,
}

/// What every client here is made from.
pub fn http() -> reqwest::ClientBuilder {
    // Refused if another client was made before; it is the same one then.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The system's proxy would be measured too.
    reqwest::Client::builder().no_proxy()
}

impl Client {
    /// A client of `target`.
    pub fn new(target: Target) -> anyhow::Result<Self> {
        let http = http().tcp_nodelay(true).build();
        Ok(Self { target, http: http.context("build a client")? })
    }

    /// Asks, and waits for the end of the answer.
    pub async fn ask(&self, question: &Question, due: Instant) -> Sample {
        let mut sample = Sample::unanswered(due);
        let answered = tokio::time::timeout(LIMIT, self.listen(question, &mut sample)).await;
        sample.failure = match answered {
            Ok(answered) => answered.err(),
            Err(_) => Some(Failure::new("generator_timeout")),
        };
        sample.ended = Instant::now();
        sample
    }

    async fn listen(&self, question: &Question, sample: &mut Sample) -> Result<(), Failure> {
        let Target { endpoint, keys } = &self.target;
        let request = self.http.post(format!("{endpoint}{}", question.path));
        let request = request.bearer_auth(&keys[question.tenant % keys.len()]);
        let request = request.header("content-type", "application/json");
        let sent = request.body(question.body.clone()).send().await;
        let mut answer = sent.map_err(|_| Failure::new("not_connected"))?;
        if answer.status() != 200 {
            return Err(refusal(answer).await);
        }
        let mut rest = Vec::new();
        loop {
            let piece = answer.chunk().await.map_err(|_| Failure::new("stream_broken"))?;
            let piece = piece.ok_or_else(|| Failure::new("stream_cut_off"))?;
            let came = Instant::now();
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                if sample.read(line.trim_ascii_end(), came)? {
                    return Ok(());
                }
            }
        }
    }
}

impl Sample {
    /// A question that was never sent.
    pub fn unsent(due: Instant, why: &str) -> Self {
        Self { failure: Some(Failure::new(why)), ..Self::unanswered(due) }
    }

    fn unanswered(due: Instant) -> Self {
        Self {
            due,
            chunks: Vec::new(),
            ended: due,
            prompt_tokens: 0,
            completion_tokens: 0,
            cached_tokens: 0,
            charge_nano_usd: 0,
            failure: None,
        }
    }

    /// From when it was due to the first text.
    pub fn first_token(&self) -> Option<Duration> {
        self.chunks.first().map(|first| first.duration_since(self.due))
    }

    /// The times between chunks with text.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.chunks.windows(2).map(|pair| pair[1].duration_since(pair[0]))
    }

    /// The tokens that came within a time; tokens count as spread evenly over the chunks.
    pub fn tokens_between(&self, begin: Instant, end: Instant) -> f64 {
        let within = |at: &&Instant| (begin..end).contains(*at);
        let (of, came) = match self.chunks.as_slice() {
            [] => (1, usize::from(within(&&self.ended))),
            chunks => (chunks.len(), chunks.iter().filter(within).count()),
        };
        self.completion_tokens as f64 * came as f64 / of as f64
    }

    /// Notes one line of the stream; `true` after the last one.
    fn read(&mut self, line: &[u8], came: Instant) -> Result<bool, Failure> {
        let Some(event) = line.strip_prefix(b"data: ") else { return Ok(false) };
        if event == b"[DONE]" {
            // A model may end its turn at once; a prompt has at least one token, so that tells.
            let complete = self.prompt_tokens > 0;
            return if complete { Ok(true) } else { Err(Failure::new("usage_missing")) };
        }
        let chunk: Chunk =
            serde_json::from_slice(event).map_err(|_| Failure::new("stream_unreadable"))?;
        if let Some(usage) = chunk.usage {
            self.prompt_tokens = usage.prompt_tokens;
            self.completion_tokens = usage.completion_tokens;
            self.cached_tokens = usage.prompt_tokens_details.cached_tokens;
            self.charge_nano_usd = usage.cost_details.charge_nano_usd;
        }
        if let Some(error) = chunk.error {
            return Err(Failure::said(&error));
        }
        if chunk.choices.iter().any(Choice::has_text) {
            self.chunks.push(came);
        }
        Ok(false)
    }
}

impl Choice {
    fn has_text(&self) -> bool {
        let content = self.delta.as_ref().and_then(|delta| delta.content.as_ref());
        content.or(self.text.as_ref()).is_some_and(|text| !text.is_empty())
    }
}

impl Failure {
    fn new(kind: &str) -> Self {
        Self(kind.to_owned())
    }

    /// What an error object of the protocol says.
    fn said(error: &Value) -> Self {
        let kind = error["code"].as_str().or_else(|| error["type"].as_str());
        Self::new(kind.unwrap_or("unnamed_error"))
    }
}

async fn refusal(answer: Response) -> Failure {
    let status = answer.status().as_u16();
    let body: Option<Value> = answer.json().await.ok();
    match body.as_ref().map(|body| &body["error"]).filter(|error| error.is_object()) {
        Some(error) => Failure::said(error),
        None => Failure(format!("status_{status}")),
    }
}

/// Longer than any gateway keeps a request by default.
const LIMIT: Duration = Duration::from_mins(15);

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(lines: &[&str]) -> (Sample, Result<bool, Failure>) {
        let began = Instant::now();
        let mut sample = Sample::unanswered(began);
        let mut last = Ok(false);
        for (at, line) in lines.iter().enumerate() {
            last = sample.read(line.as_bytes(), began + Duration::from_secs(at as u64));
        }
        (sample, last)
    }

    const TEXT: &str = r#"data: {"choices":[{"delta":{"content":"a"}}],"usage":null}"#;
    const USAGE: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":8,"prompt_tokens_details":{"cached_tokens":2},"cost_details":{"charge_nano_usd":5}}}"#;

    #[test]
    fn only_chunks_with_text_count_as_tokens() {
        let role = r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#;

        let (sample, last) = listen(&[": ping", role, "", TEXT, TEXT, USAGE, "data: [DONE]"]);

        assert_eq!(last, Ok(true));
        assert_eq!(sample.first_token(), Some(Duration::from_secs(3)));
        assert_eq!(sample.gaps().collect::<Vec<_>>(), [Duration::from_secs(1)]);
        assert_eq!((sample.prompt_tokens, sample.completion_tokens), (3, 8));
        assert_eq!((sample.cached_tokens, sample.charge_nano_usd), (2, 5));
    }

    #[test]
    fn a_stream_without_usage_is_a_failure() {
        let (_, last) = listen(&[TEXT, "data: [DONE]"]);
        assert_eq!(last, Err(Failure::new("usage_missing")));
    }

    #[test]
    fn an_error_within_a_stream_is_told_by_its_code() {
        let (_, last) = listen(&[TEXT, r#"data: {"error":{"code":"unavailable","type":"x"}}"#]);
        assert_eq!(last, Err(Failure::new("unavailable")));
    }

    #[test]
    fn tokens_are_counted_in_the_window_in_which_they_came() {
        let (sample, _) = listen(&[TEXT, TEXT, TEXT, TEXT, USAGE]);
        let at = |seconds| sample.due + Duration::from_secs(seconds);

        assert_eq!(sample.tokens_between(at(1), at(3)), 4.0);
        assert_eq!(sample.tokens_between(at(0), at(9)), 8.0);
    }
}
