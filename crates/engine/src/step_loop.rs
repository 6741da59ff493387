//! The step thread: obey, admit, settle, schedule, compute, sample, send; again.
//!
//! Sequences in a format have guides that work beside the steps. Between steps they are settled: what a guide
//! has found out by now is done. A step waits for a guide only if the logits are there and the mask is not, for
//! a moment at most and once for each token (see `masks`); then the sequence sits out until its guide rings. All of
//! that is the platform's time, not the sequences'.
//!
//! Blocks are taken as sequences grow, and a running sequence may have to give way (see `seats`).
//!
//! Promise: a stop or a cancel is obeyed at the next step boundary, and every lap of the clock is booked:
//! the time of a step is split over its sequences, as far as it is theirs, and everything else is ours. A sequence
//! fails alone.

mod attempt;
mod calibration;
mod courtesy;
mod drafts;
mod masks;
mod order;
mod patience;
mod seats;

use drafts::Guessing;
use order::order;
use patience::Patience;

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::{BlockNames, CacheSalt, FinishReason, GpuTime, ModelInfo};
use tokio::sync::watch;

use crate::attribution::{Attribution, Work};
use crate::blocks::BlockPool;
use crate::errands::Errands;
use crate::expectation::{Expectation, steps_to_place};
use crate::fair::Standings;
use crate::grammar::Guides;
use crate::inbox::{Inbox, Orders};
use crate::ledger::Ledger;
use crate::lots::{Bench, Drawn, Lot, cut};
use crate::mask_times::Recent;
use crate::models::{Decoder, KvCache};
use crate::names::Names;
use crate::ops::Pool;
use crate::prefixes::Prefixes;
use crate::running::{End, Outcome, Running, Turnover};
use crate::schedule::{Budget, Need, Turn, schedule};
use crate::sequence::{Outlet, wake_interval};
use crate::shifts::{Shift, Shifts};
use crate::step::{Blocks, Step};
use crate::{EngineConfig, EngineError, EngineState, Failure, MaskTimes, Model};

/// What the step thread shares with its handles.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) guides: Arc<Guides>,
    pub(crate) prefixes: Arc<Prefixes>,
    pub(crate) errands: Arc<Errands>,
}

/// Everything the step thread owns. Dropping it fails the sequences it still holds.
pub(crate) struct StepLoop {
    decoder: Box<dyn Decoder>,
    info: ModelInfo,
    attribution: Attribution,
    cache: KvCache,
    threads: Pool,
    alone: Pool,
    blocks: BlockPool,
    config: EngineConfig,
    inbox: Arc<Inbox>,
    orders: Orders,
    /// In order of their first admission.
    running: Vec<Running>,
    /// Those that gave way and wait to come back.
    away: Vec<Running>,
    /// Sequences admitted so far.
    admitted: u64,
    expectation: Expectation,
    prefixes: Arc<Prefixes>,
    errands: Arc<Errands>,
    ledger: Ledger,
    turnover: Turnover,
    guides: Arc<Guides>,
    masks: Recent,
    mask_waits: Recent,
    patience: Patience,
    standings: Standings,
    guessing: Guessing,
    /// Steps in a row that somebody sat out for others.
    sat_out: u32,
    /// Steps begun.
    steps: u64,
    produced: u64,
    /// The mean over some recent steps.
    step_time: Duration,
    report: watch::Sender<EngineState>,
    reported: Instant,
    shift: Shift,
}

impl StepLoop {
    pub(crate) fn new(
        model: Model,
        config: EngineConfig,
        shared: Shared,
        report: watch::Sender<EngineState>,
    ) -> Result<Self, EngineError> {
        let Shared { inbox, guides, prefixes, errands } = shared;
        let (decoder, info) = model.into_parts();
        let block_bytes = decoder.shape().kv_bytes_per_token() * u64::from(config.block_tokens);
        let total = config.kv_blocks.unwrap_or_else(|| {
            let bytes = config.kv_bytes.unwrap_or(EngineConfig::LEAST_KV_BYTES);
            u32::try_from(bytes / block_bytes).unwrap_or(u32::MAX)
        });
        if total == 0 {
            let problem = format!("must hold at least one block of {block_bytes} bytes");
            return Err(EngineError::Setting { setting: "kv_bytes", problem });
        }
        let cache = KvCache::new(decoder.shape(), total, config.block_tokens)
            .map_err(|error| EngineError::Start(error.to_string()))?;
        let pool =
            |threads| Pool::new(threads).map_err(|error| EngineError::Start(error.to_string()));
        let (threads, alone) = (pool(config.compute_threads)?, pool(1)?);
        Ok(Self {
            attribution: Attribution::new(&decoder.shape().arithmetic()),
            decoder,
            info,
            cache,
            threads,
            alone,
            blocks: BlockPool::new(total),
            config,
            inbox,
            orders: Orders::default(),
            running: Vec::new(),
            away: Vec::new(),
            admitted: 0,
            expectation: Expectation::careful(),
            prefixes,
            errands,
            ledger: Ledger::new(),
            turnover: Turnover::new(),
            guides,
            masks: Recent::default(),
            mask_waits: Recent::default(),
            patience: Patience::default(),
            standings: Standings::default(),
            guessing: Guessing::new(),
            sat_out: 0,
            steps: 0,
            produced: 0,
            step_time: Duration::ZERO,
            report,
            reported: Instant::now(),
            shift: Shifts::default().join(),
        })
    }

