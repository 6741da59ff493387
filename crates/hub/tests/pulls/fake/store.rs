//! An object store that speaks as S3 does: lists of a prefix in pages, ranges, conditions on tags, MD5 as tags.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use md5::{Digest, Md5};

use super::hub::hex;
use super::wire::{Asked, Said, content, serve};

/// One store, of one bucket that is called `models`.
#[derive(Clone)]
pub(crate) struct FakeStore {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    /// After how many bytes the next bodies are cut.
    pub(crate) cuts: VecDeque<usize>,
    /// What is served instead of an object, under its tag.
    pub(crate) wrong: BTreeMap<String, Vec<u8>>,
    /// The key, and bytes that were sent.
    pub(crate) seen: Vec<(String, usize)>,
    /// Requests that nobody signed.
    pub(crate) unsigned: usize,
}

impl FakeStore {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let of_store = Arc::clone(&state);
        let (address, _) = serve(move |asked| answer(&mut of_store.lock().unwrap(), asked)).await;
        Self { address, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        self.state().objects.insert(key.to_owned(), content.to_vec());
    }

    pub(crate) fn sent_of(&self, key: &str) -> usize {
        self.state().seen.iter().filter(|(known, _)| known == key).map(|(_, sent)| sent).sum()
    }

    /// What a machine's environment says of it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", "us".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "ours".to_owned()),
            ("AWS_REGION", "here-1".to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }
}

fn answer(state: &mut State, asked: &Asked) -> Said {
    let signed = asked.header("authorization").is_some_and(|value| {
        value.starts_with("AWS4-HMAC-SHA256") && value.contains("x-amz-checksum-mode")
    });
    let is_list = asked.query("list-type").is_some();
    if !signed && !is_list {
        state.unsigned += 1;
        return Said::new(403, "<Error><Code>AccessDenied</Code></Error>");
    }
    if is_list {
        return list(state, asked);
    }
    let Some(key) = asked.path().strip_prefix("/models/") else { return Said::new(404, "") };
    let Some(bytes) = state.objects.get(key) else {
        return Said::new(404, "<Error><Code>NoSuchKey</Code></Error>");
    };
    let tag = tag(bytes);
    if asked.header("if-match").is_some_and(|wanted| wanted != tag) {
        return Said::new(412, "<Error><Code>PreconditionFailed</Code></Error>");
    }
    let bytes = state.wrong.get(key).unwrap_or(bytes).clone();
    let cut = state.cuts.pop_front();
    let said = content(asked, &bytes, &tag).with("x-amz-request-id", "1");
    let said = said.with("last-modified", "Tue, 01 Sep 2026 10:00:00 GMT");
    state.seen.push((key.to_owned(), cut.unwrap_or(said.body.len()).min(said.body.len())));
    Said { cut, ..said }
}

/// Two objects at a time.
fn list(state: &State, asked: &Asked) -> Said {
    let prefix = asked.query("prefix").unwrap_or_default();
    let after = asked.query("continuation-token").unwrap_or_default();
    let found = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let found: Vec<_> = found.collect();
    let mut xml = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    for (key, bytes) in found.iter().take(2) {
        let _ = write!(
            xml,
            "<Contents><Key>{key}</Key><Size>{}</Size><ETag>&quot;{}&quot;</ETag><LastModified>2026-09-01T10:00:00.000Z</LastModified></Contents>",
            bytes.len(),
            tag(bytes).trim_matches('"')
        );
    }
    if let (true, Some((last, _))) = (found.len() > 2, found.get(1)) {
        let _ = write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    Said::new(200, xml + "</ListBucketResult>")
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&Md5::digest(bytes)))
}
