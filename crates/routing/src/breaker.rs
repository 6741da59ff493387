//! When a worker that fails is left alone, and when it is tried again.
//!
//! It is left alone after so many failures in a row, or when too large a part of what it did lately failed.
//! After a pause, which doubles each time, one sequence probes it: if that succeeds all is forgotten.
//! Pure: time is handed in.

use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub consecutive: u32,
    /// The part of recent sequences, in percent, whose failure opens it.
    pub ratio_percent: u32,
    /// Recent sequences below which the ratio says nothing.
    pub min_sequences: u32,
    /// What is recent.
    pub window: Duration,
    /// The first pause before a probe.
    pub pause: Duration,
    /// The longest pause.
    pub max_pause: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            consecutive: 3,
            ratio_percent: 50,
            min_sequences: 10,
            window: Duration::from_secs(20),
            pause: Duration::from_secs(1),
            max_pause: Duration::from_mins(1),
        }
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// One sequence, to see.
    HalfOpen,
}

impl BreakerState {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The breaker of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    in_a_row: u32,
    /// Successes and failures in this half of the window and in the one before.
    halves: [(u32, u32); 2],
    half_began: Instant,
    opened: Option<Opened>,
}

#[derive(Clone, Copy, Debug)]
struct Opened {
    until: Instant,
    pause: Duration,
    /// A probe is under way since then.
    probing: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings, now: Instant) -> Self {
        Self { settings, in_a_row: 0, halves: [(0, 0); 2], half_began: now, opened: None }
    }

    /// From now on these settings hold; what was seen is not forgotten.
    pub(crate) const fn reconfigure(&mut self, settings: BreakerSettings) {
        self.settings = settings;
    }

    /// What it lets through now.
    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.opened {
            None => BreakerState::Closed,
            Some(opened) if now < opened.until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Whether a sequence may be sent now.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let Some(opened) = self.opened else { return true };
        // A probe of which nothing was heard again must not keep the worker out for ever.
        let free = opened.probing.is_none_or(|since| now >= since + self.settings.max_pause);
        now >= opened.until && free
    }

    /// A sequence is sent; the first one after a pause is the probe. `false` if it may not be.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let admits = self.admits(now);
        if let (true, Some(opened)) = (admits, &mut self.opened) {
            opened.probing = Some(now);
        }
        admits
    }

    /// What was sent came to nothing that speaks for or against the worker: it was full, say.
    pub(crate) fn pass(&mut self) {
        if let Some(opened) = &mut self.opened {
            opened.probing = None;
        }
    }

    /// A sequence went well.
    pub(crate) fn succeed(&mut self, now: Instant) {
        self.turn(now);
        self.in_a_row = 0;
        self.halves[0].0 += 1;
        // What was sent before it opened says nothing of the time since.
        if self.opened.is_some_and(|opened| opened.probing.is_some()) {
            *self = Self::new(self.settings, now);
        }
    }

    /// A sequence failed by the worker's fault. Whether that opened it.
    pub(crate) fn fail(&mut self, now: Instant) -> bool {
        self.turn(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.halves[0].1 += 1;
        if let Some(opened) = &mut self.opened {
            if opened.probing.take().is_none() {
                return false;
            }
            opened.pause = (opened.pause * 2).min(self.settings.max_pause);
            opened.until = now + opened.pause;
            return true;
        }
        if !self.is_too_much() {
            return false;
        }
        let pause = self.settings.pause;
        self.opened = Some(Opened { until: now + pause, pause, probing: None });
        true
    }

    fn is_too_much(&self) -> bool {
        let [(good, bad), (good_before, bad_before)] = self.halves;
        let (good, bad) = (good + good_before, bad + bad_before);
        let (all, percent) = (u64::from(good + bad), u64::from(self.settings.ratio_percent));
        let ratio =
            all >= u64::from(self.settings.min_sequences) && u64::from(bad) * 100 >= all * percent;
        self.in_a_row >= self.settings.consecutive || ratio
    }

    fn turn(&mut self, now: Instant) {
        let half = self.settings.window / 2;
        let passed = now.saturating_duration_since(self.half_began);
        if passed < half {
            return;
        }
        let before = if passed < half * 2 { self.halves[0] } else { (0, 0) };
        self.halves = [(0, 0), before];
        self.half_began = now;
    }
}

#[cfg(test)]
mod tests;
