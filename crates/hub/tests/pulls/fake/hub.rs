//! A hub as Hugging Face's behaves: it resolves revisions to commits, lists trees in pages, serves small files itself and
//! redirects large ones to a storage host, which answers nobody who shows a token.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use tokio::task::JoinHandle;

use super::wire::{Asked, Said, content, serve, unescaped};

/// One hub and its storage.
#[derive(Clone)]
pub(crate) struct FakeHub {
    pub(crate) hub: SocketAddr,
    state: Arc<Mutex<State>>,
    listening: Task,
    storing: Task,
}

type Task = Arc<Mutex<Option<JoinHandle<()>>>>;

async fn end(task: &Task) {
    let task = task.lock().unwrap().take().expect("it leaves once");
    task.abort();
    let _ = task.await;
}

#[derive(Default)]
pub(crate) struct State {
    /// By repository and revision.
    pub(crate) revisions: HashMap<(String, String), String>,
    /// By commit: path, content, whether it is large.
    pub(crate) commits: HashMap<String, Vec<(String, Vec<u8>, bool)>>,
    /// Repositories, and the token that may read each.
    pub(crate) gated: HashMap<String, String>,
    /// After how many bytes the next bodies of files are cut.
    pub(crate) cuts: VecDeque<usize>,
    /// What is served instead of what was promised, by path.
    pub(crate) wrong: HashMap<String, Vec<u8>>,
    /// Sizes that are told of large files, instead of theirs.
    pub(crate) told_sizes: HashMap<String, u64>,
    /// Files whose ranges are not heeded.
    pub(crate) without_ranges: HashSet<String>,
    /// Statuses of the next answers, whatever is asked.
    pub(crate) sick: VecDeque<u16>,
    pub(crate) seen: Vec<Seen>,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Of the storage, not of the hub.
    pub(crate) is_storage: bool,
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) from: Option<usize>,
    /// Bytes of the body that were sent.
    pub(crate) sent: usize,
}

impl FakeHub {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let of_storage = Arc::clone(&state);
        let (storage, storing) = serve(move |asked| asked_of_storage(&of_storage, asked)).await;
        let of_hub = Arc::clone(&state);
        let (hub, listening) = serve(move |asked| asked_of_hub(&of_hub, storage, asked)).await;
        let [listening, storing] =
            [listening, storing].map(|task| Arc::new(Mutex::new(Some(task))));
        Self { hub, state, listening, storing }
    }

    /// Takes the storage off the network.
    pub(crate) async fn lose_storage(&self) {
        end(&self.storing).await;
    }

    /// Takes the hub off the network.
    pub(crate) async fn leave(&self) {
        end(&self.listening).await;
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.hub)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes a commit of these files, and lets `revision` be it. Files of more than 100 bytes are large.
    pub(crate) fn commit(
        &self,
        repository: &str,
        revision: &str,
        files: &[(&str, &[u8])],
    ) -> String {
        let files: Vec<(String, Vec<u8>, bool)> = files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), content.to_vec(), content.len() > 100))
            .collect();
        let commit = hex(&Sha1::digest(format!("{repository}{files:?}")));
        let mut state = self.state();
        for revision in [revision, &commit] {
            let key = (repository.to_owned(), revision.to_owned());
            state.revisions.insert(key, commit.clone());
        }
        state.commits.insert(commit.clone(), files);
        commit
    }

    /// Bytes that were sent of files whose path ends so.
    pub(crate) fn sent_of(&self, end: &str) -> usize {
        self.state().seen.iter().filter(|seen| seen.path.ends_with(end)).map(|seen| seen.sent).sum()
    }
}

fn asked_of_hub(state: &Mutex<State>, storage: SocketAddr, asked: &Asked) -> Said {
    let mut state = state.lock().unwrap();
    let said = match state.sick.pop_front() {
        Some(status) => Said::new(status, "").with("retry-after", "0"),
        None => hub(&mut state, storage, asked),
    };
    note(&mut state, asked, false, &said);
    said
}

fn hub(state: &mut State, storage: SocketAddr, asked: &Asked) -> Said {
    let path = unescaped_parts(asked.path());
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    let (repository, rest) = match parts.as_slice() {
        ["api", "models", organization, name, rest @ ..] | [organization, name, rest @ ..] => {
            (format!("{organization}/{name}"), rest)
        }
        _ => return Said::new(404, ""),
    };
    if let Some(needed) = state.gated.get(&repository)
        && asked.header("authorization") != Some(&format!("Bearer {needed}"))
    {
        let status = if asked.header("authorization").is_some() { 403 } else { 401 };
        return Said::new(status, "").with("x-error-code", "GatedRepo");
    }
    if !state.revisions.keys().any(|(known, _)| *known == repository) {
        return Said::new(401, "").with("x-error-code", "RepoNotFound");
    }
    let [what, revision, file @ ..] = rest else { return Said::new(404, "") };
    let Some(commit) = state.revisions.get(&(repository, (*revision).to_owned())).cloned() else {
        return Said::new(404, "").with("x-error-code", "RevisionNotFound");
    };
    match *what {
        "revision" => Said::new(200, json!({ "sha": commit, "id": "x" }).to_string()),
        "tree" => tree(&state.commits[&commit], &state.told_sizes, asked),
        "resolve" => resolve(state, &commit, &file.join("/"), storage, asked),
        _ => Said::new(404, ""),
    }
}

