//! Learns what the parts of a step cost from steps and the times they took.
//!
//! Non-negative least squares on relative errors, over a memory that forgets. Sums of products of the last
//! thousand steps or so are kept, and every few steps the costs are solved anew, for every knee of a short
//! list; the knee that fits best is taken. Why not recursive least squares: it knows no bounds, and it
//! forgets what the present load says nothing about, until its answers blow up.
//!
//! - Bounded: no cost is negative or more than [`MAX_FACTOR`] times its calibrated value.
//! - Robust: a step that took much longer than predicted counts as if it had taken somewhat longer, so one
//!   outlier moves nothing and a lasting change moves everything.
//! - Anchored: what the load of the day cannot tell apart stays in the proportions of the calibration.

use domain::GpuTime;

use super::cost::Costs;
use super::work::Demand;

/// What steps cost, as learnt so far.
pub(crate) struct Fit {
    /// What each factor of a solution is a factor of.
    unit: Costs,
    costs: Costs,
    memory: Memory,
    /// One solution for each of [`KNEES`].
    solutions: [Factors; KNEES.len()],
    /// Index of the knee that calibration found.
    home: usize,
    /// Index of the solution in force.
    chosen: usize,
    error: RecentMean,
    /// Steps since the last solution.
    unsolved: u32,
}

/// Of fixed, pair, read, row and token.
type Factors = [f64; 5];

impl Fit {
    /// Begins with a guess.
    pub(crate) fn new(guess: Costs) -> Self {
        let chosen = nearest_knee(guess.knee);
        let guess = Costs { knee: KNEES[chosen], ..guess };
        Self {
            unit: guess,
            costs: guess,
            memory: Memory::default(),
            solutions: [[1.0; 5]; KNEES.len()],
            home: chosen,
            chosen,
            error: RecentMean::default(),
            unsolved: 0,
        }
    }

    pub(crate) const fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Mean error of recent predictions, relative to the time a step took; at most 1.
    pub(crate) fn error(&self) -> f64 {
        self.error.value
    }

    /// Begins anew with measured steps.
    pub(crate) fn calibrate(&mut self, steps: &[(Demand, GpuTime)]) {
        let mut paces: Vec<f64> = steps.iter().map(|step| self.pace(step)).collect();
        let middle = paces.len() / 2;
        if paces.is_empty() {
            return;
        }
        let (_, pace, _) = paces.select_nth_unstable_by(middle, f64::total_cmp);
        self.unit = self.unit.times([*pace; 5]);
        self.costs = self.unit;
        for bound in CALIBRATION_BOUNDS {
            self.memory = Memory::default();
            for (demand, time) in steps {
                self.take_in(demand, time.nanos() as f64, bound);
            }
            // Calibration is made to tell knees apart.
            self.solve(0.0);
        }
        // From here on, what was measured is the unit; a cost that did not show keeps a trace of its guess.
        let floor = self.unit.times([LEAST_FACTOR; 5]);
        self.unit = self.costs.at_least(&floor);
        let chosen = self.costs.over(&self.unit);
        self.solutions = [chosen; KNEES.len()];
        self.home = self.chosen;
        self.memory = Memory::default();
        self.error = RecentMean::default();
        for (demand, time) in steps {
            self.note_error(demand, time.nanos() as f64);
        }
    }

    /// Learns from a step.
    pub(crate) fn learn(&mut self, demand: &Demand, time: GpuTime) {
        let nanos = time.nanos() as f64;
        self.note_error(demand, nanos);
        let bound = (ERRORS_TO_BOUND * self.error.value).clamp(LEAST_BOUND, LARGEST_BOUND);
        self.memory.fade();
        self.take_in(demand, nanos, bound);
        self.unsolved += 1;
        if self.unsolved >= STEPS_PER_SOLUTION {
            self.solve(LEAST_GAIN + GAIN_STEPS / self.memory.steps);
            self.unsolved = 0;
        }
    }

    fn pace(&self, (demand, time): &(Demand, GpuTime)) -> f64 {
        time.nanos() as f64 / self.costs.predict(demand)
    }

