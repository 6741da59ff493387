//! Files of a repository of a hub, as Hugging Face serves them.
//!
//! A revision is made a commit once, and only the commit is asked for after that, so no two files are of two commits.
//! Large files are redirected to another host: the token goes to the hub's own scheme, host and port, and nowhere
//! else. What the hub says of a large file while it redirects must be what it listed.

use async_trait::async_trait;
use domain::Secret;
use futures_util::StreamExt;
use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LINK, LOCATION, RANGE,
    RETRY_AFTER,
};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

use super::{Entry, Opened, Source};
use crate::digest::{Check, is_hex};
use crate::error::{Failure, HubError};
use crate::http::broken;

/// One repository at one revision.
pub(crate) struct Hub {
    client: Client,
    endpoint: Url,
    token: Option<Secret<String>>,
    repository: String,
    revision: String,
}

impl Hub {
    pub(crate) fn new(
        endpoint: Url,
        token: Option<Secret<String>>,
        repository: String,
        revision: Option<String>,
    ) -> Result<Self, HubError> {
        let revision = revision.unwrap_or_else(|| DEFAULT_REVISION.to_owned());
        Ok(Self { client: crate::http::client()?, endpoint, token, repository, revision })
    }

    /// An address at the hub, of these parts; each is escaped, slashes too.
    fn url<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    fn api<'a>(&'a self, rest: [&'a str; 2]) -> Url {
        let repository = self.repository.split('/');
        self.url(["api", "models"].into_iter().chain(repository).chain(rest))
    }

