//! Puts any [`Worker`] on the network.
//!
//! Next to the worker's own service it serves the standard gRPC health service, which needs no
//! token and answers from the network threads, so it answers while a long step runs. When the
//! caller goes away the sequence's [`Generation`] is dropped with the call, which cancels it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use domain::{ModelDigest, ModelName, Rent, Secret};
use futures_util::{Stream, StreamExt, stream};
use subtle::ConstantTimeEq;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

use crate::client::{CONNECTION_WINDOW_BYTES, END_LIMIT, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES};
use crate::contract::{Control, Event, Generation, Start, Worker};
use crate::convert::finish_reason;
use crate::credentials::ServerCredentials;
use crate::{secure, wire};

/// The gRPC server of the worker contract.
pub struct WorkerServer {
    worker: Arc<dyn Worker>,
    token: Option<Secret<String>>,
    credentials: Option<Arc<ServerCredentials>>,
}

/// The server stopped by an error of the network.
#[derive(Debug, thiserror::Error)]
#[error("serve workers on {address}")]
pub struct ServeError {
    address: SocketAddr,
    #[source]
    source: tonic::transport::Error,
}

impl WorkerServer {
    /// Serves `worker` to callers who show `token`; to everybody if there is none.
    pub fn new(worker: Arc<dyn Worker>, token: Option<Secret<String>>) -> Self {
        Self { worker, token, credentials: None }
    }

    /// The same, over TLS and nothing else.
    #[must_use]
    pub fn secured(self, credentials: Arc<ServerCredentials>) -> Self {
        Self { credentials: Some(credentials), ..self }
    }

    /// Serves connections of `listener` until `stop` resolves, then lets running calls end.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let credentials = self.credentials.clone();
        let router = self.router().await;
        let served = if let Some(credentials) = credentials {
            let incoming = secure::accept(listener, credentials);
            router.serve_with_incoming_shutdown(incoming, stop).await
        } else {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, stop).await
        };
        served.map_err(|source| ServeError { address, source })
    }

    /// Serves the far ends of pipes made by [`crate::GrpcWorker::in_memory`] until the near side
    /// is dropped.
    pub async fn serve_in_memory(self, accept: mpsc::Receiver<DuplexStream>) {
        let incoming = ReceiverStream::new(accept).map(Ok::<_, std::io::Error>);
        // Pipes cannot fail to be accepted; a broken one ends its own connection only.
        let _ = self.router().await.serve_with_incoming(incoming).await;
    }

    async fn router(self) -> Router {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<wire::worker_server::WorkerServer<Service>>().await;
        let service = wire::worker_server::WorkerServer::new(Service { worker: self.worker })
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let token = self.token;
        let guard = move |request| check_token(token.as_ref(), request);
        Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(MAX_CALLS)
            .add_service(health)
            .add_service(tonic::service::interceptor::InterceptedService::new(service, guard))
    }
}

fn check_token(
    expected: Option<&Secret<String>>,
    request: Request<()>,
) -> Result<Request<()>, Status> {
    let Some(expected) = expected else { return Ok(request) };
    let shown = request.metadata().get("authorization").map_or(&[][..], |value| value.as_bytes());
    let expected = format!("Bearer {}", expected.expose());
    if bool::from(shown.ct_eq(expected.as_bytes())) {
        return Ok(request);
    }
    Err(Status::unauthenticated("the worker token is missing or wrong"))
}