    fn note_error(&mut self, demand: &Demand, nanos: f64) {
        let off = (nanos - self.costs.predict(demand)).abs();
        self.error.note((off / nanos.max(1.0)).min(1.0));
    }

    /// Remembers a step in units of its predicted time, which it exceeds or misses by `bound` at most.
    fn take_in(&mut self, demand: &Demand, nanos: f64, bound: f64) {
        let predicted = self.costs.predict(demand).max(1.0);
        let Costs { fixed, token, pair, read, row, .. } = self.unit;
        let mut parts = [0.0; COLUMNS];
        parts[0] = fixed;
        parts[1] = pair * demand.pairs;
        parts[2] = read * demand.reads;
        parts[3] = row * demand.rows;
        for (part, knee) in parts[4..].iter_mut().zip(KNEES) {
            *part = token * knee.max(demand.tokens);
        }
        for part in &mut parts {
            *part /= predicted;
        }
        let least = (1.0 - bound).max(LEAST_RATIO);
        self.memory.add(&parts, (nanos / predicted).clamp(least, 1.0 + bound));
    }

    /// Finds the costs that fit the memory best. Another knee than that of the calibration has to explain a
    /// part of `gain` more, and so has one that takes another's place: knees that fit almost equally well, or
    /// by chance, do not take turns.
    fn solve(&mut self, gain: f64) {
        let mut losses = [0.0; KNEES.len()];
        for (knee, factors) in self.solutions.iter_mut().enumerate() {
            losses[knee] = self.memory.system(knee).solve(factors);
        }
        let order = |a: &usize, b: &usize| losses[*a].total_cmp(&losses[*b]);
        let best = (0..KNEES.len()).min_by(order).unwrap_or(self.chosen);
        let gains = |over: usize| losses[best] < losses[over] * (1.0 - gain);
        if !gains(self.home) {
            self.chosen = self.home;
        } else if gains(self.chosen) {
            self.chosen = best;
        }
        self.costs = self.unit.times(self.solutions[self.chosen]);
        self.costs.knee = KNEES[self.chosen];
    }
}

impl Costs {
    fn times(&self, [fixed, pair, read, row, token]: Factors) -> Self {
        Self {
            fixed: self.fixed * fixed,
            pair: self.pair * pair,
            read: self.read * read,
            row: self.row * row,
            token: self.token * token,
            knee: self.knee,
        }
    }

    fn at_least(&self, floor: &Self) -> Self {
        Self {
            fixed: self.fixed.max(floor.fixed),
            pair: self.pair.max(floor.pair),
            read: self.read.max(floor.read),
            row: self.row.max(floor.row),
            token: self.token.max(floor.token),
            knee: self.knee,
        }
    }

    fn over(&self, unit: &Self) -> Factors {
        let Self { fixed, pair, read, row, token, knee: _ } = *self;
        [fixed / unit.fixed, pair / unit.pair, read / unit.read, row / unit.row, token / unit.token]
    }
}

/// Sums of products over the steps remembered: fixed, pair, read and row, and a column for each knee.
#[derive(Default)]
struct Memory {
    products: [[f64; COLUMNS]; COLUMNS],
    moments: [f64; COLUMNS],
    squares: f64,
    /// Steps remembered, as far as they still count.
    steps: f64,
}

/// The part of a memory that one knee is solved from.
struct System {
    products: [[f64; 5]; 5],
    moments: Factors,
    squares: f64,
}

impl Memory {
    /// Makes what is remembered count a little less.
    fn fade(&mut self) {
        for row in &mut self.products {
            for product in row {
                *product *= FADING;
            }
        }
        for moment in &mut self.moments {
            *moment *= FADING;
        }
        self.squares *= FADING;
        self.steps *= FADING;
    }

    /// Remembers that these parts took `time` together.
    fn add(&mut self, parts: &[f64; COLUMNS], time: f64) {
        for (row, part) in self.products.iter_mut().zip(parts) {
            for (product, other) in row.iter_mut().zip(parts) {
                *product += part * other;
            }
        }
        for (moment, part) in self.moments.iter_mut().zip(parts) {
            *moment += part * time;
        }
        self.squares += time * time;
        self.steps += 1.0;
    }

