//! A second worker for a sequence whose first token takes long; the faster one goes on.
//!
//! The slower one is waived ([`proto::Generation::waive`]), which cancels it at its next step. What it did is in its
//! worker's accounts as `platform.hedge`, by the worker's own exact books, and never in what a tenant pays; here it is
//! counted how often that was. So it is with a second worker that nobody waits for any more. One that is given up while it
//! is still being asked, or is lost before it hears of it, has `platform.abandoned` it.

use std::sync::Arc;

use domain::ModelName;
use proto::{Event, Start};
use tokio_util::task::AbortOnDropHandle;

use crate::figures::count;
use crate::place::{Placed, Wanted};
use crate::queue::Lane;
use crate::router::Router;

/// The race for a first token. Dropping it gives the second worker up.
pub(crate) struct Hedge(Option<AbortOnDropHandle<Won>>);

/// The second worker and the first thing it said, if that was something to go on with.
type Won = Option<(Second, Event)>;

/// A sequence on a second worker. Dropping it before it was kept waives it.
struct Second(Option<Box<Placed>>);

impl Second {
    fn keep(mut self) -> Option<Box<Placed>> {
        self.0.take()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        if let Some(placed) = self.0.take() {
            placed.generation.waive();
        }
    }
}

impl Hedge {
    /// Waits for the first worker a while, then asks a second one, if that is wished for at all.
    pub(crate) fn begin(router: &Arc<Router>, wanted: &Wanted<'_>, first: &Placed) -> Option<Self> {
        let after = router.settings().hedge_after?;
        let (router, start, model) =
            (Arc::clone(router), wanted.start.clone(), wanted.model.clone());
        let (session, other_than) = (wanted.session, first.site.member.slot());
        let race = async move {
            tokio::time::sleep(after).await;
            race(&router, &start, (&model, session), other_than).await
        };
        Some(Self(Some(AbortOnDropHandle::new(tokio::spawn(race)))))
    }

    /// Resolves when the second worker has the first token; never if it loses or there is none.
    pub(crate) async fn won(hedge: &mut Option<Self>) -> (Box<Placed>, Event) {
        if let Some(Self(task)) = hedge
            && let Some(running) = task
        {
            let ended = running.await;
            *task = None;
            if let Ok(Some((second, event))) = ended
                && let Some(placed) = second.keep()
            {
                return (placed, event);
            }
        }
        std::future::pending().await
    }
}

async fn race(
    router: &Arc<Router>,
    start: &Start,
    (model, session): (&ModelName, u64),
    other_than: u32,
) -> Won {
    let lane = Lane::New(start.share.priority);
    let avoid = [other_than];
    let wanted = Wanted { start, model, session, lane, avoid: &avoid, preferred: None };
    // Only where there is room at once: hedges must not wait in anybody's way.
    let placed = router.place_at_once(&wanted).await?;
    count(&router.counters.hedged);
    let mut second = Second(Some(Box::new(placed)));
    let event = second.0.as_mut()?.generation.next().await?;
    let won = match &event {
        Event::Tokens { ids, .. } => !ids.is_empty(),
        // It has nothing to say, and that is an answer.
        Event::Finished { .. } => true,
        Event::HandedOver { .. } | Event::Failed { .. } => false,
    };
    won.then(|| {
        count(&router.counters.hedges_won);
        (second, event)
    })
}
