//! How long a step may wait for whose masks.
//!
//! Where one tenant is alone, a step waits as long as a wait may be. Beside others a tenant has some patience of
//! theirs to use up: it grows by a small part of the time that goes by, to a small bound, and every wait for that
//! tenant's masks takes from it. So masks that are late now and then are waited for, and a tenant whose masks are
//! always late takes next to nothing of others' time: its sequences sit out until their masks are there.
//!
//! Promise: over any time, the steps of others wait for one tenant for at most [`MOST`] and one part in
//! [`PART`] of that time.
//!
//! Pure: time is handed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use domain::ProjectId;

/// What is left of others' patience with each tenant.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    left: HashMap<ProjectId, Left>,
}

#[derive(Debug)]
struct Left {
    time: Duration,
    since: Instant,
}

impl Patience {
    /// How long others may wait for this tenant now.
    pub(crate) fn with(&mut self, tenant: ProjectId, now: Instant) -> Duration {
        if self.left.len() >= MAX_KNOWN {
            self.left.retain(|_, left| left.at(now) < MOST);
        }
        self.left.get(&tenant).map_or(MOST, |left| left.at(now))
    }

    /// Notes that others waited for this tenant.
    pub(crate) fn wear(&mut self, tenant: ProjectId, waited: Duration, now: Instant) {
        let time = self.with(tenant, now).saturating_sub(waited);
        self.left.insert(tenant, Left { time, since: now });
    }
}

impl Left {
    fn at(&self, now: Instant) -> Duration {
        (self.time + now.saturating_duration_since(self.since) / PART).min(MOST)
    }
}

/// The most that may be waited for a tenant at once.
const MOST: Duration = Duration::from_millis(8);
/// The part of the time that others may wait for one tenant in the long run.
const PART: u32 = 64;
/// Of more tenants than these, those that have not used anything up are forgotten.
const MAX_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_always_late_is_hardly_waited_for() {
        let (mut patience, tenant, mut now) =
            (Patience::default(), ProjectId::from_u128(1), Instant::now());
        let mut waited = Duration::ZERO;
        for _ in 0..1_000 {
            let wait = patience.with(tenant, now).min(Duration::from_millis(2));
            now += wait;
            patience.wear(tenant, wait, now);
            waited += wait;
            now += Duration::from_millis(10);
        }
        let bound = MOST + Duration::from_secs(11) / PART;
        assert!(waited <= bound && waited > bound / 2, "{waited:?} of ten seconds");
    }

    #[test]
    fn who_is_late_now_and_then_is_waited_for() {
        let (mut patience, tenant, mut now) =
            (Patience::default(), ProjectId::from_u128(1), Instant::now());
        for _ in 0..100 {
            now += Duration::from_millis(200);
            assert!(patience.with(tenant, now) >= Duration::from_millis(2));
            patience.wear(tenant, Duration::from_millis(2), now);
        }
    }

    #[test]
    fn one_tenant_wears_out_nobodys_patience_with_another() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        patience.wear(ProjectId::from_u128(1), MOST, now);
        assert_eq!(patience.with(ProjectId::from_u128(1), now), Duration::ZERO);
        assert_eq!(patience.with(ProjectId::from_u128(2), now), MOST);
    }
}
