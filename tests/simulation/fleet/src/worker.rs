//! A simulated machine behind the worker contract, and everything that can go wrong with it.
//!
//! One task computes step after step; the streams of its sequences, its state and its prefixes are read through a link
//! that can break or fall silent. It leaves by the product's own plan, or as it is told to for comparison.
//! What it promises is the contract: an accepted sequence ends, or its stream says that the machine is gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use domain::{
    Capacity, FinishReason, IncarnationId, ModelDigest, ModelFiles, ModelInfo, Rent, Stage,
};
use futures_util::{StreamExt, stream};
use proto::{
    Event, Generation, PrefixChange, PrefixStream, Start, StateStream, Wishes, Worker, WorkerError,
    WorkerState,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::drain::{Drain, Seat};
use crate::machine::{Books, Core, Machine, Nature, gone};
use crate::mailbox::Mailbox;

/// How a machine that gets a notice leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// By the product's plan: what cannot end in time is handed over as late as it can be, the dearest first.
    Late,
    /// Everything is handed over at once.
    AtOnce,
    /// It takes nothing new and goes on until it is gone; others compute again what was lost.
    Never,
}

/// The way between the gateway and a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Link {
    #[default]
    Up,
    /// Nothing comes through, and nobody is told.
    Silent,
    /// Everything on it ended.
    Broken,
    /// The machine is gone for good.
    Gone,
}

/// A link as those see it who use it. They are told of changes in the order in which they came, in every run.
#[derive(Default)]
struct Way {
    link: Mutex<(Link, u64)>,
    bell: Notify,
}

/// How often a link had changed when it was looked at last.
#[derive(Clone, Copy)]
struct Following(u64);

/// A simulated machine.
pub(crate) struct SimulatedWorker {
    core: Mutex<Core>,
    info: ModelInfo,
    incarnation: IncarnationId,
    leave: Leave,
    drain: Arc<Drain>,
    link: Way,
    /// It computes nothing until then.
    frozen_until: Mutex<Option<Instant>>,
    /// Rings when there is something to compute.
    work: Notify,
    /// Rings when there is something to tell.
    news: watch::Sender<()>,
    /// Rings when prefixes changed.
    prefixes: Notify,
    /// Computing, and then whatever else it does.
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// A simulated machine as the gateway reaches it.
pub(crate) struct Remote(pub(crate) Arc<SimulatedWorker>);

/// Who reads a sequence, and how it is told to end.
struct Reader {
    worker: Arc<SimulatedWorker>,
    mailbox: Arc<Mailbox>,
    link: Following,
    wishes: Option<Wishes>,
    seat: Seat,
    ended: bool,
}

impl SimulatedWorker {
    pub(crate) fn start(
        number: u128,
        (machine, nature): (Machine, Nature),
        info: ModelInfo,
        leave: Leave,
    ) -> Arc<Self> {
        let core = Core::new(machine, nature, info.vocabulary);
        let worker = Arc::new(Self {
            core: Mutex::new(core),
            info,
            incarnation: IncarnationId::from_u128(number),
            leave,
            drain: Drain::new(),
            link: Way::default(),
            frozen_until: Mutex::default(),
            work: Notify::new(),
            news: watch::Sender::new(()),
            prefixes: Notify::new(),
            tasks: Mutex::default(),
        });
        let computing = Arc::clone(&worker).compute();
        worker.keep(computing);
        worker
    }

    pub(crate) fn books(&self) -> Books {
        self.core().books
    }

    pub(crate) fn nature(&self) -> Nature {
        self.core().nature
    }

    /// Sequences on it, and blocks that somebody uses.
    pub(crate) fn occupied(&self) -> (usize, usize) {
        let core = self.core();
        (core.running() + core.waiting(), core.cache.used())
    }

    /// Whether it serves, can be reached, and computes nothing.
    pub(crate) fn is_idle(&self) -> bool {
        let serving = self.drain.watch().borrow().stage == Stage::Serving;
        let up = self.link.now() == Link::Up;
        serving && up && self.occupied().0 == 0
    }

    /// Whether its machine is there at all.
    pub(crate) fn is_there(&self) -> bool {
        self.link.now() != Link::Gone
    }

    /// What it holds that it must not, in words.
    pub(crate) fn complaint(&self) -> Option<String> {
        if self.lock_tasks().first().is_some_and(AbortOnDropHandle::is_finished) {
            return Some("stopped computing".to_owned());
        }
        let core = self.core();
        let machine = &core.machine;
        let crowded = core.running() > machine.max_running
            || core.running() + core.waiting() > machine.max_running + machine.max_waiting;
        let full = core.cache.used() > machine.blocks;
        (crowded || full).then(|| {
            let (running, waiting, used) = (core.running(), core.waiting(), core.cache.used());
            format!("{running} running and {waiting} waiting in {used} blocks")
        })
    }