    /// The same beside the other engines of `shifts`.
    pub(crate) fn beside(mut self, shifts: &Shifts) -> Self {
        self.shift = shifts.join();
        self
    }

    /// Prompt plus output at most: the context, or all of the cache if that is smaller.
    pub(crate) fn max_tokens(&self) -> u32 {
        let cached = self.blocks.total().saturating_mul(self.config.block_tokens);
        self.info.context_length.min(cached)
    }

    /// Steps until the engine is shut down.
    pub(crate) fn run(mut self) {
        self.shift.take();
        // The time from here on is accounted for.
        self.ledger = Ledger::new();
        self.calibrate();
        while self.pass() {}
    }

    /// Looks at everything once and computes a step, or waits for something to do; whether to go on.
    fn pass(&mut self) -> bool {
        self.shift.let_others_go_first(&mut self.ledger);
        self.orders = self.inbox.orders();
        self.ledger.write_off(self.orders.written_off);
        if self.orders.shutdown {
            self.ledger.book_overhead();
            self.tell(&[], true);
            return false;
        }
        self.obey();
        self.run_errands();
        self.admit();
        if self.settle() {
            // Somebody may wait for the places that have become free.
            return true;
        }
        self.catch_up();
        self.grow();
        let mut needs = self.needs();
        let ranks = self.ranks(&needs);
        self.sit_out(&mut needs, &ranks);
        let mut turns = schedule(&needs, &order(&ranks), self.bounds(&needs, &ranks));
        self.draft(&mut turns);
        self.prefixes.tell(&self.blocks.changes());
        self.ledger.book_overhead();
        self.tell(&needs, turns.is_empty());
        if turns.is_empty() {
            self.rest();
        } else {
            self.step(&turns);
        }
        true
    }

    /// Waits for something to do.
    fn rest(&mut self) {
        self.ledger.book_overhead();
        self.shift.tell(self.ledger.accounts(), self.ledger.mark());
        let alone = self.shift.rest();
        self.inbox.wait();
        self.shift.take();
        // What it waits for a guide is its own, but only where no other engine may have claimed the same time.
        if self.shift.is_still(alone) && self.running.iter_mut().any(Running::waits_for_guide) {
            self.ledger.book_overhead();
        } else {
            self.ledger.book_idle();
        }
    }

    const fn budget(&self) -> Budget {
        let EngineConfig { step_tokens, prefill_chunk, .. } = self.config;
        Budget { step_tokens, prefill_chunk }
    }

    /// Ends the sequences whose readers asked for it, waiting ones included.
    fn obey(&mut self) {
        for arrival in self.inbox.take_stopped(|arrival| arrival.outlet.wish().stop.is_some()) {
            let reason = arrival.outlet.wish().stop.unwrap_or(FinishReason::Cancelled);
            self.conclude(arrival.outlet, End::Finished(reason));
        }
        let mut index = 0;
        while index < self.running.len() {
            match self.running[index].obey() {
                Some(reason) => self.end(index, End::Finished(reason)),
                None => index += 1,
            }
        }
        let mut index = 0;
        while index < self.away.len() {
            match self.away[index].obey() {
                Some(reason) => {
                    let running = self.away.remove(index);
                    self.conclude(running.outlet, End::Finished(reason));
                }
                None => index += 1,
            }
        }
    }

    /// Does some of what others ask of the cache.
    fn run_errands(&mut self) {
        let began = Instant::now();
        while let Some((errand, more)) = self.errands.take() {
            errand.run(&self.cache, &mut self.blocks);
            if more && began.elapsed() >= ERRANDS_TIME {
                self.inbox.ring();
                return;
            }
        }
    }

