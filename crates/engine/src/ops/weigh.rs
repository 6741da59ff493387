//! Probabilities relative to the most probable token, for a whole vocabulary at once.

use super::vector::{self, Kernel, Machine, exp};

/// Replaces each logit by e to the (logit - `max`) / `temperature`; what is below e to the -87 is zero.
pub(crate) fn weigh(logits: &mut [f32], max: f32, temperature: f32) {
    vector::run(Weigh { logits, max, temperature });
}

struct Weigh<'a> {
    logits: &'a mut [f32],
    max: f32,
    temperature: f32,
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    fn run<M: Machine>(self) {
        for logit in self.logits {
            let exponent = (*logit - self.max) / self.temperature;
            let weight = exp(exponent);
            *logit = if exponent < SMALLEST { 0.0 } else { weight };
        }
    }
}

const SMALLEST: f32 = -87.0;
