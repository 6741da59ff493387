//! Sums of ledger rows by stretches of time, kept with each append.
//!
//! Quarters of an hour are the finest: the offset of every time zone is a multiple of one, so the beginning of
//! any zone's day is the beginning of a quarter, and the sum over any calendar window is exact.

use std::collections::BTreeMap;

use admission::Entry;
use admission::tenancy::WindowBounds;
use domain::{EndUserId, GatewayId, KeyId, ModelName, OrganizationId, ProjectId, Timestamp};
use sqlx::Transaction;
use sqlx::any::Any;

use super::insert::{Cell, Insert};

/// What rows are summed up by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Heap {
    pub(super) grain: Grain,
    /// Its first moment.
    pub(super) start: Timestamp,
    pub(super) organization: OrganizationId,
    pub(super) project: ProjectId,
    pub(super) user: Option<EndUserId>,
    pub(super) key: KeyId,
    pub(super) model: ModelName,
    pub(super) gateway: GatewayId,
}

/// A stretch of time, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grain {
    /// Of an hour.
    Quarter,
    Hour,
    Day,
}

/// Sums, in the order of [`SUMS`].
pub(super) type Sums = [i64; SUMS.len()];

/// Adds up rows.
pub(super) fn add_up<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<Heap, Sums> {
    let mut heaps = BTreeMap::new();
    for entry in entries {
        for grain in Grain::ALL {
            let sums: &mut Sums = heaps.entry(Heap::of(entry, grain)).or_default();
            for (sum, figure) in sums.iter_mut().zip(figures(entry)) {
                *sum = sum.saturating_add(figure);
            }
        }
    }
    heaps
}

/// Adds sums to those that are kept.
pub(super) async fn add(
    transaction: &mut Transaction<'static, Any>,
    heaps: BTreeMap<Heap, Sums>,
) -> sqlx::Result<()> {
    let rows = heaps.into_iter().map(|(heap, sums)| heap.row(sums)).collect();
    INSERT.run(transaction, rows).await.map(drop)
}

impl Heap {
    fn of(entry: &Entry, grain: Grain) -> Self {
        let admitted = &entry.admitted;
        Self {
            grain,
            start: grain.start(admitted.at),
            organization: admitted.scope.organization,
            project: admitted.scope.project,
            user: admitted.scope.user,
            key: admitted.scope.key,
            model: admitted.model.clone(),
            gateway: admitted.gateway,
        }
    }

    fn row(&self, sums: Sums) -> Vec<Cell> {
        let user = self.user.map(|user| user.to_string()).unwrap_or_default();
        let mut row: Vec<Cell> = vec![
            self.grain.name().into(),
            self.start.millis().into(),
            self.organization.to_string().into(),
            self.project.to_string().into(),
            user.into(),
            self.key.to_string().into(),
            self.model.as_str().into(),
            self.gateway.to_string().into(),
        ];
        row.extend(sums.into_iter().map(Cell::from));
        row
    }
}

impl Grain {
    pub(super) const ALL: [Self; 3] = [Self::Quarter, Self::Hour, Self::Day];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Quarter => "quarter",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    pub(super) const fn millis(self) -> u64 {
        match self {
            Self::Quarter => 15 * 60 * 1_000,
            Self::Hour => 60 * 60 * 1_000,
            Self::Day => 24 * 60 * 60 * 1_000,
        }
    }

    /// The beginning of the stretch that `at` is in.
    pub(super) const fn start(self, at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.millis() - at.millis() % self.millis())
    }
}

/// A window cut into stretches: whole days in the middle, finer ones towards its ends. Each is from its first
/// moment, up to and without its last.
pub(super) fn cover(bounds: WindowBounds) -> Vec<(Grain, i64, i64)> {
    let up = |at: u64, grain: Grain| at.div_ceil(grain.millis()).saturating_mul(grain.millis());
    let down = |at: u64, grain: Grain| at / grain.millis() * grain.millis();
    let (start, end) = (bounds.start.millis(), bounds.end.millis().min(LAST_MILLIS));
    let (mut low, mut high) = (down(start, Grain::Quarter), up(end, Grain::Quarter));
    let mut stretches = Vec::new();
    let mut edges = |grain, coarser: Grain, low: &mut u64, high: &mut u64| {
        let (first, last) = (up(*low, coarser).min(*high), down(*high, coarser).max(*low));
        if *low < first {
            stretches.push((grain, super::integer(*low), super::integer(first)));
        }
        if last < *high && last >= first {
            stretches.push((grain, super::integer(last), super::integer(*high)));
        }
        (*low, *high) = (first, last.max(first));
    };
    edges(Grain::Quarter, Grain::Hour, &mut low, &mut high);
    edges(Grain::Hour, Grain::Day, &mut low, &mut high);
    if low < high {
        stretches.push((Grain::Day, super::integer(low), super::integer(high)));
    }
    stretches
}

