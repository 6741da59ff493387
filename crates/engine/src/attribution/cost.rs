//! What the parts of a step cost on this machine.
//!
//! A step takes `fixed + max(token * knee, token * tokens) + pair * pairs + read * reads + row * rows`.
//! Weights are streamed once however few tokens there are, so that the first `knee` tokens of a step cost
//! what one costs: the roofline.

use super::work::Demand;

/// Costs in nanoseconds; none is negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Costs {
    /// Of a step.
    pub(crate) fixed: f64,
    /// Of a token through the layers, beyond the knee.
    pub(crate) token: f64,
    /// Tokens that cost no more than streaming the weights once.
    pub(crate) knee: f64,
    /// Of a token attending to a position.
    pub(crate) pair: f64,
    /// Of the keys and values of a position from memory.
    pub(crate) read: f64,
    /// Of a row of logits, its draw included.
    pub(crate) row: f64,
}

/// The arithmetic of a model, from its sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arithmetic {
    /// Operations of a token through the layers.
    pub(crate) token: u64,
    /// Operations of a token attending to a position.
    pub(crate) pair: u64,
    /// Bytes of the keys and values of a position.
    pub(crate) position_bytes: u64,
    /// Operations of a row of logits.
    pub(crate) row: u64,
}

impl Costs {
    /// What a plain machine would need. Only the proportions matter: calibration finds the pace.
    pub(crate) fn guess(arithmetic: &Arithmetic) -> Self {
        let token = arithmetic.token as f64 / OPERATIONS_PER_NANO;
        Self {
            fixed: token,
            token,
            knee: KNEE,
            pair: arithmetic.pair as f64 / OPERATIONS_PER_NANO,
            read: arithmetic.position_bytes as f64 / BYTES_PER_NANO,
            row: arithmetic.row as f64 / OPERATIONS_PER_NANO,
        }
    }

    /// The time of a step with this demand.
    pub(crate) fn predict(&self, demand: &Demand) -> f64 {
        self.fixed + self.token * self.knee.max(demand.tokens) + self.beyond_tokens(demand)
    }

    /// The tokens of the shortest step that computes `part` as many tokens in a time as one of `most` does, what they
    /// attend to and their logits not counted.
    pub(crate) fn least_tokens(&self, most: u32, part: f64) -> u32 {
        let time = |tokens: f64| self.fixed + self.token * self.knee.max(tokens);
        let pace = part * f64::from(most) / time(f64::from(most));
        let below = pace * time(self.knee);
        let above = pace * self.fixed / (1.0 - pace * self.token);
        let least = if below <= self.knee { below } else { above };
        (least.ceil() as u32).clamp(1, most)
    }

    /// What this demand adds to a step that is past the knee anyway.
    pub(crate) fn beyond_fixed(&self, demand: &Demand) -> f64 {
        self.token * demand.tokens + self.beyond_tokens(demand)
    }

    /// What one of `works` pieces of work, with the demand `own`, is to pay of a step that is `whole`: what it causes
    /// alone, its tokens beyond the knee, and an equal part of the rest.
    pub(crate) fn share(&self, whole: &Demand, own: &Demand, works: usize) -> f64 {
        let equal = (self.fixed + self.token * self.knee) / works.max(1) as f64;
        // The part of a token that is not paid by streaming the weights.
        let token = self.token * (1.0 - self.knee / whole.tokens).max(0.0);
        equal + token * own.tokens + self.beyond_tokens(own)
    }

    /// What a sequence with this demand alone causes: attention and logits.
    pub(crate) fn beyond_tokens(&self, demand: &Demand) -> f64 {
        self.pair * demand.pairs + self.read * demand.reads + self.row * demand.rows
    }
}

/// Of one or two cores, as measured on small models.
const OPERATIONS_PER_NANO: f64 = 50.0;
const BYTES_PER_NANO: f64 = 10.0;
/// Where streaming 16-bit weights and multiplying by them take equally long at these two rates.
const KNEE: f64 = 4.0;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The demo model's sizes.
    pub(crate) const DEMO: Arithmetic =
        Arithmetic { token: 12_600_000, pair: 8_192, position_bytes: 4_096, row: 2_100_000 };

    #[test]
    fn the_first_tokens_of_a_step_cost_what_one_costs() {
        let costs = Costs::guess(&DEMO);
        let step = |tokens| costs.predict(&Demand { tokens, ..Demand::default() });
        assert_eq!(step(1.0), step(4.0));
        assert_eq!(step(8.0) - step(4.0), 4.0 * costs.token);
    }

    proptest! {
        #[test]
        fn the_shortest_step_that_is_worth_it_is_worth_it_and_the_next_shorter_is_not(
            fixed in 0.0..100.0_f64,
            knee in 1.0..300.0_f64,
            most in 1..600_u32,
            part in 0.5..0.99_f64,
        ) {
            let costs = Costs { fixed, token: 1.0, knee, pair: 0.0, read: 0.0, row: 0.0 };
            let pace = |tokens: u32| {
                let tokens = f64::from(tokens);
                tokens / costs.predict(&Demand { tokens, ..Demand::default() })
            };
            let least = costs.least_tokens(most, part);
            prop_assert!(pace(least) >= part * pace(most) * (1.0 - 1e-9));
            prop_assert!(least == 1 || pace(least - 1) < part * pace(most) * (1.0 + 1e-9));
        }
    }
}
