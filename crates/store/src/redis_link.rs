//! The way to Redis: a connection that is there or not, and never waited for longer than said.
//!
//! Promises: every wait has a deadline of milliseconds. One failure closes the connection for a cool-down;
//! after it a single request tries again, and nobody waits for that request. So a dead Redis costs one deadline
//! in each cool-down, and a gateway starts without it.
//!
//! Holds its own connection instead of the driver's `ConnectionManager`: that one reconnects only when a
//! connection breaks, and keeps one that merely stopped answering (a lost route, a frozen host) until the
//! kernel gives it up after a quarter of an hour.
//!
//! Knows nothing of what is said.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError,
    RedisFuture, ScriptInvocation, ServerErrorKind, Value,
};
use tokio::time::Instant;

/// How long is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkSettings {
    /// Longest wait for a connection. Paid by one request, at most once in a cool-down.
    pub(crate) connect_deadline: Duration,
    /// Longest wait for a reply.
    pub(crate) response_deadline: Duration,
    /// How long a Redis that failed is left alone.
    pub(crate) cool_down: Duration,
}

/// An address of Redis cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "read the address of redis; write it as redis://host:port, or several of a cluster with commas between"
)]
pub struct RedisAddressError(#[source] RedisError);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It cannot be reached, or did not answer in time, or not long ago.
    #[error("redis is unreachable")]
    Unreachable,
    /// It answered that it will not.
    #[error("redis refused")]
    Refused(#[source] RedisError),
}

/// One Redis, or the nodes of a cluster.
pub(crate) struct RedisLink {
    /// What it is for, in logs.
    purpose: &'static str,
    nodes: Nodes,
    settings: LinkSettings,
    link: Mutex<Link>,
}

enum Nodes {
    One(Client),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What is known about the way.
struct Link {
    connection: Option<Connection>,
    /// Without a connection, nobody tries to make one before this.
    try_again_at: Instant,
    /// The log knows that Redis is unreachable; it is told once, not once in each cool-down.
    reported: bool,
}

impl RedisLink {
    /// A way to `address`: one node, or some of a cluster with commas between. Does not connect: the first
    /// request does.
    pub(crate) fn new(
        address: &str,
        purpose: &'static str,
        settings: LinkSettings,
    ) -> Result<Self, RedisAddressError> {
        let link = Link { connection: None, try_again_at: Instant::now(), reported: false };
        let nodes = Nodes::parse(address, settings).map_err(RedisAddressError)?;
        Ok(Self { purpose, nodes, settings, link: Mutex::new(link) })
    }

    /// The reply to `command`, if it comes in time.
    pub(crate) async fn reply<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        let mut connection = self.connection().await.ok_or(LinkError::Unreachable)?;
        let replied = command.query_async(&mut connection).await;
        self.judge(replied)
    }

    /// What a script returns, if it comes in time.
    pub(crate) async fn invoke<T: FromRedisValue>(
        &self,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, LinkError> {
        let mut connection = self.connection().await.ok_or(LinkError::Unreachable)?;
        let replied = script.invoke_async(&mut connection).await;
        self.judge(replied)
    }

    fn judge<T>(&self, replied: Result<T, RedisError>) -> Result<T, LinkError> {
        replied.map_err(|error| {
            if is_refusal(&error) {
                return LinkError::Refused(error);
            }
            self.lose(&error);
            LinkError::Unreachable
        })
    }

    async fn connection(&self) -> Option<Connection> {
        {
            let mut link = self.link();
            if let Some(connection) = &link.connection {
                return Some(connection.clone());
            }
            let now = Instant::now();
            if now < link.try_again_at {
                return None;
            }
            // Before the attempt: whoever comes while it lasts must not wait for it too.
            link.try_again_at = now + self.settings.cool_down;
        }
        self.connect().await
    }

    async fn connect(&self) -> Option<Connection> {
        match self.nodes.connect(self.settings).await {
            Ok(connection) => {
                let mut link = self.link();
                link.connection = Some(connection.clone());
                if std::mem::take(&mut link.reported) {
                    tracing::info!(purpose = self.purpose, "redis is reachable again");
                }
                Some(connection)
            }
            Err(error) => {
                self.lose(&error);
                None
            }
        }
    }

    fn lose(&self, error: &RedisError) {
        let mut link = self.link();
        link.connection = None;
        link.try_again_at = Instant::now() + self.settings.cool_down;
        if !std::mem::replace(&mut link.reported, true) {
            tracing::warn!(purpose = self.purpose, error = %error, "redis is unreachable");
        }
    }

    /// Every change under the lock is whole, so a poisoned one is sound.
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    fn parse(address: &str, settings: LinkSettings) -> Result<Self, RedisError> {
        let LinkSettings { connect_deadline, response_deadline, .. } = settings;
        let addresses: Vec<&str> = address.split(',').map(str::trim).collect();
        if let [only] = addresses.as_slice() {
            return Client::open(*only).map(Self::One);
        }
        let client = ClusterClientBuilder::new(addresses)
            .connection_timeout(connect_deadline)
            .response_timeout(response_deadline)
            // A redirect is followed once or twice; what takes longer has missed its deadline anyway.
            .retries(2)
            .build();
        client.map(Box::new).map(Self::Cluster)
    }

    async fn connect(&self, settings: LinkSettings) -> Result<Connection, RedisError> {
        let LinkSettings { connect_deadline, response_deadline, .. } = settings;
        match self {
            Self::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(connect_deadline))
                    .set_response_timeout(Some(response_deadline));
                let connected = client.get_multiplexed_async_connection_with_config(&config);
                connected.await.map(Connection::One)
            }
            Self::Cluster(client) => {
                // Learning the slots takes a few exchanges, and the driver bounds each, not all of them.
                let bound = connect_deadline * 4;
                match tokio::time::timeout(bound, client.get_async_connection()).await {
                    Ok(connected) => connected.map(Connection::Cluster),
                    Err(_) => {
                        Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)))
                    }
                }
            }
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(commands, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Whether Redis answered, and answers on: out of memory, say, is no reason to stop reading.
///
/// A node that became read-only is one to leave: its address may lead to the new primary.
fn is_refusal(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => kind != ServerErrorKind::ReadOnly,
        // The driver's word for error codes it has no name for: `OOM`, `WRONGTYPE`.
        ErrorKind::Extension => true,
        _ => false,
    }
}
