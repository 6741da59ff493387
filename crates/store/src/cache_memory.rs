//! Keeps answers in this process: the tier nearest to the request.
//!
//! Promises: what is kept stays below a number of bytes, whatever is asked; an answer larger than
//! its share is not kept, so one tenant's longest answer cannot push out everybody's; nothing is
//! kept longer than its time. Which answers go first is the choice of the map underneath (it keeps
//! what is asked for often).
//!
//! Invariant: does no I/O and never waits.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cache::{CacheKey, CachedAnswer, Tier};

/// How much the memory tier keeps, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryCacheSettings {
    /// Bytes of all answers together, with an estimate of what it takes to keep each.
    pub max_bytes: u64,
    /// Bytes of text of the largest answer that is kept.
    pub max_answer_bytes: usize,
    /// How long an answer is kept.
    pub time_to_live: Duration,
}

impl Default for MemoryCacheSettings {
    fn default() -> Self {
        Self {
            max_bytes: DEFAULT_MAX_BYTES,
            max_answer_bytes: DEFAULT_MAX_ANSWER_BYTES,
            time_to_live: DEFAULT_TIME_TO_LIVE,
        }
    }
}

/// The tier in memory.
pub struct MemoryCache {
    answers: moka::future::Cache<CacheKey, Arc<CachedAnswer>>,
    max_answer_bytes: usize,
}

impl MemoryCache {
    /// An empty tier.
    pub fn new(settings: MemoryCacheSettings) -> Self {
        let MemoryCacheSettings { max_bytes, max_answer_bytes, time_to_live } = settings;
        let answers = moka::future::Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_: &CacheKey, answer: &Arc<CachedAnswer>| weight(answer))
            .time_to_live(time_to_live)
            .build();
        Self { answers, max_answer_bytes }
    }
}

#[async_trait]
impl Tier for MemoryCache {
    async fn find(&self, key: &CacheKey) -> Option<CachedAnswer> {
        let answer = self.answers.get(key).await?;
        Some(CachedAnswer::clone(&answer))
    }

    async fn store(&self, key: &CacheKey, answer: &CachedAnswer) {
        // Asked here and not left to the weight: the map admits first and weighs later.
        if answer.text.len() > self.max_answer_bytes {
            return;
        }
        self.answers.insert(*key, Arc::new(answer.clone())).await;
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

fn weight(answer: &CachedAnswer) -> u32 {
    u32::try_from(answer.text.len().saturating_add(ENTRY_BYTES)).unwrap_or(u32::MAX)
}

/// Four times the text of a 16,000 token answer; longer ones are rare and seldom asked for again.
pub(crate) const DEFAULT_MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Room for a few thousand long answers, and small beside a tokenizer or a connection pool.
const DEFAULT_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// A reproducible answer never becomes wrong (its key names the exact weights); this bounds how
/// long a tenant's text lies in memory.
const DEFAULT_TIME_TO_LIVE: Duration = Duration::from_hours(1);

/// What an entry takes beside its text: key, counts, pointers, the map's own bookkeeping.
const ENTRY_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use domain::ProjectId;

    use super::*;
    use crate::cache_conformance::{self, LARGEST_ANSWER_BYTES, answer, fresh_key};

    fn open() -> MemoryCache {
        MemoryCache::new(MemoryCacheSettings {
            max_answer_bytes: LARGEST_ANSWER_BYTES,
            ..MemoryCacheSettings::default()
        })
    }

    cache_conformance::instantiate!(open);

    #[tokio::test]
    async fn all_answers_together_stay_below_the_bound() {
        let settings =
            MemoryCacheSettings { max_bytes: 64 * 1024, ..MemoryCacheSettings::default() };
        let tier = MemoryCache::new(settings);
        let project = ProjectId::generate();

        for prompt in 0..1_000 {
            tier.store(&fresh_key(project, prompt), &answer(&"x".repeat(1024))).await;
        }
        tier.answers.run_pending_tasks().await;

        let kept = tier.answers.entry_count();
        assert!(kept * 1024 <= settings.max_bytes, "{kept} answers");
        assert!(kept >= 32, "at least half of what fits, not {kept}");
    }

    #[tokio::test]
    async fn an_answer_past_its_time_is_not_found() {
        let settings =
            MemoryCacheSettings { time_to_live: Duration::ZERO, ..MemoryCacheSettings::default() };
        let tier = MemoryCache::new(settings);
        let key = fresh_key(ProjectId::generate(), 1);

        tier.store(&key, &answer("old")).await;

        assert_eq!(tier.find(&key).await, None);
    }

    #[test]
    fn the_weight_of_an_answer_does_not_overflow() {
        assert_eq!(weight(&answer("")), 256);
        assert_eq!(weight(&answer("four")), 260);
    }
}
