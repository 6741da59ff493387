//! Waits for masks that are late, as far as those who are in the step have patience with whose they are.

use std::time::{Duration, Instant};

use domain::ProjectId;

use super::StepLoop;
use crate::running::Running;

/// A tenant whose masks a step waits for.
struct Late {
    tenant: ProjectId,
    /// How long at most.
    limit: Duration,
    beside_others: bool,
    /// How long it took until all of them were there.
    came_after: Option<Duration>,
}

impl StepLoop {
    /// Waits until masks are there that no step has waited for before, or nobody has patience any more.
    pub(super) fn wait_for_masks(&mut self) {
        let began = Instant::now();
        let mut late = self.late(began);
        for index in 0..late.len() {
            let left = late[index].limit.saturating_sub(began.elapsed());
            let (running, late) = (&mut self.running, &mut late[index..]);
            self.guides.wait(left, || {
                for one in late.iter_mut().filter(|one| one.came_after.is_none()) {
                    let of_it = |running: &&mut Running| tenant(running) == one.tenant;
                    if !running.iter_mut().filter(of_it).any(Running::is_late) {
                        one.came_after = Some(began.elapsed());
                    }
                }
                late.iter().all(|one| one.came_after.is_some())
            });
        }
        let now = Instant::now();
        for one in late.iter().filter(|one| one.beside_others) {
            let waited = one.came_after.unwrap_or_else(|| began.elapsed()).min(one.limit);
            self.patience.wear(one.tenant, waited, now);
        }
    }

    /// Whose masks are late, with least patience first.
    fn late(&mut self, now: Instant) -> Vec<Late> {
        let waits = self.running.iter_mut().filter_map(|running| {
            let tenant = tenant(running);
            running.deserves_wait().then_some(tenant)
        });
        let mut tenants: Vec<ProjectId> = waits.collect();
        tenants.sort_unstable();
        tenants.dedup();
        let mut late = Vec::new();
        for whose in tenants {
            let other = |running: &Running| tenant(running) != whose && !running.need().paused;
            let beside_others = self.running.iter().any(other);
            let patience =
                if beside_others { self.patience.with(whose, now) } else { Duration::MAX };
            let limit = patience.min(MASK_WAIT);
            late.push(Late { tenant: whose, limit, beside_others, came_after: None });
        }
        late.sort_unstable_by_key(|one| one.limit);
        late
    }
}

const fn tenant(running: &Running) -> ProjectId {
    running.place.share.tenant
}

/// How long a step waits for masks that are late. Most take a fraction of this.
const MASK_WAIT: Duration = Duration::from_millis(2);
