//! What a layer does to each row by itself: one gated layer, or a mixture of experts.

use candle_core::{Device, Result, Tensor};

use super::transformer::{ExpertNames, Loading};
use super::{Experts, Place, Shape};
use crate::LoadError;
use crate::adapter::Adapted;
use crate::checkpoint::Checkpoint;
use crate::ops::Pool;
use crate::ops::gate::{Activation, gated};
use crate::ops::linear::Linear;

/// The feed-forward part of a layer.
pub(super) enum FeedForward {
    One(Gated),
    Mixture(Mixture),
}

/// A gated layer (Shazeer, 2020).
pub(super) struct Gated {
    gate_and_up: Linear,
    down: Linear,
    activation: Activation,
}

/// A mixture of experts (Shazeer et al., 2017): a router chooses some experts for each row and weighs them.
pub(super) struct Mixture {
    router: Linear,
    experts: Vec<Gated>,
    shape: Experts,
}

impl FeedForward {
    pub(super) fn load(
        checkpoint: &mut dyn Checkpoint,
        loading: &Loading<'_>,
    ) -> std::result::Result<Self, LoadError> {
        let Shape { hidden, feed_forward, .. } = *loading.shape;
        let activation = loading.shape.activation;
        let mixture = loading.design.experts.as_ref().zip(loading.shape.experts.as_ref());
        if let Some((names, shape)) = mixture
            && !shape.plain_layers.contains(&loading.index)
        {
            return Mixture::load(checkpoint, loading, names, shape).map(Self::Mixture);
        }
        let gate_and_up = if loading.design.fused {
            vec![loading.part("mlp.gate_up_proj", 2 * feed_forward)]
        } else {
            let gate = loading.part("mlp.gate_proj", feed_forward);
            vec![gate, loading.part("mlp.up_proj", feed_forward)]
        };
        let down = [loading.part("mlp.down_proj", hidden)];
        Ok(Self::One(Gated {
            gate_and_up: checkpoint.linear(&gate_and_up, hidden)?,
            down: checkpoint.linear(&down, feed_forward)?,
            activation,
        }))
    }

    /// `x` `[rows, hidden]` to what is added to it.
    pub(super) fn apply(&self, x: &Tensor, adapted: Adapted<'_>, pool: &Pool) -> Result<Tensor> {
        match self {
            Self::One(gated) => gated.apply(x, adapted, pool),
            Self::Mixture(mixture) => mixture.apply(x, pool),
        }
    }
}

impl Gated {
    fn apply(&self, x: &Tensor, adapted: Adapted<'_>, pool: &Pool) -> Result<Tensor> {
        let gate_and_up = self.gate_and_up.apply(x, pool)?;
        adapted.add(Place::GateAndUp, x, &gate_and_up, pool)?;
        let gated = gated(&gate_and_up, self.activation, pool)?;
        let down = self.down.apply(&gated, pool)?;
        adapted.add(Place::Down, &gated, &down, pool)?;
        Ok(down)
    }
}

impl Mixture {
    fn load(
        checkpoint: &mut dyn Checkpoint,
        loading: &Loading<'_>,
        names: &ExpertNames,
        shape: &Experts,
    ) -> std::result::Result<Self, LoadError> {
        let hidden = loading.shape.hidden;
        let router = checkpoint.linear(&[loading.part(names.router, shape.count)], hidden)?;
        let mut experts = Vec::with_capacity(shape.count);
        for number in 0..shape.count {
            let part = |name: &str, outputs| {
                loading.part(&format!("{}.{number}.{name}", names.experts), outputs)
            };
            let gate_and_up = [part(names.gate, shape.width), part(names.up, shape.width)];
            experts.push(Gated {
                gate_and_up: checkpoint.linear(&gate_and_up, hidden)?,
                down: checkpoint.linear(&[part(names.down, hidden)], shape.width)?,
                activation: loading.shape.activation,
            });
        }
        Ok(Self { router, experts, shape: shape.clone() })
    }

    /// Every expert computes the rows that chose it. A row adds its experts up in the order of its own
    /// choice, so that it comes to the same whoever else is in the step.
    fn apply(&self, x: &Tensor, pool: &Pool) -> Result<Tensor> {
        let (rows, hidden) = x.dims2()?;
        let logits = self.router.apply(x, pool)?.to_vec2::<f32>()?;
        let choices: Vec<Vec<(usize, f32)>> = logits.iter().map(|row| self.choose(row)).collect();
        let mut outputs = vec![0.0_f32; rows * self.shape.used * hidden];
        for (number, expert) in self.experts.iter().enumerate() {
            let chosen = choices.iter().enumerate().filter_map(|(row, choice)| {
                let rank = choice.iter().position(|(expert, _)| *expert == number)?;
                Some((row, rank))
            });
            let chosen: Vec<(usize, usize)> = chosen.collect();
            if chosen.is_empty() {
                continue;
            }
            let ids: Vec<u32> = chosen.iter().map(|(row, _)| *row as u32).collect();
            let taken = x.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
            // Experts have no adapters.
            let plain = Adapted { groups: &[], layer: 0 };
            let output = expert.apply(&taken, plain, pool)?.flatten_all()?.to_vec1::<f32>()?;
            for ((row, rank), numbers) in chosen.iter().zip(output.chunks_exact(hidden)) {
                let at = (row * self.shape.used + rank) * hidden;
                outputs[at..at + hidden].copy_from_slice(numbers);
            }
        }
        let mut sums = vec![0.0_f32; rows * hidden];
        for ((sum, outputs), choice) in sums
            .chunks_exact_mut(hidden)
            .zip(outputs.chunks_exact(self.shape.used * hidden))
            .zip(&choices)
        {
            for (output, (_, weight)) in outputs.chunks_exact(hidden).zip(choice) {
                for (sum, number) in sum.iter_mut().zip(output) {
                    *sum = number.mul_add(*weight, *sum);
                }
            }
        }
        Tensor::from_vec(sums, (rows, hidden), &Device::Cpu)
    }

    /// The experts of one row and their weights, the heaviest first; of equals the first.
    fn choose(&self, logits: &[f32]) -> Vec<(usize, f32)> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = logits.iter().map(|logit| (logit - max).exp()).collect();
        let total: f32 = weights.iter().sum();
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        order.truncate(self.shape.used);
        let used: f32 = order.iter().map(|expert| weights[*expert]).sum();
        let divisor = if self.shape.normalised { used } else { total };
        order.into_iter().map(|expert| (expert, weights[expert] / divisor)).collect()
    }
}