    /// A name for each block of a text of this salt.
    pub(crate) fn names(&self, salt: CacheSalt) -> Names {
        let block_tokens = self.config.block_tokens;
        Names::new(BlockNames::new(&self.info.digest, salt, block_tokens), block_tokens)
    }

    /// Does what the guides of sequences have found out; whether that was the end of some.
    fn settle(&mut self) -> bool {
        let began = Instant::now();
        self.wait_for_masks();
        let interval = wake_interval(self.running.len());
        let (mut ended, mut masks) = (Vec::new(), 0);
        for (sequence, running) in self.running.iter_mut().enumerate() {
            if let Some(took) = running.guide_took() {
                self.masks.note(took);
                masks += 1;
            }
            let before = running.outlet.usage().completion_tokens;
            let outcome = running.settle(&self.info.stop_tokens, interval);
            self.produced += u64::from(running.outlet.usage().completion_tokens - before);
            if let Outcome::Ended(end) = outcome {
                ended.push((sequence, end));
            }
        }
        let some_ended = !ended.is_empty();
        self.end_all(ended);
        if masks > 0 {
            self.mask_waits.note(began.elapsed());
        }
        some_ended
    }

    /// Computes and sends one step.
    fn step(&mut self, turns: &[Turn]) {
        self.ledger.book_overhead();
        self.begin(turns);
        let drawn = self.attempt(turns);
        for (turn, drawn) in turns.iter().zip(&drawn) {
            if !matches!(drawn, Some(Err(_))) {
                self.running[turn.sequence].show_blocks(&mut self.blocks);
            }
        }
        self.send(turns, drawn);
    }

    /// Ends the wait of sequences whose first step begins.
    fn begin(&mut self, turns: &[Turn]) {
        self.steps += 1;
        for turn in turns {
            let running = &mut self.running[turn.sequence];
            running.place.take_turn(self.steps, self.ledger.mark());
            let outlet = &mut running.outlet;
            if outlet.waits() {
                outlet.begin(self.ledger.mark());
            }
        }
    }

    /// One entry for each turn, with a token if it sampled one.
    fn compute(&mut self, turns: &[Turn], works: &[Work]) -> Drawn {
        let tokens: Vec<u32> = turns.iter().map(|turn| turn.tokens).collect();
        let block_tokens = self.config.block_tokens;
        let mut running: Vec<_> = self.running.iter_mut().map(Some).collect();
        let mut lots = Vec::new();
        for range in cut(&tokens, self.config.compute_threads) {
            let (turns, works) = (&turns[range.clone()], &works[range]);
            let taken = turns.iter().filter_map(|turn| running[turn.sequence].take());
            let taken: Vec<&mut Running> = taken.collect();
            let mut step = Step::default();
            for (running, turn) in taken.iter().zip(turns) {
                let (tokens, first, sampled) = running.turn(turn.tokens);
                let blocks = Blocks { table: &running.blocks, block_tokens };
                step.push(tokens, first, blocks, u32::from(sampled) + running.drafted());
                if let Some(adapter) = &running.adapter {
                    step.adapt(adapter, turn.tokens);
                }
            }
            lots.push(Lot { step, turns, works, running: taken });
        }
        let bench = Bench {
            decoder: self.decoder.as_ref(),
            cache: &self.cache,
            vocabulary: self.info.vocabulary as usize,
            stop_tokens: &self.info.stop_tokens,
            threads: &self.threads,
            alone: &self.alone,
        };
        bench.compute(lots)
    }

    /// Sends the tokens of a step, and ends the sequences that end with it.
    fn send(&mut self, turns: &[Turn], drawn: Drawn) {
        let interval = wake_interval(self.running.len());
        let mut ended = Vec::new();
        for (turn, drawn) in turns.iter().zip(drawn) {
            let Some(drawn) = drawn else { continue };
            let running = &mut self.running[turn.sequence];
            let before = running.outlet.usage().completion_tokens;
            let (outcome, trial) = running.accept_all(drawn, &self.info.stop_tokens, interval);
            self.produced += u64::from(running.outlet.usage().completion_tokens - before);
            self.settle_draft(turn.sequence, trial);
            if let Outcome::Ended(end) = outcome {
                ended.push((turn.sequence, end));
            }
        }
        self.end_all(ended);
    }

    fn end_all(&mut self, mut ended: Vec<(usize, End)>) {
        // From the back, so that the indices in front stay right.
        ended.sort_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        for (sequence, end) in ended {
            self.end(sequence, end);
        }
    }

