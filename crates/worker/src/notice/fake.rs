//! Metadata services in this process, over pipes in memory: with the clock stopped, time passes only while
//! both sides wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::metadata::Metadata;

/// A service that answers what it is told to.
pub(crate) struct Fake {
    accept: mpsc::Sender<DuplexStream>,
    asked: Counts,
    _serving: AbortOnDropHandle<()>,
}

/// How often each path was asked for, without what follows it.
type Counts = Arc<Mutex<BTreeMap<String, usize>>>;

/// What was asked.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With what follows it.
    pub(crate) path: String,
    pub(crate) body: String,
    headers: axum::http::HeaderMap,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }
}

impl Fake {
    /// A service whose answers are status and body.
    pub(crate) fn start(answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::serve(Router::new().fallback(move |request: Request| {
            let answer = Arc::clone(&answer);
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                let asked = Asked {
                    method: head.method.to_string(),
                    path: head.uri.path_and_query().unwrap().to_string(),
                    body: String::from_utf8(body.to_vec()).unwrap(),
                    headers: head.headers,
                };
                let (status, body) = answer(&asked);
                (StatusCode::from_u16(status).unwrap(), body)
            }
        }))
    }

    /// A service that never answers.
    pub(crate) fn hanging() -> Self {
        Self::serve(Router::new().fallback(std::future::pending::<()>))
    }

    pub(crate) fn serve(router: Router) -> Self {
        let (accept, pipes) = mpsc::channel(1);
        let asked = Counts::default();
        let router = router.layer(middleware::from_fn_with_state(Arc::clone(&asked), count));
        let serving = async move { axum::serve(Pipes(pipes), router).await.unwrap() };
        Self { accept, asked, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    pub(crate) fn metadata(&self) -> Metadata {
        Metadata::in_memory(self.accept.clone())
    }

    /// How often `path` was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

async fn count(State(asked): State<Counts>, request: Request, next: Next) -> Response {
    *asked.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
    next.run(request).await
}

/// Far ends of pipes.
struct Pipes(mpsc::Receiver<DuplexStream>);

impl axum::serve::Listener for Pipes {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.0.recv().await {
            Some(pipe) => (pipe, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(())
    }
}
