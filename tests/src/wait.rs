//! Waits for a state that only looking can tell.

use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

/// Looks until it sees something, and returns it; after `limit` the wait fails as "`what`" did not happen.
///
/// An error of `look` ends the wait at once: it says that waiting on is of no use.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

const PAUSE: Duration = Duration::from_millis(20);
