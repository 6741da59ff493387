//! Where clients come in: connections, the requests on them, and how they end when the gateway leaves.
//!
//! Promises: nobody who was let in is cut off for being there. After the stop, a connection is answered once more and
//! told to close, or closed when it has been idle for a second, so that a client's next request finds another
//! connection, and whoever answers there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domain::RequestId;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::reply::Reply;

/// The Pingora application: connections in, connections out.
pub(crate) struct Door {
    app: Arc<App>,
    connections: Connections,
}

/// How many connections are open.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<AtomicUsize>);

/// The requests on a connection: bytes in, bytes out.
pub(crate) struct App {
    gateway: Arc<Gateway>,
    options: HttpServerOptions,
}

impl Door {
    pub(crate) fn new(app: App, connections: Connections) -> Self {
        Self { app: Arc::new(app), connections }
    }
}

impl App {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        Self { gateway, options }
    }
}

impl Connections {
    pub(crate) fn open(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn count(&self) -> Connected {
        self.0.fetch_add(1, Ordering::SeqCst);
        Connected(Arc::clone(&self.0))
    }
}

/// A connection that is open. Dropping it counts it out.
struct Connected(Arc<AtomicUsize>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let _connected = self.connections.count();
        self.app.process_new(stream, shutdown).await
    }
}

#[async_trait]
impl HttpServerApp for App {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let request = RequestId::generate();
        let read = tokio::select! {
            biased;
            read = session.read_request() => read,
            () = forsaken(shutdown.clone()) => return None,
        };
        match read {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                let failure = unreadable(&error.to_string());
                Reply::refuse(session, request, &failure).await;
                return None;
            }
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        let mut reply = Reply::new(session, request);
        self.gateway.serve(&mut reply).await;
        reply.finish().await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Resolves after the stop, when a connection that is idle since now has been so for long.
async fn forsaken(mut shutdown: ShutdownWatch) {
    let idle_since = Instant::now();
    // The gateway tells the stop before it goes, so an error is one too.
    let _ = shutdown.wait_for(|stopped| *stopped).await;
    tokio::time::sleep_until(idle_since + LONGEST_IDLE).await;
}

/// What is wrong with a head that Pingora could not read.
fn unreadable(error: &str) -> Failure {
    if error.contains("larger than") || error.contains("too many headers") {
        return Failure::of(domain::ErrorKind::HeadTooLarge, "the request's headers are too large");
    }
    Failure::of(domain::ErrorKind::InvalidRequest, "the request is not valid HTTP")
}

/// How long a connection may lie idle once the gateway leaves.
const LONGEST_IDLE: Duration = Duration::from_secs(1);
