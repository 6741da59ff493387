//! Somebody else's HTTP server: what it is asked is kept, and what it answers is the test's business.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running server on loopback. Gone when dropped.
#[derive(Debug)]
pub struct Outsider {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The request line and the headers.
    pub head: Vec<String>,
    /// The body.
    pub body: String,
}

impl Outsider {
    /// Starts one that answers the request with this number, from zero on, as `answer` says: status and JSON.
    pub async fn start(
        answer: impl Fn(usize) -> (u16, String) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
        let address = listener.local_addr().context("listen")?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let serving = tokio::spawn({
            let asked = Arc::clone(&asked);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    // Who breaks off in the middle has asked nothing.
                    let _ = serve(stream, &asked, &answer).await;
                }
            }
        });
        Ok(Self { address, asked, serving })
    }

    /// The address of `path` on it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Asked {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// One request on a connection, which is closed then.
async fn serve(
    stream: TcpStream,
    asked: &Mutex<Vec<Asked>>,
    answer: &(impl Fn(usize) -> (u16, String) + Sync),
) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = Asked::default();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim().is_empty() {
            break;
        }
        request.head.push(line.trim().to_owned());
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    let number = {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(request);
        asked.len() - 1
    };
    let (status, body) = answer(number);
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}
