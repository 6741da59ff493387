//! A worker somewhere else, reached over gRPC.
//!
//! A [`GrpcWorker`] connects when it is first used and again whenever a connection is lost; its sequences
//! share a few HTTP/2 connections (see `pool.rs`). A call that breaks
//! yields [`WorkerError::Unreachable`] as its last event, so a reader is never left waiting.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::{LoadOrder, ModelDigest, ModelFiles, ModelName, Rent, Secret};
use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::contract::{
    BlockStream, BlocksWanted, EmbedOrder, Embedded, Event, FetchOrder, Fetched, Generation,
    PrefixStream, Start, StateStream, Wishes, Worker, WorkerError, WorkerState,
};
use crate::convert::millis;
use crate::credentials::{ClientCredentials, CredentialsError};
use crate::loading::LoadStream;
use crate::pool::{CONNECTIONS, Pool, Using};
use crate::{secure, wire};

type Client = wire::worker_client::WorkerClient<InterceptedService<Channel, Bearer>>;

/// The gRPC client of the worker contract.
#[derive(Clone)]
pub struct GrpcWorker {
    pool: Pool<Client>,
}

/// The address of a worker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It is not an address.
    #[error("`{address}` is not a worker address; write it as http://host:port")]
    Address {
        /// What was given.
        address: String,
        /// Why it is none.
        #[source]
        source: tonic::transport::Error,
    },
    /// The token cannot be sent.
    #[error("the worker token must be visible ASCII")]
    Token,
    /// It asks for TLS, and there are no credentials for that.
    #[error(
        "`{address}` is reached over TLS; say which authorities to trust, or write it as http://host:port"
    )]
    NoCredentials {
        /// What was given.
        address: String,
    },
    /// There are credentials, and it does not ask for TLS.
    #[error("`{address}` would be reached without TLS; write it as https://host:port")]
    Plaintext {
        /// What was given.
        address: String,
    },
    /// Credentials cannot be used.
    #[error("use credentials of the worker link")]
    Credentials(#[from] CredentialsError),
}

impl GrpcWorker {
    /// A worker at `address` (`http://host:port`), shown `token` if there is one; without TLS.
    pub fn new(address: &str, token: Option<&Secret<String>>) -> Result<Self, ConnectError> {
        let (endpoint, bearer) = (endpoint(address)?, Bearer::new(token)?);
        if is_secure(&endpoint) {
            return Err(ConnectError::NoCredentials { address: address.to_owned() });
        }
        Ok(Self::over((0..CONNECTIONS).map(|_| endpoint.connect_lazy()), &bearer))
    }

    /// A worker at an address that somebody wrote down: over TLS if it says `https` and there are `credentials`.
    pub fn reached(
        address: &str,
        token: Option<&Secret<String>>,
        credentials: Option<&Arc<ClientCredentials>>,
    ) -> Result<Self, ConnectError> {
        match credentials {
            Some(credentials) if address.starts_with("https://") => {
                Self::secured(address, token, credentials)
            }
            _ => Self::new(address, token),
        }
    }

