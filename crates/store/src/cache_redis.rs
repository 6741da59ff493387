//! Keeps answers in Redis: the tier that gateways share, and that outlives each of them.
//!
//! Promises: a slow, dead or lying Redis is a miss, and no wait for it is longer than a few milliseconds.
//!
//! A value says which format it is in and which key it belongs to. An answer that was written by
//! an older release, or that reaches us under the wrong key, is a miss: the second has happened to
//! others, when a cancelled command left its reply on a shared connection for the next to read.

use std::time::Duration;

use async_trait::async_trait;
use cache::{CacheKey, CachedAnswer, Tier};
use redis::{Cmd, FromRedisValue};

use crate::cache_memory::DEFAULT_MAX_ANSWER_BYTES;
use crate::redis_link::{LinkError, LinkSettings, RedisAddressError, RedisLink};

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

/// The tier in Redis.
pub struct RedisCache {
    link: RedisLink,
    settings: RedisCacheSettings,
}

impl RedisCache {
    /// A tier at `address`. Does not connect: the first request does.
    pub fn new(address: &str, settings: RedisCacheSettings) -> Result<Self, RedisAddressError> {
        let RedisCacheSettings { connect_deadline, response_deadline, cool_down, .. } = settings;
        let deadlines = LinkSettings { connect_deadline, response_deadline, cool_down };
        let link = RedisLink::new(address, "response cache", deadlines)?;
        Ok(Self { link, settings })
    }

    /// The reply to `command`, if it comes in time.
    async fn reply<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        match self.link.reply(command).await {
            Ok(reply) => Some(reply),
            Err(LinkError::Unreachable) => None,
            Err(LinkError::Refused(error)) => {
                tracing::debug!(error = %error, "response cache in redis refused a command");
                None
            }
        }
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
const FORMAT: u8 = 2;

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
pub(crate) mod tests;