fn figures(entry: &Entry) -> Sums {
    let Entry { outcome, usage, charge, overrun, counted, .. } = entry;
    let number = super::integer;
    [
        1,
        i64::from(outcome.is_failure()),
        usage.prompt_tokens.into(),
        usage.cached_tokens.into(),
        usage.completion_tokens.into(),
        number(usage.gpu.nanos()),
        number(usage.times.recompute.nanos()),
        number(usage.times.saved.nanos()),
        charge.cost.nanos(),
        charge.charge.nanos(),
        overrun.nanos(),
        counted.money.nanos(),
        number(counted.tokens),
        number(counted.gpu.nanos()),
    ]
}

/// Later than every row, and the end of a day.
const LAST_MILLIS: u64 = i64::MAX.unsigned_abs() / Grain::Day.millis() * Grain::Day.millis();

/// The columns that are summed.
pub(super) const SUMS: [&str; 14] = [
    "requests",
    "failures",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "gpu_nanos",
    "recompute_nanos",
    "saved_nanos",
    "cost_nanos",
    "charge_nanos",
    "overrun_nanos",
    "counted_money",
    "counted_tokens",
    "counted_gpu",
];

const INSERT: Insert = Insert {
    table: "rollups",
    columns: &[
        "grain",
        "start",
        "organization_id",
        "project_id",
        "user_id",
        "key_id",
        "model",
        "gateway_id",
        "requests",
        "failures",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "gpu_nanos",
        "recompute_nanos",
        "saved_nanos",
        "cost_nanos",
        "charge_nanos",
        "overrun_nanos",
        "counted_money",
        "counted_tokens",
        "counted_gpu",
    ],
    then: "ON CONFLICT (grain, start, key_id, user_id, model, gateway_id) DO UPDATE SET \
        requests = rollups.requests + excluded.requests, \
        failures = rollups.failures + excluded.failures, \
        prompt_tokens = rollups.prompt_tokens + excluded.prompt_tokens, \
        cached_tokens = rollups.cached_tokens + excluded.cached_tokens, \
        completion_tokens = rollups.completion_tokens + excluded.completion_tokens, \
        gpu_nanos = rollups.gpu_nanos + excluded.gpu_nanos, \
        recompute_nanos = rollups.recompute_nanos + excluded.recompute_nanos, \
        saved_nanos = rollups.saved_nanos + excluded.saved_nanos, \
        cost_nanos = rollups.cost_nanos + excluded.cost_nanos, \
        charge_nanos = rollups.charge_nanos + excluded.charge_nanos, \
        overrun_nanos = rollups.overrun_nanos + excluded.overrun_nanos, \
        counted_money = rollups.counted_money + excluded.counted_money, \
        counted_tokens = rollups.counted_tokens + excluded.counted_tokens, \
        counted_gpu = rollups.counted_gpu + excluded.counted_gpu",
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_window_is_covered_once_and_nothing_beside_it(
            start in 0_u64..4_000,
            length in 0_u64..4_000,
            probe in 0_u64..9_000,
        ) {
            let quarter = Grain::Quarter.millis();
            let at = |quarters: u64| Timestamp::from_millis(quarters * quarter);
            let bounds = WindowBounds { start: at(start), end: at(start + length) };
            let probe = (probe * quarter).cast_signed();

            let times = cover(bounds).iter().filter(|(_, from, to)| (*from..*to).contains(&probe)).count();
            let inside = (start..start + length).contains(&(probe.unsigned_abs() / quarter));

            prop_assert_eq!(times, usize::from(inside));
            for (grain, from, to) in cover(bounds) {
                let size = grain.millis().cast_signed();
                prop_assert!(from % size == 0 && to % size == 0 && from < to);
            }
        }
    }

    #[test]
    fn all_of_time_is_days() {
        let all = cover(WindowBounds::FOR_EVER);
        assert!(
            all.iter()
                .any(|(grain, from, to)| *grain == Grain::Day && *from == 0 && *to > i64::MAX / 2)
        );
    }
}