    fn system(&self, knee: usize) -> System {
        let columns = [0, 1, 2, 3, 4 + knee];
        System {
            products: columns.map(|row| columns.map(|column| self.products[row][column])),
            moments: columns.map(|column| self.moments[column]),
            squares: self.squares,
        }
    }
}

impl System {
    /// Improves `factors` until they fit best; the squared error that is left.
    fn solve(&self, factors: &mut Factors) -> f64 {
        let anchor = self.anchor();
        for _ in 0..MAX_SWEEPS {
            let mut largest = 0.0_f64;
            for at in 0..factors.len() {
                let others = dot(&self.products[at], factors) - self.products[at][at] * factors[at];
                let wanted = self.moments[at] + ANCHOR_WEIGHT * anchor - others;
                let wanted = wanted / (self.products[at][at] + ANCHOR_WEIGHT);
                let wanted = wanted.clamp(0.0, MAX_FACTOR);
                largest = largest.max((wanted - factors[at]).abs());
                factors[at] = wanted;
            }
            if largest < CLOSE_ENOUGH {
                break;
            }
        }
        self.loss(factors, anchor)
    }

    /// The one factor that would fit best if there were only one: the pace of the machine now.
    fn anchor(&self) -> f64 {
        let all: f64 = self.products.iter().flatten().sum();
        let moments: f64 = self.moments.iter().sum();
        (moments + ANCHOR_WEIGHT) / (all + ANCHOR_WEIGHT)
    }

    fn loss(&self, factors: &Factors, anchor: f64) -> f64 {
        let explained: f64 =
            self.products.iter().zip(factors).map(|(row, factor)| dot(row, factors) * factor).sum();
        let strain: f64 = factors.iter().map(|factor| (factor - anchor).powi(2)).sum();
        self.squares - 2.0 * dot(&self.moments, factors) + explained + ANCHOR_WEIGHT * strain
    }
}

/// The mean of the recent past: of everything at first, later mostly of the last [`Self::WINDOW`] values.
#[derive(Default)]
struct RecentMean {
    value: f64,
    count: f64,
}

impl RecentMean {
    const WINDOW: f64 = 256.0;

    fn note(&mut self, value: f64) {
        self.count = (self.count + 1.0).min(Self::WINDOW);
        self.value += (value - self.value) / self.count;
    }
}

fn dot(a: &Factors, b: &Factors) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn nearest_knee(knee: f64) -> usize {
    KNEES.iter().position(|&known| known >= knee).unwrap_or(KNEES.len() - 1)
}

/// Tokens at which streaming the weights may stop being what takes the time.
const KNEES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];
const COLUMNS: usize = 4 + KNEES.len();

/// A thousand steps are remembered, roughly: seconds on a small model, minutes on a large one.
const FADING: f64 = 1.0 - 1.0 / 1024.0;
const STEPS_PER_SOLUTION: u32 = 16;

/// A step counts as at most so many mean errors off its prediction, within these limits.
const ERRORS_TO_BOUND: f64 = 4.0;
const LEAST_BOUND: f64 = 0.25;
const LARGEST_BOUND: f64 = 2.0;
const LEAST_RATIO: f64 = 0.1;
/// The same while calibrating: the guess may be far off, what comes after it is not.
const CALIBRATION_BOUNDS: [f64; 5] = [9.0, 2.0, 1.0, 0.5, 0.5];

/// How many steps' worth the proportions of the calibration are.
const ANCHOR_WEIGHT: f64 = 0.1;
const MAX_FACTOR: f64 = 1_000.0;
const LEAST_FACTOR: f64 = 0.05;
/// What another knee has to explain more of the error that is left: a little, and what chance explains.
const LEAST_GAIN: f64 = 0.02;
const GAIN_STEPS: f64 = 16.0;
const MAX_SWEEPS: u32 = 100;
const CLOSE_ENOUGH: f64 = 1e-6;

#[cfg(test)]
mod tests;