    /// A worker at `address` (`https://host:port`), which is believed if `credentials` say so, and shown what is
    /// in them; and `token` if there is one. What is wrong with a certificate shows when it is first used.
    pub fn secured(
        address: &str,
        token: Option<&Secret<String>>,
        credentials: &Arc<ClientCredentials>,
    ) -> Result<Self, ConnectError> {
        let (endpoint, bearer) = (endpoint(address)?, Bearer::new(token)?);
        if !is_secure(&endpoint) {
            return Err(ConnectError::Plaintext { address: address.to_owned() });
        }
        let name = credentials.name_of(endpoint.uri().host().unwrap_or_default())?;
        let connection = |_| {
            let (credentials, name) = (Arc::clone(credentials), name.clone());
            let connect = tower::service_fn(move |address| {
                let connecting = secure::connect(address, Arc::clone(&credentials), name.clone());
                async { connecting.await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector_lazy(connect)
        };
        Ok(Self::over((0..CONNECTIONS).map(connection), &bearer))
    }

    /// A worker in this process, reached through pipes in memory: each connection's other end is
    /// handed to `accept` (see [`crate::WorkerServer::serve_in_memory`]).
    pub fn in_memory(accept: mpsc::Sender<DuplexStream>) -> Self {
        let connect = tower::service_fn(move |_| {
            let accept = accept.clone();
            async move {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                accept.send(far).await.map_err(|_| std::io::ErrorKind::ConnectionRefused)?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        let endpoint = tuned(Endpoint::from_static("http://in-memory"));
        // No packet of a pipe is lost, and nothing is encrypted: one is enough.
        Self::over([endpoint.connect_with_connector_lazy(connect)], &Bearer(None))
    }

    fn over(channels: impl IntoIterator<Item = Channel>, bearer: &Bearer) -> Self {
        let client = |channel| {
            wire::worker_client::WorkerClient::with_interceptor(channel, bearer.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
        };
        Self { pool: Pool::new(channels.into_iter().map(client)) }
    }
}

#[async_trait]
impl Worker for GrpcWorker {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let allowance = start.allowance;
        let (call, outgoing) = mpsc::channel(WISHES_IN_FLIGHT);
        let first = wire::generate_request::Kind::Start(start.into());
        let requests = stream::once(async move { wire::GenerateRequest { kind: Some(first) } })
            .chain(tokio_stream::wrappers::ReceiverStream::new(outgoing));
        let (mut client, using) = self.pool.least_used();
        let responses = client.generate(requests).await?.into_inner();
        Ok(Generation::new(allowance, |wishes| events(responses, wishes, call, using)))
    }

    async fn embed(&self, order: EmbedOrder) -> Result<Embedded, WorkerError> {
        let request = wire::EmbedRequest::from(order);
        let (mut client, _using) = self.pool.least_used();
        client.embed(request).await?.into_inner().try_into()
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        let (mut client, using) = self.pool.least_used();
        let states = client.watch(wire::WatchRequest {}).await?.into_inner();
        let known = states.map(|state| WorkerState::try_from(state?)).map(|state| {
            state.inspect_err(|error| tracing::debug!(error = %error, "worker's state ended"))
        });
        let known = known.take_while(|state| std::future::ready(state.is_ok()));
        let known = known.filter_map(|state| std::future::ready(state.ok()));
        Ok(carried(known, using).boxed())
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        let leaves_in_millis = leaves_in.map(millis);
        let (mut client, _using) = self.pool.least_used();
        client.drain(wire::DrainRequest { leaves_in_millis }).await?;
        Ok(())
    }

    async fn set_price(&self, rent: Rent) -> Result<(), WorkerError> {
        let (mut client, _using) = self.pool.least_used();
        client.set_price(wire::SetPriceRequest::from(rent)).await?;
        Ok(())
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        let request = wire::ModelFilesRequest { digest: model.as_str().to_owned() };
        let (mut client, _using) = self.pool.least_used();
        Ok(client.model_files(request).await?.into_inner().into())
    }

    async fn prefixes(&self) -> Result<PrefixStream, WorkerError> {
        let (mut client, using) = self.pool.least_used();
        let changes = client.prefixes(wire::PrefixesRequest {}).await?.into_inner();
        let known = changes.take_while(|change| std::future::ready(change.is_ok()));
        let known = known.filter_map(|change| std::future::ready(change.ok().map(Into::into)));
        Ok(carried(known, using).boxed())
    }

    async fn blocks(&self, wanted: BlocksWanted) -> Result<BlockStream, WorkerError> {
        let request = wire::BlocksRequest::from(wanted);
        let (mut client, using) = self.pool.least_used();
        let blocks = client.blocks(request).await?.into_inner();
        let blocks = blocks.map(|block| block.map_err(WorkerError::from)?.try_into());
        Ok(carried(blocks, using).boxed())
    }

    async fn fetch(&self, order: FetchOrder) -> Result<Fetched, WorkerError> {
        let request = wire::FetchRequest::from(order);
        let (mut client, _using) = self.pool.least_used();
        Ok(client.fetch(request).await?.into_inner().into())
    }

    async fn load(&self, order: LoadOrder) -> Result<LoadStream, WorkerError> {
        let request = wire::LoadRequest::from(order);
        let (mut client, using) = self.pool.least_used();
        let loading = client.load(request).await?.into_inner();
        let loading = loading.map(|told| told.map_err(WorkerError::from)?.try_into());
        Ok(carried(loading, using).boxed())
    }

    async fn unload(&self, name: &ModelName, within: Option<Duration>) -> Result<u32, WorkerError> {
        let within_millis = within.map(millis);
        let request = wire::UnloadRequest { name: name.as_str().to_owned(), within_millis };
        let (mut client, _using) = self.pool.least_used();
        Ok(client.unload(request).await?.into_inner().running)
    }
}

/// A stream that counts as a call of its connection until it is dropped.
fn carried<T>(stream: impl Stream<Item = T> + Send, using: Using) -> impl Stream<Item = T> + Send {
    stream.map(move |item| {
        // Taken along, so that it ends with the stream.
        let _ = &using;
        item
    })
}

/// One call, as a stream of events that passes wishes on while it waits.
struct Call {
    wishes: Wishes,
    requests: Option<mpsc::Sender<wire::GenerateRequest>>,
    /// `None` after the last event.
    responses: Option<Streaming<wire::GenerateResponse>>,
    /// It ended otherwise than wished; whoever reads it lets go of it at once, and may waive it before.
    broken: bool,
    _using: Using,
}

fn events(
    responses: Streaming<wire::GenerateResponse>,
    wishes: Wishes,
    requests: mpsc::Sender<wire::GenerateRequest>,
    using: Using,
) -> impl Stream<Item = Event> + Send {
    let (requests, responses) = (Some(requests), Some(responses));
    let call = Call { wishes, requests, responses, broken: false, _using: using };
    stream::unfold(call, |mut call| async move {
        let event = call.next().await?;
        Some((event, call))
    })
}

impl Call {
    /// The next event. Exactly one last event ends the call, whatever the connection does.
    async fn next(&mut self) -> Option<Event> {
        if self.broken {
            if self.wishes.are_to_waive() {
                pass_on(Some((0, None)), &self.wishes, &mut self.requests).await;
            }
            self.end();
            return None;
        }
        let event = self.receive().await?;
        match event {
            Event::Tokens { .. } => {}
            Event::Finished { .. } => self.end(),
            Event::HandedOver { .. } | Event::Failed { .. } => self.broken = true,
        }
        Some(event)
    }

    async fn receive(&mut self) -> Option<Event> {
        let Self { wishes, requests, responses, .. } = self;
        let responses = responses.as_mut()?;
        loop {
            tokio::select! {
                biased;
                wish = wishes.next(), if requests.is_some() => {
                    pass_on(wish, wishes, requests).await;
                }
                response = responses.message() => return Some(match response {
                    Ok(Some(response)) => Event::try_from(response).unwrap_or_else(Event::lost),
                    Ok(None) => Event::lost(WorkerError::Unreachable("the stream ended early".to_owned())),
                    Err(status) => Event::lost(status.into()),
                }),
            }
        }
    }

    /// Says that nothing more comes, and lets the worker say the same.
    ///
    /// A call dropped before that is reset. HTTP/2 forgets streams that were reset, takes what still arrives
    /// for them for mistakes of the other side, and gives a connection up after a thousand of those.
    fn end(&mut self) {
        self.requests = None;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if let Some(mut responses) = self.responses.take() {
            // Nobody waits for it: it is bounded, and changes nothing but the connection's books.
            runtime
                .spawn(async move { tokio::time::timeout(END_LIMIT, responses.message()).await });
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.broken {
            self.end();
        }
    }
}

async fn pass_on(
    wish: Option<(u32, Option<domain::FinishReason>)>,
    wishes: &Wishes,
    requests: &mut Option<mpsc::Sender<wire::GenerateRequest>>,
) {
    use wire::generate_request::Kind;
    let kind = match wish {
        None => {
            *requests = None;
            return;
        }
        Some(_) if wishes.are_to_waive() => Kind::Waive(wire::Waive {}),
        Some((_, Some(reason))) => {
            let reason = wire::FinishReason::from(reason).into();
            Kind::Stop(wire::Stop { reason, kept: wishes.kept() })
        }
        Some((allowance, None)) => Kind::Extend(wire::Extend { allowance }),
    };
    if let Some(requests) = requests {
        // A closed call shows in its responses; here there is nothing left to tell it.
        let _ = requests.send(wire::GenerateRequest { kind: Some(kind) }).await;
    }
}

/// Shows the worker our token.
#[derive(Clone)]
struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<&Secret<String>>) -> Result<Self, ConnectError> {
        let Some(token) = token else { return Ok(Self(None)) };
        let value = format!("Bearer {}", token.expose()).parse();
        let mut value: MetadataValue<Ascii> = value.map_err(|_| ConnectError::Token)?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

fn endpoint(address: &str) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(address.to_owned())
        .map_err(|source| ConnectError::Address { address: address.to_owned(), source })?;
    Ok(tuned(endpoint))
}

fn is_secure(endpoint: &Endpoint) -> bool {
    endpoint.uri().scheme_str() == Some("https")
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Largest message read: a tokenizer with a large vocabulary is tens of megabytes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// What a call may have on its way: within a data center (half a millisecond there and back) that lets a large
/// transfer have 2 GB/s, and it bounds what a call that nobody reads keeps here.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What all calls of a connection may have on their way. Sequences have some kilobytes unread at most, because
/// their leases end; so it takes sixteen large transfers that nobody reads to hold up what shares their connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A wish is sent only after the one before it was taken.
const WISHES_IN_FLIGHT: usize = 1;
/// How long the end of a call that is over is waited for.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(1);
const PIPE_BYTES: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A worker that vanished without a word is noticed after these two together.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