    /// Asks, and goes where the hub says. `look` sees what the hub itself says, before anybody else is asked.
    async fn get(
        &self,
        mut url: Url,
        headers: &HeaderMap,
        what: &str,
        look: impl Fn(&HeaderMap) -> Result<(), HubError> + Send + Sync,
    ) -> Result<Response, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            let is_hub = url.origin() == self.endpoint.origin();
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            if let (true, Some(token)) = (is_hub, &self.token) {
                request = request.bearer_auth(token.expose());
            }
            let answer = request.send().await.map_err(broken)?;
            if is_hub && !answer.status().is_client_error() && !answer.status().is_server_error() {
                look(answer.headers())?;
            }
            if !answer.status().is_redirection() {
                return self.judge(answer, is_hub, what);
            }
            let next = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = next.and_then(|next| url.join(next).ok());
            let next = next.ok_or_else(|| self.nonsense(what, "it redirects nowhere"))?;
            if !is_web(&next) || url.scheme() == "https" && next.scheme() != "https" {
                return Err(self
                    .nonsense(what, "it redirects to where nothing is encrypted")
                    .into());
            }
            url = next;
        }
        Err(self.nonsense(what, "it redirects too often").into())
    }

    fn judge(&self, answer: Response, is_hub: bool, what: &str) -> Result<Response, Failure> {
        let status = answer.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(answer);
        }
        let said = |name: &str| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let what = || format!("{what} of {}", self.what());
        match status {
            // An address that was signed for us has run out; the hub signs another.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !is_hub => {
                Err(Failure::passing(format!("the hub's storage answered {status}")))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let remedy = self.how_to_be_let_in(said("x-error-code").as_deref());
                Err(HubError::Refused { what: what(), remedy }.into())
            }
            StatusCode::NOT_FOUND => {
                let remedy = match said("x-error-code").as_deref() {
                    Some("RevisionNotFound") => "look at its revision",
                    Some("EntryNotFound") => "look at the name of the file",
                    _ => "look at its name, and whether its hub is the right one",
                };
                Err(HubError::Missing { what: what(), remedy: remedy.to_owned() }.into())
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(later(&answer)),
            status if status.is_server_error() => Err(later(&answer)),
            status => Err(self.nonsense(&what(), &format!("it answered {status}")).into()),
        }
    }

    fn how_to_be_let_in(&self, code: Option<&str>) -> String {
        let page = self.url(self.repository.split('/'));
        match (code, &self.token) {
            (Some("GatedRepo"), None) => format!(
                "it is gated: accept its conditions at {page}, and set HF_TOKEN or a token file"
            ),
            (Some("GatedRepo"), Some(_)) => format!(
                "it is gated: accept its conditions at {page} with the account of this token"
            ),
            (_, None) => "there is no such repository, or it is private: look at its name, and set HF_TOKEN or a token file".to_owned(),
            (_, Some(_)) => "there is no such repository, or this token may not read it".to_owned(),
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        url: Url,
        what: &str,
    ) -> Result<(T, Option<Url>), Failure> {
        let mut answer = self.get(url.clone(), &HeaderMap::new(), what, |_| Ok(())).await?;
        let next = next_page(answer.headers()).and_then(|next| url.join(&next).ok());
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if text.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.nonsense(what, "it is too long").into());
            }
            text.extend_from_slice(&chunk);
        }
        let read = serde_json::from_slice(&text);
        Ok((read.map_err(|error| self.nonsense(what, &error.to_string()))?, next))
    }

    fn nonsense(&self, what: &str, problem: &str) -> HubError {
        HubError::Nonsense { host: self.host(), what: what.to_owned(), problem: problem.to_owned() }
    }

    /// What the hub says of a file while it sends it or redirects to it.
    fn look(headers: &HeaderMap, pin: &str, entry: &Entry) -> Result<(), HubError> {
        let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if said("x-repo-commit").is_some_and(|commit| commit != pin) {
            return Err(HubError::Changed { file: entry.path.clone() });
        }
        let linked =
            said("x-linked-etag").map(|tag| tag.trim_start_matches("W/").trim_matches('"'));
        let Some(found) = linked.and_then(Check::sha256) else { return Ok(()) };
        if matches!(entry.check, Check::Sha256(_)) && found != entry.check {
            return Err(HubError::Mismatch {
                file: entry.path.clone(),
                expected: entry.check.to_string(),
                found: format!("{found}, as the hub says now"),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Source for Hub {
    fn host(&self) -> String {
        host(&self.endpoint)
    }

    fn what(&self) -> String {
        format!("{}@{}", self.repository, self.revision)
    }

    fn is_pinned(&self) -> bool {
        is_hex(&self.revision, COMMIT_DIGITS)
    }

    async fn pin(&self) -> Result<String, Failure> {
        if self.is_pinned() {
            return Ok(self.revision.to_ascii_lowercase());
        }
        let url = self.api(["revision", &self.revision]);
        let (Repository { sha }, _) = self.json(url, "the commit").await?;
        if !is_hex(&sha, COMMIT_DIGITS) {
            return Err(self.nonsense("the commit", "it is no commit").into());
        }
        Ok(sha.to_ascii_lowercase())
    }

    async fn list(&self, pin: &str) -> Result<Vec<Entry>, Failure> {
        let mut url = self.api(["tree", pin]);
        url.set_query(Some("recursive=true"));
        let mut entries = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, next): (Vec<TreeEntry>, _) = self.json(url, "the list of files").await?;
            entries.extend(page.into_iter().filter_map(TreeEntry::entry));
            let Some(next) = next else { return Ok(entries) };
            url = next;
        }
        Err(self.nonsense("the list of files", "it has no end").into())
    }

    async fn open(
        &self,
        pin: &str,
        entry: &Entry,
        from: u64,
        tag: Option<&str>,
    ) -> Result<Opened, Failure> {
        let repository = self.repository.split('/');
        let file = entry.path.split('/');
        let url = self.url(repository.chain(["resolve", pin]).chain(file));
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if from > 0 {
            headers.insert(
                RANGE,
                HeaderValue::try_from(format!("bytes={from}-")).map_err(Failure::passing)?,
            );
            if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(tag).ok()) {
                headers.insert(IF_RANGE, tag);
            }
        }
        let look = |headers: &HeaderMap| Self::look(headers, pin, entry);
        let answer = self.get(url, &headers, &entry.path, look).await?;
        let from = begins_at(&answer, from, entry.size)
            .map_err(|problem| Failure::passing(format!("{}: {problem}", entry.path)))?;
        let tag = answer.headers().get(ETAG).and_then(|value| value.to_str().ok());
        // A weak tag says that the meaning is the same; bytes are needed.
        let tag = tag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        let body = answer.bytes_stream().map(|chunk| chunk.map_err(broken)).boxed();
        Ok(Opened { from, tag, check: None, body })
    }
}

/// Where the bytes of an answer begin: where was asked for, or at the beginning.
fn begins_at(answer: &Response, asked: u64, size: u64) -> Result<u64, String> {
    match answer.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = answer.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let range = range.and_then(|range| range.strip_prefix("bytes "));
            let (span, total) =
                range.and_then(|range| range.split_once('/')).ok_or("no range came")?;
            let start = span.split_once('-').and_then(|(start, _)| start.parse::<u64>().ok());
            if start != Some(asked) || total != "*" && total.parse() != Ok(size) {
                return Err(format!(
                    "{asked}- of {size} was asked for, and {span} of {total} came"
                ));
            }
            Ok(asked)
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Err(format!("there is nothing from byte {asked} on")),
        _ => Ok(0),
    }
}

fn later(answer: &Response) -> Failure {
    let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    Failure::Passing { problem: format!("it answered {}", answer.status()), after }
}

/// The address of the next page in `Link: <address>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let mut links = links.flat_map(|links| links.split(','));
    let next = links.find(|link| link.contains("rel=\"next\""))?;
    let (_, rest) = next.split_once('<')?;
    rest.split_once('>').map(|(address, _)| address.to_owned())
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// Host, and port if it is not the usual one.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[derive(Deserialize)]
struct Repository {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    r#type: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl TreeEntry {
    fn entry(self) -> Option<Entry> {
        if self.r#type != "file" {
            return None;
        }
        let (size, check) = match self.lfs {
            // The other identity is of the pointer that Git has in its place.
            Some(Lfs { oid, size }) => (size, Check::sha256(oid.trim_start_matches("sha256:"))),
            None => (self.size, Check::git_blob(&self.oid)),
        };
        let check = check.unwrap_or(Check::Size);
        Some(Entry { path: self.path, size, check, tag: None })
    }
}

const DEFAULT_REVISION: &str = "main";
const COMMIT_DIGITS: usize = 40;
const MAX_REDIRECTS: usize = 5;
const MAX_PAGES: usize = 1000;
const MAX_ANSWER_BYTES: usize = 64 << 20;