/// The generated service trait, on top of the domain's.
struct Service {
    worker: Arc<dyn Worker>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl wire::worker_server::Worker for Service {
    type GenerateStream = Responses<wire::GenerateResponse>;
    type WatchStream = Responses<wire::WorkerState>;
    type PrefixesStream = Responses<wire::PrefixChange>;
    type BlocksStream = Responses<wire::BlocksResponse>;
    type LoadStream = Responses<wire::LoadResponse>;

    async fn generate(
        &self,
        request: Request<Streaming<wire::GenerateRequest>>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let mut requests = request.into_inner();
        let start = Start::try_from(first(&mut requests).await?)?;
        let generation = self.worker.generate(start).await?;
        let control = generation.control();
        let call = Call { generation, control, requests: Some(requests), over: false };
        let responses = stream::unfold(call, |mut call| async move {
            let event = if call.over { None } else { call.next().await };
            let Some(event) = event else {
                call.end().await;
                return None;
            };
            call.over = !matches!(event, Event::Tokens { .. });
            Some((Ok(event.into()), call))
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn embed(
        &self,
        request: Request<wire::EmbedRequest>,
    ) -> Result<Response<wire::EmbedResponse>, Status> {
        let embedded = self.worker.embed(request.into_inner().try_into()?).await?;
        Ok(Response::new(embedded.into()))
    }

    async fn watch(
        &self,
        _: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let states = self.worker.watch().await?;
        Ok(Response::new(states.map(|state| Ok(state.into())).boxed()))
    }

    async fn drain(
        &self,
        request: Request<wire::DrainRequest>,
    ) -> Result<Response<wire::DrainResponse>, Status> {
        let leaves_in = request.into_inner().leaves_in_millis.map(Duration::from_millis);
        self.worker.drain(leaves_in).await?;
        Ok(Response::new(wire::DrainResponse {}))
    }

    async fn set_price(
        &self,
        request: Request<wire::SetPriceRequest>,
    ) -> Result<Response<wire::SetPriceResponse>, Status> {
        self.worker.set_price(Rent::try_from(request.into_inner())?).await?;
        Ok(Response::new(wire::SetPriceResponse {}))
    }

    async fn model_files(
        &self,
        request: Request<wire::ModelFilesRequest>,
    ) -> Result<Response<wire::ModelFilesResponse>, Status> {
        let digest = ModelDigest::new(request.into_inner().digest);
        Ok(Response::new(self.worker.model_files(&digest).await?.into()))
    }

    async fn prefixes(
        &self,
        _: Request<wire::PrefixesRequest>,
    ) -> Result<Response<Self::PrefixesStream>, Status> {
        let changes = self.worker.prefixes().await?;
        Ok(Response::new(changes.map(|change| Ok(change.into())).boxed()))
    }

    async fn blocks(
        &self,
        request: Request<wire::BlocksRequest>,
    ) -> Result<Response<Self::BlocksStream>, Status> {
        let blocks = self.worker.blocks(request.into_inner().try_into()?).await?;
        let told = blocks.map(|block| block.map(Into::into).map_err(Status::from));
        Ok(Response::new(told.boxed()))
    }

    async fn fetch(
        &self,
        request: Request<wire::FetchRequest>,
    ) -> Result<Response<wire::FetchResponse>, Status> {
        let fetched = self.worker.fetch(request.into_inner().try_into()?).await?;
        Ok(Response::new(fetched.into()))
    }

    async fn load(
        &self,
        request: Request<wire::LoadRequest>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        let loading = self.worker.load(request.into_inner().try_into()?).await?;
        let told = loading.map(|told| told.map(Into::into).map_err(Status::from));
        Ok(Response::new(told.boxed()))
    }

    async fn unload(
        &self,
        request: Request<wire::UnloadRequest>,
    ) -> Result<Response<wire::UnloadResponse>, Status> {
        let wire::UnloadRequest { name, within_millis } = request.into_inner();
        let within = within_millis.map(Duration::from_millis);
        let running = self.worker.unload(&ModelName::new(name), within).await?;
        Ok(Response::new(wire::UnloadResponse { running }))
    }
}

async fn first(requests: &mut Streaming<wire::GenerateRequest>) -> Result<wire::Start, Status> {
    match requests.message().await?.and_then(|request| request.kind) {
        Some(wire::generate_request::Kind::Start(start)) => Ok(start),
        _ => Err(Status::invalid_argument("the first request must be `start`")),
    }
}

/// One running call: events out, wishes in.
struct Call {
    generation: Generation,
    control: Control,
    /// `None` once the caller has said all it will say; the sequence still runs to its end.
    requests: Option<Streaming<wire::GenerateRequest>>,
    /// The last event was told.
    over: bool,
}

impl Call {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let Some(requests) = &mut self.requests else { return self.generation.next().await };
            tokio::select! {
                event = self.generation.next() => return event,
                request = requests.message() => match request {
                    Ok(Some(request)) => apply(&self.control, &request),
                    Ok(None) | Err(_) => self.requests = None,
                },
            }
        }
    }

    /// Waits until the caller, who has the last event by now, has said that it says no more.
    ///
    /// A call that ends before that is reset, which HTTP/2 bears only so often; see the caller's side. And the
    /// caller may waive what has ended by itself meanwhile.
    async fn end(&mut self) {
        let Self { generation, control, requests: Some(requests), .. } = self else { return };
        let said_all = async {
            while let Ok(Some(request)) = requests.message().await {
                apply(control, &request);
            }
            // Nothing follows, but wishes are heard by reading.
            generation.next().await
        };
        // A caller that does not say so loses the connection sooner or later, and nothing else.
        let _ = tokio::time::timeout(END_LIMIT, said_all).await;
    }
}

fn apply(control: &Control, request: &wire::GenerateRequest) {
    use wire::generate_request::Kind;
    match &request.kind {
        Some(Kind::Extend(extend)) => control.extend(extend.allowance),
        Some(Kind::Stop(stop)) => {
            let reason = finish_reason(stop.reason).unwrap_or(domain::FinishReason::Cancelled);
            match stop.kept {
                Some(kept) => control.stop_after(reason, kept),
                None => control.stop(reason),
            }
        }
        Some(Kind::Waive(wire::Waive {})) => control.waive(),
        // A second start, or something newer than we are, changes nothing.
        Some(Kind::Start(_)) | None => {}
    }
}

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Calls of one connection. More wait at the other side, where no queue counts them: so there are more than a
/// worker accepts.
const MAX_CALLS: u32 = 4_096;
