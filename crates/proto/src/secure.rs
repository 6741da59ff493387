//! TLS under the worker link: how connections are made, and how they are accepted.
//!
//! A handshake is bounded in time, and there are only so many at once: whoever connects and says nothing
//! costs a place for some seconds, and nobody else waits for it.
//!
//! Invariant: knows nothing of the worker contract.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Uri;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::credentials::{ClientCredentials, HTTP2, ServerCredentials};

/// Connects to the host of `address`, which shows a certificate for `name`.
pub(crate) async fn connect(
    address: Uri,
    credentials: Arc<ClientCredentials>,
    name: ServerName<'static>,
) -> io::Result<client::TlsStream<TcpStream>> {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = address.port_u16().unwrap_or(DEFAULT_PORT);
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let connector = TlsConnector::from(credentials.now().await);
    let stream = connector.connect(name, tcp).await.map_err(|error| {
        io::Error::new(error.kind(), format!("agree on TLS with {host}:{port}: {error}"))
    })?;
    if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
        return Err(io::Error::other(format!("{host}:{port} does not speak HTTP/2 over TLS")));
    }
    Ok(stream)
}

/// Connections of `listener` that agreed on TLS. Those that do not are logged, and concern nobody.
pub(crate) fn accept(
    listener: TcpListener,
    credentials: Arc<ServerCredentials>,
) -> impl Stream<Item = io::Result<Secured>> {
    TcpListenerStream::new(listener)
        .map(move |accepted| {
            let credentials = Arc::clone(&credentials);
            async move {
                match accepted {
                    Ok(tcp) => secure(tcp, &credentials).await.map(Ok),
                    Err(error) => Some(Err(error)),
                }
            }
        })
        .buffer_unordered(MAX_HANDSHAKES)
        .filter_map(std::future::ready)
}

async fn secure(tcp: TcpStream, credentials: &ServerCredentials) -> Option<Secured> {
    let peer = tcp.peer_addr().ok();
    let handshake = async {
        tcp.set_nodelay(true)?;
        let acceptor = TlsAcceptor::from(credentials.now().await);
        match acceptor.accept(tcp).into_fallible().await {
            Ok(stream) => Ok(Secured(stream)),
            Err((error, tcp)) => {
                part(tcp).await;
                Err(error)
            }
        }
    };
    match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            refuse(peer, &error);
            None
        }
        Err(_) => {
            refuse(peer, &io::Error::from(io::ErrorKind::TimedOut));
            None
        }
    }
}

/// Lets the other side read why it is refused. Closed with something unread, a connection is reset, and then
/// the other side learns nothing.
async fn part(mut tcp: TcpStream) {
    let _ = tcp.shutdown().await;
    let mut rest = tcp.take(MAX_UNREAD);
    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
}

fn refuse(peer: Option<SocketAddr>, error: &io::Error) {
    if error.kind() == io::ErrorKind::InvalidData {
        tracing::warn!(peer = ?peer, error = %error, "connection refused: no agreement on TLS");
    } else {
        // A probe of the port, say.
        tracing::debug!(peer = ?peer, error = %error, "connection ended before TLS was agreed on");
    }
}

/// An accepted connection.
pub(crate) struct Secured(server::TlsStream<TcpStream>);

impl Connected for Secured {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.get_ref().0.connect_info()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

const DEFAULT_PORT: u16 = 443;
/// Handshakes at a time; more connections wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 256;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// What a refused one may still say: the beginning of HTTP/2 and some requests.
const MAX_UNREAD: u64 = 64 << 10;
