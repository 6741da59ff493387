//! HTTP/1.1 by hand, for requests that no client library would send.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection to `http://host:port`.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A reply with a length.
#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Connection {
    pub(crate) async fn open(endpoint: &str) -> anyhow::Result<Self> {
        let address = endpoint.trim_start_matches("http://");
        let stream = TcpStream::connect(address).await.context("connect")?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Sends bytes. A peer that has heard enough may close the connection meanwhile: see what it says.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = tokio::time::timeout(LIMIT, self.stream.write_all(bytes)).await;
    }

    /// Tells the peer that nothing more comes, and goes on listening.
    pub(crate) async fn end_sending(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next reply.
    pub(crate) async fn reply(&mut self) -> anyhow::Result<RawReply> {
        let head = self.until(b"\r\n\r\n").await.context("read the head of a reply")?;
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("find a status in {head:?}"))?;
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let length = length.with_context(|| format!("find a length in {head:?}"))?;
        while self.unread.len() < length {
            ensure!(self.read().await? > 0, "the body ended early");
        }
        let body: Vec<u8> = self.unread.drain(..length).collect();
        Ok(RawReply { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// Waits until the peer closes the connection.
    pub(crate) async fn closed(&mut self) -> anyhow::Result<()> {
        while self.read().await? > 0 {}
        Ok(())
    }

    async fn until(&mut self, end: &[u8]) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return Ok(self.unread.drain(..at + end.len()).collect());
            }
            ensure!(self.read().await? > 0, "the connection ended early");
        }
    }

    async fn read(&mut self) -> anyhow::Result<usize> {
        let reading = self.stream.read_buf(&mut self.unread);
        let read = tokio::time::timeout(LIMIT, reading).await.context("nothing comes")?;
        // A connection that is reset has ended too.
        Ok(read.unwrap_or(0))
    }
}

impl RawReply {
    pub(crate) fn error(&self) -> Value {
        let mut body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"].take()
    }
}

/// A whole `POST /v1/chat/completions`, with `more` lines of headers.
pub(crate) fn chat(key: &str, body: &str, more: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: tollgate\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n{body}"
    )
    .into_bytes()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

const LIMIT: Duration = Duration::from_secs(30);