    /// The machine goes, and with it everything on it.
    pub(crate) fn die(&self) {
        self.core().die();
        self.set_link(Link::Gone);
        self.lock_tasks().clear();
    }

    /// It computes nothing for a while.
    pub(crate) fn freeze(&self, time: Duration) {
        let frozen = &mut *self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner);
        *frozen = Some(Instant::now() + time);
    }

    pub(crate) fn set_link(&self, link: Link) {
        self.link.set(link);
        self.prefixes.notify_one();
        self.news.send_replace(());
    }

    fn keep(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.lock_tasks().push(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    async fn compute(self: Arc<Self>) {
        let mut pushed = Instant::now();
        let mut due = Instant::now();
        loop {
            let step = self.core().plan();
            let Some(step) = step else {
                self.news.send_replace(());
                self.work.notified().await;
                due = Instant::now();
                continue;
            };
            // Timers are exact to the millisecond: what they are late is not the machine's.
            due += step.takes;
            tokio::time::sleep_until(due).await;
            while let Some(until) = self.frozen() {
                tokio::time::sleep_until(until).await;
                due = Instant::now();
            }
            let mut core = self.core();
            core.finish(&step);
            let (every, has_news) = (core.machine.push_every, core.cache.has_news());
            drop(core);
            if has_news {
                self.prefixes.notify_one();
            }
            if due >= pushed + every {
                pushed = due;
                self.news.send_replace(());
            }
        }
    }

    fn frozen(&self) -> Option<Instant> {
        let frozen = *self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner);
        frozen.filter(|until| *until > Instant::now())
    }

    fn state(&self) -> WorkerState {
        let core = self.core();
        let leaving = *self.drain.watch().borrow();
        let machine = &core.machine;
        let honest = WorkerState {
            incarnation: self.incarnation,
            models: vec![self.info.clone()],
            total_blocks: machine.blocks as u32,
            free_blocks: core.cache.free() as u32,
            running: core.running() as u32,
            waiting: core.waiting() as u32,
            stage: leaving.stage,
            leaves_in: leaving.leaves_at.map(|at| at.saturating_duration_since(Instant::now())),
            block_tokens: machine.block_tokens,
            waiting_tokens: core.waiting_tokens(),
            first_token_in: core.seat_free_in()
                + core.step_time()
                + Self::per_token(machine) * core.waiting_tokens() as u32,
            prompt_token_time: Self::per_token(machine),
            step_time: core.step_time(),
            price_per_hour: machine.price_per_hour,
            capacity: Capacity::Spot,
            ..WorkerState::default()
        };
        match core.nature {
            Nature::Boaster | Nature::Flatterer => WorkerState {
                free_blocks: honest.total_blocks,
                running: 0,
                waiting: 0,
                waiting_tokens: 0,
                first_token_in: Duration::ZERO,
                prompt_token_time: Duration::from_nanos(1),
                step_time: Duration::from_nanos(1),
                ..honest
            },
            Nature::Honest | Nature::Garbler | Nature::Staller => honest,
        }
    }

    /// What a prompt token takes, the steps that it is part of included.
    fn per_token(machine: &Machine) -> Duration {
        machine.per_prompt_token + machine.step / machine.chunk
    }

    async fn reach(&self) -> Result<Following, WorkerError> {
        let mut following = Following(0);
        if self.link.comes_through(&mut following).await {
            return Ok(following);
        }
        Err(WorkerError::Unreachable("no way to it".to_owned()))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_tasks(&self) -> MutexGuard<'_, Vec<AbortOnDropHandle<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    fn now(&self) -> Link {
        self.lock().0
    }

    fn set(&self, link: Link) {
        let mut known = self.lock();
        if known.0 != Link::Gone {
            *known = (link, known.1 + 1);
        }
        drop(known);
        self.bell.notify_waiters();
    }

    /// Waits until it is another one than when it was looked at last.
    async fn changed(&self, following: Following) {
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            if self.lock().1 != following.0 {
                return;
            }
            rung.await;
        }
    }

