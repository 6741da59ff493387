//! What a worker tells of itself: all of its engines as one.
//!
//! Time is told once: of all engines together, as their turns have it. How it stands is told of each engine, and of all of
//! them. What others take of the machine makes everything longer: where several have work, each has its share of the time.

use std::sync::Arc;
use std::time::Duration;

use domain::{IncarnationId, ModelDigest, ModelInfo, Rent};
use engine::{EngineState, Shifts};
use futures_util::future::select_all;
use futures_util::{FutureExt, Stream, stream};
use proto::{ModelLoad, WorkerState};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::drain::Leaving;
use crate::served::load;
use crate::stock::{Entry, Roster};

/// What a watcher is told of.
pub(crate) struct Watching {
    pub(crate) roster: watch::Receiver<Roster>,
    pub(crate) shifts: Shifts,
    pub(crate) rents: watch::Receiver<Rent>,
    pub(crate) leaving: watch::Receiver<Leaving>,
    pub(crate) zone: String,
    pub(crate) incarnation: IncarnationId,
    /// Those of the roster. They hold no engine.
    pub(crate) engines: Vec<Watched>,
}

/// What is told of one engine.
pub(crate) struct Watched {
    states: watch::Receiver<EngineState>,
    models: watch::Receiver<Arc<[ModelInfo]>>,
    places: Option<u32>,
    offered: bool,
}

impl Watched {
    fn of(Entry { served, offered }: &Entry) -> Self {
        let (states, models) = (served.states(), served.models());
        Self { states, models, places: served.places(), offered: *offered }
    }

    /// Resolves when something is news; never once the engine has ended.
    async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.states.changed() => changed,
            changed = self.models.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Watching {
    /// The state now, and again whenever it changes.
    pub(crate) fn states(mut self) -> impl Stream<Item = WorkerState> + Send {
        self.look();
        let first = self.described();
        let changes = stream::unfold(self, |mut watching| async move {
            watching.changed().await?;
            Some((watching.described(), watching))
        });
        futures_util::StreamExt::chain(stream::iter([first]), changes)
    }

    /// Follows the engines that there are now.
    fn look(&mut self) {
        self.engines = self.roster.borrow_and_update().iter().map(Watched::of).collect();
    }

    /// Waits for a change; `None` once the worker is gone.
    async fn changed(&mut self) -> Option<()> {
        let engines = self.engines.iter_mut().map(|engine| engine.changed().boxed());
        let engines: Vec<_> = engines.collect();
        let some = !engines.is_empty();
        let any_engine = async move {
            if some { select_all(engines).map(drop).await } else { std::future::pending().await }
        };
        let moved = tokio::select! {
            moved = self.roster.changed() => Some(moved.ok()?),
            changed = self.rents.changed() => { changed.ok()?; None }
            changed = self.leaving.changed() => { changed.ok()?; None }
            () = any_engine => None,
        };
        if moved.is_some() {
            self.look();
        }
        Some(())
    }

    fn described(&mut self) -> WorkerState {
        let rent = *self.rents.borrow_and_update();
        let leaving = *self.leaving.borrow_and_update();
        let left = |at: Instant| at.saturating_duration_since(Instant::now());
        let mut told = Vec::with_capacity(self.engines.len());
        for engine in &mut self.engines {
            let state = *engine.states.borrow_and_update();
            let models = engine.models.borrow_and_update().to_vec();
            told.push(Told { state, models, places: engine.places, offered: engine.offered });
        }
        let offered = || told.iter().filter(|one| one.offered);
        let loads = loads(&told);
        let error = offered().map(|one| one.state.attribution_error_ppm).max().unwrap_or(0);
        let state = WorkerState {
            incarnation: self.incarnation,
            models: offered().flat_map(|one| one.models.clone()).collect(),
            stage: leaving.stage,
            leaves_in: leaving.leaves_at.map(left),
            at_risk: leaving.at_risk,
            zone: self.zone.clone(),
            price_per_hour: rent.per_hour(),
            capacity: rent.capacity(),
            accounts: self.shifts.accounts(),
            attribution_error_ppm: error,
            ..WorkerState::default()
        };
        let all = together(&told, &loads);
        // What is told of all is told of the one.
        let loads = if told.len() > 1 { loads } else { Vec::new() };
        WorkerState { loads, ..state.loaded(all) }
    }
}

/// An engine at one moment.
struct Told {
    state: EngineState,
    models: Vec<ModelInfo>,
    places: Option<u32>,
    offered: bool,
}

impl Told {
    const fn is_at_work(&self) -> bool {
        let EngineState { running, paused, waiting, .. } = self.state;
        running > paused || waiting > 0
    }
}

/// How it stands with the models of each engine that is offered.
fn loads(told: &[Told]) -> Vec<(Vec<ModelDigest>, ModelLoad)> {
    let at_work = told.iter().filter(|one| one.is_at_work()).count();
    let of_one = |one: &Told| {
        let others = at_work - usize::from(one.is_at_work());
        let times = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        let load = load(&one.state, one.places);
        let longer = |time: Duration| time.saturating_mul(times);
        let load = ModelLoad {
            first_token_in: longer(load.first_token_in),
            prompt_token_time: longer(load.prompt_token_time),
            step_time: longer(load.step_time),
            ..load
        };
        (one.models.iter().map(|info| info.digest.clone()).collect(), load)
    };
    told.iter().filter(|one| one.offered).map(of_one).collect()
}

/// How it stands with all of them: sums, the first one's blocks, the longest times. Who is no longer offered counts for
/// what runs on it.
fn together(told: &[Told], loads: &[(Vec<ModelDigest>, ModelLoad)]) -> ModelLoad {
    let mut all = ModelLoad::default();
    for (_, load) in loads {
        all.free_blocks = all.free_blocks.saturating_add(load.free_blocks);
        all.total_blocks = all.total_blocks.saturating_add(load.total_blocks);
        if all.block_tokens == 0 {
            (all.block_tokens, all.block_bytes) = (load.block_tokens, load.block_bytes);
        }
        all.first_token_in = all.first_token_in.max(load.first_token_in);
        all.prompt_token_time = all.prompt_token_time.max(load.prompt_token_time);
        all.step_time = all.step_time.max(load.step_time);
    }
    for Told { state, .. } in told {
        all.running = all.running.saturating_add(state.running);
        all.waiting = all.waiting.saturating_add(state.waiting);
        all.running_tokens = all.running_tokens.saturating_add(state.running_tokens);
        all.waiting_tokens = all.waiting_tokens.saturating_add(state.waiting_tokens);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(running: u32, paused: u32, offered: bool) -> Told {
        let state = EngineState {
            running,
            paused,
            free_blocks: 3,
            total_blocks: 4,
            block_tokens: 32,
            step_time: Duration::from_millis(2),
            ..EngineState::default()
        };
        Told { state, models: Vec::new(), places: None, offered }
    }

    #[test]
    fn everything_takes_as_many_times_as_long_as_there_are_engines_at_work() {
        let all = [told(2, 1, true), told(1, 0, true), told(1, 1, true), told(1, 0, false)];

        let loads = loads(&all);

        let steps: Vec<u128> = loads.iter().map(|(_, load)| load.step_time.as_millis()).collect();
        assert_eq!(steps, [6, 6, 8], "who waits to be paid for takes nothing");
        let together = together(&all, &loads);
        assert_eq!((together.running, together.free_blocks, together.total_blocks), (5, 9, 12));
        assert_eq!((together.block_tokens, together.step_time), (32, Duration::from_millis(8)));
    }
}
