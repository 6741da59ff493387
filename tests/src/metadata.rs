//! The metadata service of an AWS machine, as its programs see it (IMDSv2): a token first, then documents,
//! and 404 for what does not apply.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running metadata service on loopback. Gone when dropped.
#[derive(Debug)]
pub struct Metadata {
    address: SocketAddr,
    action: Arc<Mutex<Option<String>>>,
    serving: JoinHandle<()>,
}

impl Metadata {
    /// Starts one for a machine that may stay.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr().context("listen")?;
        let action = Arc::new(Mutex::new(None));
        let serving = tokio::spawn({
            let action = Arc::clone(&action);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // Who breaks off in the middle has asked nothing.
                    let _ = serve(stream, &action).await;
                }
            }
        });
        Ok(Self { address, action, serving })
    }

    /// What a worker's configuration names as the service's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on the machine is to be terminated at `time` (RFC 3339).
    pub fn terminate_at(&self, time: &str) {
        let document = format!(r#"{{"action":"terminate","time":"{time}"}}"#);
        *self.action.lock().unwrap_or_else(PoisonError::into_inner) = Some(document);
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One request on a connection, which is closed then.
async fn serve(stream: TcpStream, action: &Mutex<Option<String>>) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    let action = action.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (status, body) = answer(&head, action);
    let length = body.len();
    let reply = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

fn answer(head: &[String], action: Option<String>) -> (u16, String) {
    let asks = |what: &str| head.first().is_some_and(|line| line.starts_with(what));
    let shows = |header: &str| head.iter().any(|line| line.starts_with(header));
    if asks("put /latest/api/token ") {
        let complete = shows("x-aws-ec2-metadata-token-ttl-seconds: ");
        return if complete { (200, TOKEN.to_owned()) } else { (400, String::new()) };
    }
    if !shows(&format!("x-aws-ec2-metadata-token: {TOKEN}")) {
        return (401, String::new());
    }
    match action {
        Some(action) if asks("get /latest/meta-data/spot/instance-action ") => (200, action),
        _ => (404, String::new()),
    }
}

const TOKEN: &str = "a-token-of-this-machine";
