//! Decides who owns the time of a step.
//!
//! A step is predicted by a model of its work ([`Costs`]), and its measured time is split over the
//! sequences in it in proportion to what each contributed to the prediction ([`Split`]). What things cost
//! on this machine is learnt from the steps themselves ([`Fit`]), after a first guess by calibration.
//!
//! Promise: the shares of a step sum to its time, to the nanosecond; equal work pays the same, more work
//! never pays less, no work pays nothing. Tokens depend on none of this.
//!
//! Invariant: knows nothing of sequences, readers or clocks.

mod cost;
mod fit;
mod split;
mod work;

use domain::GpuTime;

pub(crate) use cost::{Arithmetic, Costs};
pub(crate) use work::{Demand, Loss, Phase, WORK_PARTS, Work};

use fit::Fit;
use split::Split;

/// Splits the steps of one engine and learns from them.
pub(crate) struct Attribution {
    fit: Fit,
    split: Split,
}

impl Attribution {
    /// A first guess, from the sizes of the model alone.
    pub(crate) fn new(arithmetic: &Arithmetic) -> Self {
        Self { fit: Fit::new(Costs::guess(arithmetic)), split: Split::default() }
    }

    /// Takes measured steps in the place of the guess.
    pub(crate) fn calibrate(&mut self, steps: &[(Demand, GpuTime)]) {
        self.fit.calibrate(steps);
    }

    /// What things cost, as learnt so far.
    pub(crate) const fn costs(&self) -> &Costs {
        self.fit.costs()
    }

    /// One share of a step's `time` for each of its `works`, in order.
    pub(crate) fn split(&mut self, time: GpuTime, works: &[Work]) -> &[GpuTime] {
        self.split.shares(self.fit.costs(), time, works)
    }

    /// Learns from a step.
    pub(crate) fn learn(&mut self, time: GpuTime, works: &[Work]) {
        self.fit.learn(&Demand::of(works), time);
    }

    /// What computing the first `tokens` tokens of a prompt would take beyond a step's fixed costs.
    pub(crate) fn saved(&self, tokens: u32) -> GpuTime {
        GpuTime::from_nanos(self.fit.costs().beyond_fixed(&Demand::of_prefix(tokens)) as u64)
    }

    /// Mean error of predictions, in millionths of the time predicted.
    pub(crate) fn error_ppm(&self) -> u32 {
        (self.fit.error() * 1e6) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_save_what_computing_them_would_take() {
        let attribution = Attribution::new(&cost::tests::DEMO);
        assert_eq!(attribution.saved(0), GpuTime::ZERO);
        assert!(attribution.saved(100) > attribution.saved(50));
        let (half, whole) = (attribution.saved(500).nanos(), attribution.saved(1_000).nanos());
        assert!(whole > 2 * half, "later tokens attend to more: {half} and {whole}");
    }
}