    /// Takes a sequence out and gives its blocks back before its reader hears of it.
    fn end(&mut self, index: usize, end: End) {
        let mut running = self.running.remove(index);
        self.standings.expect_no_more(&mut running.place);
        let (produced, limit) = running.output();
        self.expectation.ended(produced, limit);
        if matches!(end, End::Failed(Failure::NotANumber { .. } | Failure::Forward(_))) {
            self.blocks.distrust(&running.blocks);
        }
        self.blocks.give_back(&running.blocks);
        self.inbox.hint(self.turnover.note());
        self.conclude(running.outlet, end);
    }

    /// Sends the last event; writes the sequence's time off if nobody reads any more, or if it was waived.
    fn conclude(&mut self, outlet: Outlet, end: End) {
        let written_off = match end {
            End::Finished(reason) => outlet.finish(reason),
            End::Failed(failure) => outlet.fail(failure),
        };
        self.ledger.write_off(written_off);
    }

    /// Reports the state if something but the time changed, if the last report is old, or if `now`.
    fn tell(&mut self, needs: &[Need], now: bool) {
        let (waiting, waiting_prompts) = self.inbox.waiting();
        let all = self.running.iter().chain(&self.away);
        let prompts_left: u64 = all.map(|running| u64::from(running.prompt_left())).sum();
        let running_tokens = self.running.iter().map(|running| u64::from(running.computed())).sum();
        let mask_times = if now || self.reported.elapsed() >= REPORT_INTERVAL {
            self.mask_times()
        } else {
            self.report.borrow().mask_times
        };
        let state = EngineState {
            free_blocks: self.free_blocks(),
            cached_blocks: self.blocks.known(),
            total_blocks: self.blocks.total(),
            block_tokens: self.config.block_tokens,
            block_bytes: self.decoder.shape().kv_bytes_per_token()
                * u64::from(self.config.block_tokens),
            running_tokens,
            running: self.running.len() as u32,
            paused: needs.iter().filter(|need| need.paused).count() as u32,
            waiting: waiting + self.away.len() as u32,
            waiting_tokens: waiting_prompts + prompts_left,
            prompt_token_time: duration(self.attribution.saved(COMMON_PROMPT)) / COMMON_PROMPT,
            place_in: self.place_in(waiting + self.away.len() as u32),
            step_time: self.step_time,
            draining: self.orders.draining,
            produced_tokens: self.produced,
            accounts: self.ledger.accounts(),
            attribution_error_ppm: self.attribution.error_ppm(),
            mask_times,
            drafted_tokens: self.guessing.drafted,
            accepted_tokens: self.guessing.accepted,
        };
        let last = *self.report.borrow();
        let queues = |state: &EngineState| {
            (state.free_blocks, state.running, state.paused, state.waiting, state.draining)
        };
        if now || queues(&last) != queues(&state) || self.reported.elapsed() >= REPORT_INTERVAL {
            // First, so that whoever hears of the one finds the other.
            self.shift.tell(self.ledger.accounts(), self.ledger.mark());
            self.report.send_replace(state);
            self.reported = Instant::now();
        }
    }
}

impl StepLoop {
    /// After how long a sequence that came now would have a place, where so many wait before it.
    fn place_in(&self, waiting: u32) -> Duration {
        let is_room = self.running.len() < self.config.max_sequences as usize;
        if waiting == 0 && is_room && self.free_blocks() > 0 {
            return Duration::ZERO;
        }
        let left = |running: &Running| self.expectation.of(running.demand().left).max(1);
        let mut left: Vec<u32> = self.running.iter().map(left).collect();
        self.step_time.saturating_mul(steps_to_place(&mut left, waiting))
    }

    fn mask_times(&self) -> MaskTimes {
        let (mean, p99) = self.masks.mean_and_p99();
        let (added_mean, added_p99) = self.mask_waits.mean_and_p99();
        MaskTimes { masks: self.masks.count(), mean, p99, added_mean, added_p99 }
    }
}

impl Drop for StepLoop {
    fn drop(&mut self) {
        self.inbox.close();
        self.errands.close();
        self.prefixes.close();
    }
}

const fn duration(time: GpuTime) -> Duration {
    Duration::from_nanos(time.nanos())
}

/// How long a step waits for what others ask of the cache; a block takes some microseconds of that.
const ERRANDS_TIME: Duration = Duration::from_millis(1);
const REPORT_INTERVAL: Duration = Duration::from_millis(50);
/// Tokens of a prompt by which prompts are measured.
const COMMON_PROMPT: u32 = 512;

#[cfg(test)]
mod tests;