/// Three entries at a time.
fn tree(files: &[(String, Vec<u8>, bool)], sizes: &HashMap<String, u64>, asked: &Asked) -> Said {
    let at: usize = asked.query("cursor").map_or(0, |cursor| cursor.parse().unwrap());
    let page: Vec<Value> = files.iter().skip(at).take(3).map(|file| entry(file, sizes)).collect();
    let said = Said::new(200, json!(page).to_string());
    if at + 3 >= files.len() {
        return said;
    }
    let host = asked.header("host").unwrap();
    let next =
        format!("<http://{host}{}?recursive=true&cursor={}>; rel=\"next\"", asked.path(), at + 3);
    said.with("link", next)
}

fn entry(
    (path, content, is_large): &(String, Vec<u8>, bool),
    sizes: &HashMap<String, u64>,
) -> Value {
    let size = sizes.get(path).copied().unwrap_or(content.len() as u64);
    if *is_large {
        let oid = hex(&Sha256::digest(content));
        let lfs = json!({ "oid": oid, "size": size, "pointerSize": 134 });
        let pointer = git_blob(oid.as_bytes());
        return json!({ "type": "file", "path": path, "oid": pointer, "size": size, "lfs": lfs });
    }
    json!({ "type": "file", "path": path, "oid": git_blob(content), "size": content.len() })
}

fn resolve(
    state: &mut State,
    commit: &str,
    path: &str,
    storage: SocketAddr,
    asked: &Asked,
) -> Said {
    let found = state.commits[commit].iter().find(|(known, _, _)| known == path).cloned();
    let Some((_, bytes, is_large)) = found else {
        return Said::new(404, "").with("x-error-code", "EntryNotFound");
    };
    if is_large {
        let oid = hex(&Sha256::digest(&bytes));
        return Said::new(302, "")
            .with("location", format!("http://{storage}/{oid}/{path}?X-Amz-Signature=signed"))
            .with("x-linked-etag", format!("\"{oid}\""))
            .with("x-linked-size", bytes.len().to_string())
            .with("x-repo-commit", commit);
    }
    let tag = format!("\"{}\"", git_blob(&bytes));
    body(state, path, &bytes, &tag, asked).with("x-repo-commit", commit)
}

fn asked_of_storage(state: &Mutex<State>, asked: &Asked) -> Said {
    let mut state = state.lock().unwrap();
    let said = storage(&mut state, asked);
    note(&mut state, asked, true, &said);
    said
}

fn storage(state: &mut State, asked: &Asked) -> Said {
    if asked.header("authorization").is_some() {
        return Said::new(400, "two ways to say who you are");
    }
    if asked.query("X-Amz-Signature").is_none() {
        return Said::new(403, "");
    }
    let (oid, path) = asked.path()[1..].split_once('/').unwrap();
    let path = unescaped(path);
    let files = state.commits.values().flatten();
    let mut found = files.filter(|(_, bytes, _)| hex(&Sha256::digest(bytes)) == oid);
    let Some((_, bytes, _)) = found.next().cloned() else { return Said::new(404, "") };
    body(state, &path, &bytes, &format!("\"{oid}\""), asked)
}

fn body(state: &mut State, path: &str, bytes: &[u8], tag: &str, asked: &Asked) -> Said {
    let wrong = state.wrong.get(path).cloned();
    let bytes = wrong.as_deref().unwrap_or(bytes);
    let mut asked = asked.clone();
    if state.without_ranges.contains(path) {
        asked.headers.retain(|(name, _)| name != "range");
    }
    Said { cut: state.cuts.pop_front(), ..content(&asked, bytes, tag) }
}

fn note(state: &mut State, asked: &Asked, is_storage: bool, said: &Said) {
    let whole = said.body.len();
    state.seen.push(Seen {
        is_storage,
        path: asked.path().to_owned(),
        token: asked.header("authorization").map(str::to_owned),
        from: asked.from(),
        sent: said.cut.unwrap_or(whole).min(whole),
    });
}

fn unescaped_parts(path: &str) -> Vec<String> {
    path.trim_start_matches('/').split('/').map(unescaped).collect()
}

pub(crate) fn git_blob(content: &[u8]) -> String {
    let mut digest = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    digest.update(content);
    hex(&digest.finalize())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
