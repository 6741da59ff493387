use super::super::cost::tests::DEMO;
use super::super::work::{Phase, Work};
use super::*;
use crate::random;

/// A machine with known costs and seeded noise.
struct Machine {
    costs: Costs,
    /// Largest error of a measurement, relative.
    noise: f64,
    draws: u32,
}

impl Machine {
    fn new(costs: Costs, noise: f64) -> Self {
        Self { costs, noise, draws: 0 }
    }

    fn draw(&mut self) -> f64 {
        self.draws += 1;
        random::uniform(7, self.draws)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.draw() * f64::from(end)) as u32
    }

    /// A step of a mixed load: streams at any context, now and then with a piece of a prompt.
    fn step(&mut self) -> Demand {
        let mut works = Vec::new();
        for _ in 0..=self.below(12) {
            let first = self.below(2_000);
            works.push(Work {
                tokens: 1,
                first,
                sampled: true,
                phase: Phase::Decode,
                extra: 0,
                drafted: 0,
            });
        }
        if self.below(3) == 0 {
            let (tokens, first) = (1 + self.below(64), self.below(1_500));
            works.push(Work {
                tokens,
                first,
                sampled: false,
                phase: Phase::Prefill,
                extra: 0,
                drafted: 0,
            });
        }
        Demand::of(&works)
    }

    fn time(&mut self, demand: &Demand) -> GpuTime {
        let off = 1.0 + self.noise * (2.0 * self.draw() - 1.0);
        GpuTime::from_nanos((self.costs.predict(demand) * off) as u64)
    }

    fn teach(&mut self, fit: &mut Fit, steps: u32) {
        for _ in 0..steps {
            let demand = self.step();
            fit.learn(&demand, self.time(&demand));
            assert_sane(fit.costs());
        }
    }

    /// Mean error of the fit against the truth, on steps it has not seen.
    fn error_of(&mut self, fit: &Fit) -> f64 {
        let mut sum = 0.0;
        for _ in 0..500 {
            let demand = self.step();
            let (truth, said) = (self.costs.predict(&demand), fit.costs().predict(&demand));
            sum += (said - truth).abs() / truth;
        }
        sum / 500.0
    }
}

/// Nothing like the guess for [`DEMO`] in any proportion.
const TRUE_COSTS: Costs =
    Costs { fixed: 400_000.0, token: 60_000.0, knee: 8.0, pair: 90.0, read: 400.0, row: 20_000.0 };

fn untaught() -> Fit {
    Fit::new(Costs::guess(&DEMO))
}

fn assert_sane(costs: &Costs) {
    let Costs { fixed, token, knee, pair, read, row } = *costs;
    for cost in [fixed, token, knee, pair, read, row] {
        assert!(cost >= 0.0 && cost.is_finite(), "{costs:?}");
    }
}

#[test]
fn the_costs_of_a_machine_are_found_under_noise() {
    let mut machine = Machine::new(TRUE_COSTS, 0.05);
    let mut fit = untaught();
    assert!(machine.error_of(&fit) > 0.3, "the guess is far off");

    machine.teach(&mut fit, 4_000);

    assert!(machine.error_of(&fit) < 0.01, "{} with {:?}", machine.error_of(&fit), fit.costs());
    let Costs { token, knee, pair, row, .. } = *fit.costs();
    assert_eq!(knee, 8.0);
    for (found, truth) in [(token, 60_000.0), (pair, 90.0), (row, 20_000.0)] {
        assert!((found - truth).abs() < 0.2 * truth, "{found}, not {truth}: {:?}", fit.costs());
    }
    // Noise of up to 5 % either way is 2.5 % off on average.
    assert!((0.02..0.03).contains(&fit.error()), "{}", fit.error());
}

#[test]
fn what_costs_nothing_is_never_found_to_pay_us() {
    let costs = Costs { fixed: 0.0, read: 0.0, row: 0.0, ..TRUE_COSTS };
    let mut machine = Machine::new(costs, 0.2);
    let mut fit = untaught();

    // Every solution on the way is looked at.
    machine.teach(&mut fit, 4_000);

    assert!(machine.error_of(&fit) < 0.05, "{} with {:?}", machine.error_of(&fit), fit.costs());
}

#[test]
fn an_outlier_moves_nothing_that_matters() {
    let mut machine = Machine::new(TRUE_COSTS, 0.02);
    let mut fit = untaught();
    machine.teach(&mut fit, 4_000);
    let before = machine.error_of(&fit);

    let demand = machine.step();
    fit.learn(&demand, GpuTime::from_nanos(60_000_000_000));
    machine.teach(&mut fit, 16);

    assert!(machine.error_of(&fit) < before + 0.005, "{} after {before}", machine.error_of(&fit));
    assert!(fit.error() < 0.02, "one step counts once: {}", fit.error());
}

#[test]
fn a_machine_that_slows_down_for_good_is_followed() {
    let mut machine = Machine::new(TRUE_COSTS, 0.02);
    let mut fit = untaught();
    machine.teach(&mut fit, 4_000);

    machine.costs = TRUE_COSTS.times([3.0; 5]);
    machine.costs.pair *= 2.0;
    machine.teach(&mut fit, 8_000);

    assert!(machine.error_of(&fit) < 0.03, "{} with {:?}", machine.error_of(&fit), fit.costs());
}

#[test]
fn what_a_load_says_nothing_about_returns_to_its_proportion() {
    let mut machine = Machine::new(TRUE_COSTS, 0.02);
    let mut fit = untaught();
    machine.teach(&mut fit, 4_000);
    let taught: Vec<(Demand, GpuTime)> = (0..40)
        .map(|_| machine.step())
        .map(|demand| (demand, GpuTime::from_nanos(TRUE_COSTS.predict(&demand) as u64)))
        .collect();
    fit.calibrate(&taught);
    let before = machine.error_of(&fit);
    // For a while something else is true.
    machine.costs.pair *= 6.0;
    machine.teach(&mut fit, 4_000);
    machine.costs = TRUE_COSTS;

    // One stream, almost always the same: it tells the sum of everything, and of its parts only noise.
    for step in 0..20_000 {
        let first = 100 + step % 5;
        let stream =
            Work { tokens: 1, first, sampled: true, phase: Phase::Decode, extra: 0, drafted: 0 };
        let demand = Demand::of(&[stream]);
        fit.learn(&demand, machine.time(&demand));
    }

    assert!(machine.error_of(&fit) < before + 0.05, "{} after {before}", machine.error_of(&fit));
}

#[test]
fn a_few_steps_calibrate() {
    let mut machine = Machine::new(TRUE_COSTS, 0.02);
    let steps: Vec<(Demand, GpuTime)> = (0..40)
        .map(|_| machine.step())
        .map(|demand| (demand, GpuTime::from_nanos(TRUE_COSTS.predict(&demand) as u64)))
        .collect();
    let mut fit = untaught();

    fit.calibrate(&steps);

    assert_sane(fit.costs());
    assert!(machine.error_of(&fit) < 0.05, "{} with {:?}", machine.error_of(&fit), fit.costs());
}

#[test]
fn one_step_calibrates_the_pace() {
    let demand = Demand::of(&[Work {
        tokens: 1,
        first: 0,
        sampled: true,
        phase: Phase::Prefill,
        extra: 0,
        drafted: 0,
    }]);
    // A thousand times what was guessed.
    let time = GpuTime::from_nanos(4_000_000_000);
    let mut fit = untaught();

    fit.calibrate(&[(demand, time)]);

    let said = fit.costs().predict(&demand);
    assert!((said - 4e9).abs() < 4e7, "{said}");
    assert_sane(fit.costs());
}
