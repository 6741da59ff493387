//! A worker's side of the prefix cache: what it tells of its KV blocks, gives of them, and gets of others'.
//!
//! Blocks are fetched where that is faster than computing them: as many bytes over a link as fast as the last
//! fetches found it, against so many tokens of a prompt. What arrives is taken up only as it was asked for: in
//! order, by name, and of the length of a block here; at the first that is not, the rest is left.
//!
//! A fetch shows the token that all workers of a fleet share to the address it is told. Only who shows
//! that token can order one.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use domain::BlockHash;
use engine::{CacheChange, CachedBlocks, Engine, EngineState};
use futures_util::future::{join_all, select_all};
use futures_util::{FutureExt, StreamExt, stream};
use proto::{
    BlockContent, BlockStream, BlocksWanted, FetchOrder, Fetched, PrefixChange, PrefixStream,
    Worker, WorkerError,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::stock::Roster;

/// Reaches the worker at an address, or says why it cannot.
pub type Connect = dyn Fn(&str) -> Result<Arc<dyn Worker>, WorkerError> + Send + Sync;

/// The other workers, as far as this one can reach them.
#[derive(Default)]
pub(crate) struct Neighbours {
    connect: OnceLock<Box<Connect>>,
    link: Mutex<Link>,
}

/// How fast blocks come.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Link {
    bytes_per_second: f64,
}

impl Default for Link {
    fn default() -> Self {
        Self { bytes_per_second: FIRST_BYTES_PER_SECOND }
    }
}

impl Link {
    /// How long so many bytes take.
    fn time(self, bytes: u64) -> Duration {
        ROUND_TRIP + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second)
    }

    /// So many bytes took so long.
    fn learn(&mut self, bytes: u64, took: Duration) {
        let found = bytes as f64 / took.as_secs_f64().max(1e-6);
        self.bytes_per_second += (found.max(LEAST_BYTES_PER_SECOND) - self.bytes_per_second) / 4.0;
    }

    /// It seemed too slow for a fetch. It may be better by now, and only fetching shows that.
    fn doubt(&mut self) {
        if self.bytes_per_second < FIRST_BYTES_PER_SECOND {
            self.bytes_per_second += (FIRST_BYTES_PER_SECOND - self.bytes_per_second) / 16.0;
        }
    }
}

impl Neighbours {
    /// From now on others are reached like this, unless they can be reached already.
    pub(crate) fn reach(&self, connect: Box<Connect>) {
        let _ = self.connect.set(connect);
    }

    /// Gets the blocks of `order` that `engine` lacks.
    pub(crate) async fn fetch(
        &self,
        engine: &Engine,
        order: FetchOrder,
    ) -> Result<Fetched, WorkerError> {
        let Some(connect) = self.connect.get() else { return Ok(Fetched::default()) };
        let names = engine.block_names(&order.model, order.salt, &order.tokens);
        let here = engine.count_cached(names.clone()).await;
        let state = engine.state();
        let room = names.len().min(here + state.free_blocks as usize);
        let missing = &names[here.min(room)..room];
        if missing.is_empty() || !self.beats_computing(missing.len(), &state) {
            return Ok(Fetched::default());
        }
        let (began, from) = (Instant::now(), connect(&order.from)?);
        let deadline = began + FETCH_LIMIT;
        let wanted = BlocksWanted { model: order.model, names: missing.to_vec() };
        let coming = timeout_at(deadline, from.blocks(wanted)).await;
        let mut coming = coming.map_err(|_| too_slow())??;
        let mut fetched = Fetched::default();
        for names in missing.chunks(BLOCKS_AT_A_TIME) {
            let mut taking = Vec::new();
            for name in names {
                let Ok(Some(block)) = timeout_at(deadline, coming.next()).await else { break };
                let Some(content) = checked(block?, *name, &state) else { break };
                taking.push(engine.import_block(*name, content));
            }
            let taken = join_all(taking).await;
            let taken = taken.iter().take_while(|taken| **taken).count();
            fetched.blocks += taken as u32;
            fetched.bytes += state.block_bytes * taken as u64;
            if taken < names.len() {
                break;
            }
        }
        if fetched.blocks > 0 {
            self.lock().learn(fetched.bytes, began.elapsed());
            // Asking is a use: together they are kept as one text, its beginning longest.
            engine.count_cached(names).await;
        }
        Ok(fetched)
    }

