//! Just enough of an HTTP server to do what real ones do only on a bad day: each connection answers one request, and may be
//! cut at any byte of the body.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request, as far as anybody looks.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query, as sent.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The first byte that `Range: bytes=N-` asks for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| unescaped(value))
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// After how many bytes of the body the connection breaks.
    pub(crate) cut: Option<usize>,
}

impl Said {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// All of `content`, or what a range asks for if the condition on it holds.
pub(crate) fn content(asked: &Asked, content: &[u8], tag: &str) -> Said {
    let holds = asked.header("if-range").is_none_or(|wanted| wanted == tag);
    let (status, from) = match asked.from() {
        Some(from) if holds => (206, from),
        _ => (200, 0),
    };
    let size = content.len();
    if from >= size && status == 206 {
        return Said::new(416, "").with("content-range", format!("bytes */{size}"));
    }
    let said = Said::new(status, &content[from..]).with("etag", tag);
    match status {
        206 => said.with("content-range", format!("bytes {from}-{}/{size}", size - 1)),
        _ => said,
    }
}

/// Answers on a port of its own, until it is aborted; then nobody listens there.
pub(crate) async fn serve(
    answer: impl Fn(&Asked) -> Said + Send + Sync + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    let listening = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move { converse(stream, answer.as_ref()).await });
        }
    });
    (address, listening)
}

async fn converse(mut stream: TcpStream, answer: &(impl Fn(&Asked) -> Said + Sync)) {
    let Some(asked) = read(&mut stream).await else { return };
    let said = answer(&asked);
    let mut head = format!("HTTP/1.1 {} Said\r\nconnection: close\r\n", said.status);
    for (name, value) in &said.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "content-length: {}\r\n\r\n", said.body.len());
    let sent = said.cut.unwrap_or(said.body.len()).min(said.body.len());
    let body: &[u8] = if asked.method == "HEAD" { b"" } else { &said.body[..sent] };
    // Whoever asked may have left.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(text).ok()?;
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    Some(Asked {
        method: first.next()?.to_owned(),
        target: first.next()?.to_owned(),
        headers: headers.collect(),
    })
}

pub(crate) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| std::str::from_utf8(more.get(..2)?).ok()).flatten();
        let value = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(value.unwrap_or(byte));
        rest = if value.is_some() { &more[2..] } else { more };
    }
    String::from_utf8(bytes).unwrap()
}
