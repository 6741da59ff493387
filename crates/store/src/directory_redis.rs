//! The directory of workers in Redis: each says again and again that it is there, and is forgotten when it stops.
//!
//! One sorted set holds addresses by the moment they expire, by the server's clock: no clocks are compared.

use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;
use routing::{Announce, Directory, DirectoryError};

use crate::redis_link::{LinkSettings, RedisAddressError, RedisLink};

/// Workers that announced themselves in Redis.
pub struct RedisDirectory {
    link: RedisLink,
    key: String,
}

impl RedisDirectory {
    /// The directory at `address`. Does not connect: the first request does.
    pub fn new(address: &str) -> Result<Self, RedisAddressError> {
        Self::named(address, KEY)
    }

    /// A directory of another name there.
    pub fn named(address: &str, key: &str) -> Result<Self, RedisAddressError> {
        let link = RedisLink::new(address, "worker directory", DEADLINES)?;
        Ok(Self { link, key: key.to_owned() })
    }
}

#[async_trait]
impl Directory for RedisDirectory {
    fn name(&self) -> &str {
        &self.key
    }

    async fn members(&self) -> Result<Vec<String>, DirectoryError> {
        let mut call = LISTED.prepare_invoke();
        call.key(&self.key);
        self.link.invoke(&call).await.map_err(DirectoryError::new)
    }
}

#[async_trait]
impl Announce for RedisDirectory {
    async fn announce(&self, address: &str, time_to_live: Duration) -> Result<(), DirectoryError> {
        let millis = u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut call = ANNOUNCED.prepare_invoke();
        call.key(&self.key).arg(address).arg(millis);
        self.link.invoke::<i64>(&call).await.map(drop).map_err(DirectoryError::new)
    }

    async fn withdraw(&self, address: &str) -> Result<(), DirectoryError> {
        let mut command = redis::cmd("ZREM");
        command.arg(&self.key).arg(address);
        self.link.reply::<i64>(&command).await.map(drop).map_err(DirectoryError::new)
    }
}

static ANNOUNCED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME') \
         local now = time[1] * 1000 + math.floor(time[2] / 1000) \
         redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) \
         redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1]) \
         return 1",
    )
});

static LISTED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME') \
         local now = time[1] * 1000 + math.floor(time[2] / 1000) \
         return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')",
    )
});

const KEY: &str = "tollgate:workers:1";
/// No request waits for these.
const DEADLINES: LinkSettings = LinkSettings {
    connect_deadline: Duration::from_secs(1),
    response_deadline: Duration::from_secs(1),
    cool_down: Duration::from_secs(1),
};
