//! Keeps answers in Redis: the tier that gateways share, and that outlives each of them.
//!
//! Promises: a slow, dead or lying Redis is a miss. Every wait has a deadline of milliseconds.
//! One failure closes the connection for a cool-down; after it a single request tries again, and
//! nobody waits for that request. So a dead Redis costs one deadline in each cool-down, and a
//! gateway starts without it.
//!
//! A value says which format it is in and which key it belongs to. An answer that was written by
//! an older release, or that reaches us under the wrong key, is a miss: the second has happened to
//! others, when a cancelled command left its reply on a shared connection for the next to read.
//!
//! Holds its own connection instead of the driver's `ConnectionManager`: that one reconnects only
//! when a connection breaks, and keeps one that merely stopped answering (a lost route, a frozen
//! host) until the kernel gives it up after a quarter of an hour.
//!
//! Invariant: one Redis node or a proxy in front of several; it does not follow cluster redirects.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use cache::{CacheKey, CachedAnswer, Tier};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind,
};
use tokio::time::Instant;

use crate::cache_memory::DEFAULT_MAX_ANSWER_BYTES;

/// How long the Redis tier waits and keeps, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisCacheSettings {
    /// Longest wait for a connection. Paid by one request, at most once in a cool-down.
    pub connect_deadline: Duration,
    /// Longest wait for a reply.
    pub response_deadline: Duration,
    /// How long a Redis that failed is left alone.
    pub cool_down: Duration,
    /// How long an answer is kept.
    pub time_to_live: Duration,
    /// Bytes of text of the largest answer that is kept.
    pub max_answer_bytes: usize,
}

impl Default for RedisCacheSettings {
    fn default() -> Self {
        Self {
            connect_deadline: DEFAULT_CONNECT_DEADLINE,
            response_deadline: DEFAULT_RESPONSE_DEADLINE,
            cool_down: DEFAULT_COOL_DOWN,
            time_to_live: DEFAULT_TIME_TO_LIVE,
            max_answer_bytes: DEFAULT_MAX_ANSWER_BYTES,
        }
    }
}

/// The address of the response cache cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("read the response cache's address; write it as redis://host:port")]
pub struct RedisCacheAddressError(#[source] RedisError);

/// The tier in Redis.
pub struct RedisCache {
    client: Client,
    settings: RedisCacheSettings,
    link: Mutex<Link>,
}

/// What is known about the way to Redis.
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Without a connection, nobody tries to make one before this.
    try_again_at: Instant,
    /// The log knows that Redis is unreachable; it is told once, not once in each cool-down.
    reported: bool,
}

impl RedisCache {
    /// A tier at `address`. Does not connect: the first request does.
    pub fn new(
        address: &str,
        settings: RedisCacheSettings,
    ) -> Result<Self, RedisCacheAddressError> {
        let client = Client::open(address).map_err(RedisCacheAddressError)?;
        let link = Link { connection: None, try_again_at: Instant::now(), reported: false };
        Ok(Self { client, settings, link: Mutex::new(link) })
    }

    /// The reply to `command`, if it comes in time.
    async fn reply<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let mut connection = self.connection().await?;
        match command.query_async(&mut connection).await {
            Ok(reply) => Some(reply),
            Err(error) if is_refusal(&error) => {
                tracing::debug!(error = %error, "response cache in redis refused a command");
                None
            }
            Err(error) => {
                self.lose(&error);
                None
            }
        }
    }

    async fn connection(&self) -> Option<MultiplexedConnection> {
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

    async fn connect(&self) -> Option<MultiplexedConnection> {
        let Self { client, settings, .. } = self;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_deadline))
            .set_response_timeout(Some(settings.response_deadline));
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                let mut link = self.link();
                link.connection = Some(connection.clone());
                if std::mem::take(&mut link.reported) {
                    tracing::info!("response cache in redis is reachable again");
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
            tracing::warn!(error = %error, "response cache in redis is unreachable");
        }
    }

    /// Every change under the lock is whole, so a poisoned one is sound.
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Tier for RedisCache {
    async fn find(&self, key: &CacheKey) -> Option<CachedAnswer> {
        let value: Option<Vec<u8>> = self.reply(redis::cmd("GET").arg(name_of(key))).await?;
        decode(key, &value?)
    }

    async fn store(&self, key: &CacheKey, answer: &CachedAnswer) {
        if answer.text.len() > self.settings.max_answer_bytes {
            return;
        }
        let millis = u64::try_from(self.settings.time_to_live.as_millis()).unwrap_or(u64::MAX);
        let mut command = redis::cmd("SET");
        command.arg(name_of(key)).arg(encode(key, answer)).arg("PX").arg(millis.max(1));
        let _lost_or_done: Option<()> = self.reply(&command).await;
    }

    fn name(&self) -> &'static str {
        "redis"
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

fn name_of(key: &CacheKey) -> String {
    format!("{KEY_PREFIX}{key}")
}

fn encode(key: &CacheKey, answer: &CachedAnswer) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend(key.digest());
    serde_json::to_writer(&mut value, answer).expect("an answer is text and numbers");
    value
}

fn decode(key: &CacheKey, value: &[u8]) -> Option<CachedAnswer> {
    let (format, rest) = value.split_first()?;
    let (digest, answer) = rest.split_first_chunk::<32>()?;
    if *format != FORMAT || digest != key.digest() {
        return None;
    }
    serde_json::from_slice(answer).ok()
}

/// The number is the layout of names; the format of values has its own.
const KEY_PREFIX: &str = "tollgate:cache:1:";

/// Changes with [`CachedAnswer`] or with what surrounds it in a value.
const FORMAT: u8 = 1;

/// A name look-up, a handshake and one exchange, across zones.
const DEFAULT_CONNECT_DEADLINE: Duration = Duration::from_millis(50);

/// Ten times what Redis takes within a region, and little beside the first token that a hit saves;
/// a miss pays it only when Redis is slow, and then once in a cool-down.
const DEFAULT_RESPONSE_DEADLINE: Duration = Duration::from_millis(5);

/// Long beside the deadlines, so that a dead Redis slows one request in many; short beside the
/// time it takes anybody to notice.
const DEFAULT_COOL_DOWN: Duration = Duration::from_secs(1);

/// A reproducible answer never becomes wrong (its key names the exact weights); this bounds how
/// long a tenant's text lies in Redis.
const DEFAULT_TIME_TO_LIVE: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests;
