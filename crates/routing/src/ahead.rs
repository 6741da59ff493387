//! Where a sequence goes when its worker leaves, known before it does, and its KV blocks there ahead of it.
//!
//! Nothing waits for any of this: a copy that does not come in time is computed again.

use std::sync::Arc;
use std::time::Duration;

use proto::{FetchOrder, Start};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::figures::count;
use crate::member::{Member, Promise};
use crate::router::Router;

/// The next worker of a sequence. Dropping it forgets the choice and gives up the copy.
pub(crate) struct Ahead {
    promise: Promise,
    /// The copy that is under way or done.
    copy: AbortOnDropHandle<()>,
    /// Tokens whose blocks it is about.
    covered: usize,
    /// When what was added since is to be copied; `None` if that was done, or is not known.
    again_at: Option<Instant>,
}

impl Ahead {
    /// Chooses `to`, and begins to copy.
    pub(crate) fn begin(
        router: &Arc<Router>,
        start: &Start,
        (from, to): (&Arc<Member>, &Arc<Member>),
        leaves_at: Option<Instant>,
    ) -> Self {
        let promise = to.promise();
        let copy = copy(router, start, (from, to), leaves_at);
        let again_at = leaves_at.and_then(|leaves_at| leaves_at.checked_sub(AGAIN_BEFORE));
        Self { promise, copy, covered: tokens(start), again_at }
    }

    /// The worker it chose.
    pub(crate) const fn to(&self) -> &Arc<Member> {
        self.promise.member()
    }

    /// When [`Ahead::again`] is due.
    pub(crate) const fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Copies what was added since, unless the first copy is still under way.
    pub(crate) fn again(&mut self, router: &Arc<Router>, start: &Start, from: &Arc<Member>) {
        let leaves_at = self.again_at.take().map(|at| at + AGAIN_BEFORE);
        let block =
            from.with_state(|state| state.load_of(&start.model).block_tokens).unwrap_or(0).max(1)
                as usize;
        if self.copy.is_finished() && tokens(start) >= self.covered + block {
            self.covered = tokens(start);
            self.copy = copy(router, start, (from, self.promise.member()), leaves_at);
        }
    }
}

fn copy(
    router: &Arc<Router>,
    start: &Start,
    (from, to): (&Arc<Member>, &Arc<Member>),
    leaves_at: Option<Instant>,
) -> AbortOnDropHandle<()> {
    let order = FetchOrder {
        model: start.model.clone(),
        salt: start.salt,
        tokens: start.prompt.iter().chain(&start.generated).copied().collect(),
        from: from.name().to_owned(),
    };
    let latest = Instant::now() + COPY_LIMIT;
    let deadline = leaves_at.map_or(latest, |leaves_at| leaves_at.min(latest));
    let (router, to) = (Arc::clone(router), Arc::clone(to));
    AbortOnDropHandle::new(tokio::spawn(async move {
        let copied = async {
            let _one_of_few = Semaphore::acquire(&router.fetches).await.ok()?;
            to.worker().fetch(order).await.ok()
        };
        match tokio::time::timeout_at(deadline, copied).await {
            Ok(Some(fetched)) => {
                count(&router.counters.fetched);
                tracing::debug!(worker = %to.name(), blocks = fetched.blocks, "blocks copied ahead");
            }
            Ok(None) | Err(_) => count(&router.counters.fetches_failed),
        }
    }))
}

fn tokens(start: &Start) -> usize {
    start.prompt.len() + start.generated.len()
}

/// How long before a worker leaves its sequences' last blocks are copied.
const AGAIN_BEFORE: Duration = Duration::from_millis(1500);
/// A copy that takes longer would not beat computing again.
const COPY_LIMIT: Duration = Duration::from_secs(20);
