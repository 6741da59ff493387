//! Asks a metadata service: HTTP/1.1, a connection for each question, straight to its address.
//!
//! On `hyper` itself, which is in every build already. A client for the whole web would follow redirects,
//! keep connections and heed the environment's proxies, none of which a metadata service wants.

use std::time::Duration;

use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(test)]
use tokio::sync::mpsc;

/// A metadata service.
pub(crate) struct Metadata {
    host: String,
    way: Way,
}

/// How it is reached.
enum Way {
    Network {
        host: String,
        port: u16,
    },
    /// Through pipes in memory, whose far ends go to a service in this process.
    #[cfg(test)]
    Pipes(mpsc::Sender<tokio::io::DuplexStream>),
}

/// What it answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// The address of a metadata service cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not the address of a metadata service; write it as http://host or http://host:port"
)]
pub struct AddressError(String);

/// A metadata service did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("it cannot be reached: {0}")]
    Connect(#[from] std::io::Error),
    #[error("it does not speak HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("its answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("it did not answer within {0:?}")]
    TooLate(Duration),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("what it answered cannot be understood: {0}")]
    Meaning(String),
}

impl Metadata {
    /// The service at `address`: `http://host`, or `http://host:port`.
    pub(crate) fn at(address: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some("http") || uri.path() != "/" || uri.query().is_some() {
            return Err(wrong());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let way = Way::Network { host, port: authority.port_u16().unwrap_or(HTTP) };
        Ok(Self { host: authority.to_string(), way })
    }

    /// A service in this process.
    #[cfg(test)]
    pub(crate) fn in_memory(accept: mpsc::Sender<tokio::io::DuplexStream>) -> Self {
        Self { host: "metadata".to_owned(), way: Way::Pipes(accept) }
    }

    /// Asks, and waits for the whole answer up to `limit`.
    pub(crate) async fn ask(
        &self,
        request: http::request::Builder,
        body: String,
        limit: Duration,
    ) -> Result<Answer, AskError> {
        let request = request
            .header(header::HOST, &self.host)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| AskError::Meaning(error.to_string()))?;
        let asked = tokio::time::timeout(limit, self.exchange(request)).await;
        asked.map_err(|_| AskError::TooLate(limit))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, AskError> {
        match &self.way {
            Way::Network { host, port } => {
                over(TcpStream::connect((host.as_str(), *port)).await?, request).await
            }
            #[cfg(test)]
            Way::Pipes(accept) => {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                accept
                    .send(far)
                    .await
                    .map_err(|_| std::io::ErrorKind::ConnectionRefused.into())
                    .map_err(AskError::Connect)?;
                over(near, request).await
            }
        }
    }
}

/// One question over one connection, which ends with it.
async fn over<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| {
            let too_long = error.is::<LengthLimitError>();
            AskError::Body(if too_long { "it is too long".into() } else { error })
        })?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::pin!(exchange, connection);
    let mut ended = false;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            // Why it ended, the exchange is told.
            _ = &mut connection, if !ended => ended = true,
        }
    }
}

impl Answer {
    /// The body of a success; another status is an error.
    pub(crate) fn success(self) -> Result<Self, AskError> {
        if self.status.is_success() { Ok(self) } else { Err(AskError::Status(self.status)) }
    }

    /// A header, if it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

const HTTP: u16 = 80;
const MAX_BODY_BYTES: usize = 256 << 10;
#[cfg(test)]
const PIPE_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_perhaps_a_port() {
        for right in ["http://169.254.169.254", "http://127.0.0.1:80/", "http://[fd00:ec2::254]"] {
            assert!(Metadata::at(right).is_ok(), "{right}");
        }
        for wrong in ["169.254.169.254", "https://example.com", "http://example.com/latest", ""] {
            assert!(Metadata::at(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_service_that_is_not_there_is_an_error() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);

        let metadata = Metadata::at(&address).unwrap();
        let asked = metadata.ask(Request::get("/"), String::new(), Duration::from_secs(20)).await;

        assert!(matches!(asked, Err(AskError::Connect(_))));
    }
}
