//! A worker's word that it is there, where gateways look for workers.

use std::time::Duration;

use domain::Secret;
use routing::Announce as _;
use store::{RedisAddressError, RedisDirectory};

/// A worker's place in the directory of a Redis.
pub struct Announcement {
    directory: RedisDirectory,
    address: String,
}

/// A worker cannot be announced.
#[derive(Debug, thiserror::Error)]
#[error("announce worker")]
pub struct AnnounceError(#[from] RedisAddressError);

impl Announcement {
    /// A worker that gateways reach at `address` (`http://host:port`), announced in this Redis.
    pub fn new(redis: &Secret<String>, address: String) -> Result<Self, AnnounceError> {
        Ok(Self { directory: RedisDirectory::new(redis.expose())?, address })
    }

    /// Says that it is there, again and again, until dropped.
    pub async fn keep(&self) {
        routing::keep_announced(&self.directory, &self.address, TIME_TO_LIVE).await;
    }

    /// Says that it is there no longer. What runs on it goes on.
    pub async fn withdraw(&self) {
        if let Err(error) = self.directory.withdraw(&self.address).await {
            tracing::debug!(error = ?error, "worker not withdrawn; it will be forgotten");
        }
    }
}

/// A worker that said nothing for so long is forgotten.
const TIME_TO_LIVE: Duration = Duration::from_secs(15);