    /// Waits while nothing comes through; `false` if nothing ever will on what was there before.
    async fn comes_through(&self, following: &mut Following) -> bool {
        loop {
            let (link, changes) = *self.lock();
            *following = Following(changes);
            match link {
                Link::Up => return true,
                Link::Silent => self.changed(*following).await,
                Link::Broken | Link::Gone => return false,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Link, u64)> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Worker for Remote {
    async fn generate(&self, start: Start) -> Result<Generation, WorkerError> {
        let link = self.0.reach().await?;
        if start.model != self.0.info.digest {
            return Err(WorkerError::ModelNotFound(start.model));
        }
        if self.0.drain.watch().borrow().stage > Stage::Serving {
            return Err(WorkerError::Draining);
        }
        let mailbox = self.0.core().accept(&start)?;
        let seat = self.0.drain.seat(&start);
        self.0.work.notify_one();
        let worker = Arc::clone(&self.0);
        Ok(Generation::new(start.allowance, |wishes| {
            let wishes = Some(wishes);
            let reader = Reader { worker, mailbox, link, wishes, seat, ended: false };
            stream::unfold(reader, |mut reader| async move {
                let event = reader.next().await?;
                Some((event, reader))
            })
        }))
    }

    async fn watch(&self) -> Result<StateStream, WorkerError> {
        let link = self.0.reach().await?;
        let mut news = self.0.news.subscribe();
        news.mark_changed();
        let worker = Arc::clone(&self.0);
        let states =
            stream::unfold((worker, news, link), |(worker, mut news, mut link)| async move {
                tokio::select! {
                    biased;
                    () = worker.link.changed(link) => {}
                    changed = news.changed() => changed.ok()?,
                }
                if !worker.link.comes_through(&mut link).await {
                    return None;
                }
                news.mark_unchanged();
                Some((worker.state(), (worker, news, link)))
            });
        Ok(states.boxed())
    }

    async fn drain(&self, leaves_in: Option<Duration>) -> Result<(), WorkerError> {
        self.0.drain.leave(leaves_in, Duration::from_secs(30));
        self.0.news.send_replace(());
        match self.0.leave {
            Leave::Late => self.0.keep(Arc::clone(&self.0.drain).evacuate()),
            Leave::AtOnce => {
                self.0.core().hand_all_over();
                self.0.work.notify_one();
            }
            Leave::Never => {}
        }
        Ok(())
    }

    async fn set_price(&self, _: Rent) -> Result<(), WorkerError> {
        Err(WorkerError::Failed("its price is its machine's".to_owned()))
    }

    async fn model_files(&self, model: &ModelDigest) -> Result<ModelFiles, WorkerError> {
        Err(WorkerError::ModelNotFound(model.clone()))
    }

    /// For one reader at a time.
    async fn prefixes(&self) -> Result<PrefixStream, WorkerError> {
        let link = self.0.reach().await?;
        let changes = stream::unfold((Arc::clone(&self.0), link, true), |state| async move {
            let (worker, mut link, reset) = state;
            loop {
                if !worker.link.comes_through(&mut link).await {
                    return None;
                }
                let change = {
                    let mut core = worker.core();
                    let (added, removed) =
                        if reset { (core.cache.all(), Vec::new()) } else { core.cache.news() };
                    PrefixChange { reset, added, removed }
                };
                if reset || !change.added.is_empty() || !change.removed.is_empty() {
                    return Some((change, (worker, link, false)));
                }
                worker.prefixes.notified().await;
            }
        });
        Ok(changes.boxed())
    }
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = loop {
            if !self.worker.link.comes_through(&mut self.link).await {
                break gone();
            }
            tokio::select! {
                biased;
                wish = next_wish(&mut self.wishes), if self.wishes.is_some() => match wish {
                    Some((allowance, stop)) => self.pass_on(allowance, stop),
                    None => self.wishes = None,
                },
                () = self.worker.link.changed(self.link) => {}
                () = self.seat.told_to_go() => self.stop(FinishReason::Cancelled),
                event = self.mailbox.next() => break event,
            }
        };
        let event = self.seat.saw(event);
        self.ended = !matches!(event, Event::Tokens { .. });
        Some(event)
    }

    fn pass_on(&mut self, allowance: u32, stop: Option<FinishReason>) {
        self.seat.extend(allowance);
        self.mailbox.wish(|wishes| wishes.allowance = wishes.allowance.max(allowance));
        if let Some(reason) = stop {
            self.seat.stop(reason);
            self.stop(reason);
        }
        self.worker.work.notify_one();
    }

    fn stop(&self, reason: FinishReason) {
        self.mailbox.wish(|wishes| wishes.stop = wishes.stop.or(Some(reason)));
        self.worker.work.notify_one();
    }
}

impl Drop for Reader {
    /// Cancels the sequence.
    fn drop(&mut self) {
        self.mailbox.wish(|wishes| wishes.gone = true);
        self.worker.work.notify_one();
    }
}

async fn next_wish(wishes: &mut Option<Wishes>) -> Option<(u32, Option<FinishReason>)> {
    wishes.as_mut()?.next().await
}