    fn beats_computing(&self, blocks: usize, state: &EngineState) -> bool {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        let computing = state.prompt_token_time * blocks.saturating_mul(state.block_tokens);
        let mut link = self.lock();
        let beats = link.time(u64::from(blocks) * state.block_bytes) < computing;
        if !beats {
            link.doubt();
        }
        beats
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of a block, if it is the one that was asked for and as long as a block is here.
fn checked(block: BlockContent, name: BlockHash, state: &EngineState) -> Option<Vec<u8>> {
    let BlockContent { name: told, content } = block;
    if told != name || content.len() as u64 != state.block_bytes {
        tracing::debug!(expected = ?name, told = ?told, bytes = content.len(), "fetch ends");
        return None;
    }
    Some(content)
}

fn too_slow() -> WorkerError {
    WorkerError::Unreachable("it does not give its blocks in time".to_owned())
}

/// What the caches of all engines hold, in messages of bounded size. Names of blocks name their model too, so that what
/// several hold is one list.
pub(crate) fn prefixes(roster: watch::Receiver<Roster>) -> PrefixStream {
    let caches = Caches { roster, readers: None };
    let changes = stream::unfold(caches, |mut caches| async move {
        let change = caches.next().await?;
        Some((stream::iter(pieces(change)), caches))
    });
    changes.flatten().boxed()
}

/// A reader of what all engines hold.
struct Caches {
    roster: watch::Receiver<Roster>,
    /// Absent where everything is to be told anew.
    readers: Option<Vec<CachedBlocks>>,
}

impl Caches {
    /// Everything at first and whenever an engine came or went, else the next change; `None` once the worker is gone.
    async fn next(&mut self) -> Option<CacheChange> {
        loop {
            let Some(readers) = &mut self.readers else { return Some(self.everything().await) };
            let next = readers
                .iter_mut()
                .enumerate()
                .map(|(at, reader)| async move { (at, reader.next().await) }.boxed());
            let next: Vec<_> = next.collect();
            let some = !next.is_empty();
            let any = async move {
                if some { select_all(next).await.0 } else { std::future::pending().await }
            };
            tokio::select! {
                changed = self.roster.changed() => {
                    changed.ok()?;
                    self.readers = None;
                }
                (at, change) = any => match change {
                    // One who has missed something: what it said before is not told apart from what others said.
                    Some(CacheChange { reset: true, .. }) => self.readers = None,
                    Some(change) => return Some(change),
                    None => drop(readers.remove(at)),
                },
            }
        }
    }

    async fn everything(&mut self) -> CacheChange {
        let engines: Vec<Engine> = {
            let roster = self.roster.borrow_and_update();
            roster.iter().filter_map(|entry| entry.served.engine().cloned()).collect()
        };
        let mut all = CacheChange { reset: true, ..CacheChange::default() };
        let mut readers = Vec::with_capacity(engines.len());
        for mut reader in engines.iter().map(Engine::cached_blocks) {
            // Told at once.
            if let Some(CacheChange { added, .. }) = reader.next().await {
                all.added.extend(added);
                readers.push(reader);
            }
        }
        self.readers = Some(readers);
        all
    }
}

fn pieces(change: CacheChange) -> Vec<PrefixChange> {
    let CacheChange { reset, added, removed } = change;
    let mut pieces = vec![PrefixChange { reset, ..PrefixChange::default() }];
    for added in added.chunks(BLOCKS_PER_CHANGE) {
        pieces.push(PrefixChange { added: added.to_vec(), ..PrefixChange::default() });
    }
    for removed in removed.chunks(BLOCKS_PER_CHANGE) {
        pieces.push(PrefixChange { removed: removed.to_vec(), ..PrefixChange::default() });
    }
    if !reset {
        pieces.remove(0);
    }
    pieces
}

/// The content of those of these blocks that the engine holds.
pub(crate) fn blocks(engine: Engine, names: Vec<BlockHash>) -> BlockStream {
    let blocks = stream::iter(names).map(move |name| {
        let engine = engine.clone();
        async move {
            let content = engine.export_block(name).await?;
            Some(Ok(BlockContent { name, content }))
        }
    });
    // Together, so that they do not cost a step each.
    blocks.buffered(BLOCKS_AT_A_TIME).filter_map(std::future::ready).boxed()
}

/// A gigabit link, until a fetch has shown better.
const FIRST_BYTES_PER_SECOND: f64 = 125e6;
const LEAST_BYTES_PER_SECOND: f64 = 1e3;
/// What a fetch takes beside its bytes.
const ROUND_TRIP: Duration = Duration::from_millis(2);
/// Whoever orders a fetch waits no longer either.
const FETCH_LIMIT: Duration = Duration::from_secs(20);
/// So many are asked of an engine together. They are in memory until they are sent or taken up.
const BLOCKS_AT_A_TIME: usize = 32;
/// Each is eight bytes.
const BLOCKS_PER_CHANGE: usize = 8_192;

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine that takes a millisecond for each token of a prompt.
    fn state() -> EngineState {
        EngineState {
            block_tokens: 32,
            block_bytes: 100_000,
            prompt_token_time: Duration::from_millis(1),
            ..EngineState::default()
        }
    }

    #[test]
    fn blocks_are_fetched_only_where_that_beats_computing_them() {
        let neighbours = Neighbours::default();
        assert!(neighbours.beats_computing(10, &state()));
        let unmeasured = EngineState::default();
        assert!(!neighbours.beats_computing(10, &unmeasured), "nothing is known yet");

        for _ in 0..40 {
            neighbours.lock().learn(100_000, Duration::from_secs(1));
        }

        assert!(!neighbours.beats_computing(10, &state()), "{:?}", neighbours.lock());
        let doubts = (0..200).find(|_| neighbours.beats_computing(10, &state()));
        assert!(doubts.is_some(), "a link that was slow once is tried again some day");
    }

    #[test]
    fn what_is_told_at_once_comes_in_pieces_of_bounded_size() {
        let added: Vec<u64> = (0..20_000).collect();
        let change = CacheChange { reset: true, added: added.clone(), removed: vec![7] };

        let pieces = pieces(change);

        assert!(pieces[0].reset && pieces[1..].iter().all(|piece| !piece.reset));
        assert!(pieces.iter().all(|piece| piece.added.len() <= BLOCKS_PER_CHANGE));
        let told: Vec<u64> = pieces.into_iter().flat_map(|piece| piece.added).collect();
        assert_eq!(told, added);
    }
}
