//! Chooses the next token of one sequence from its logits.
//!
//! First of all the log-probabilities are read, if they are wanted: they are the model's own.
//!
//! Order: logit bias; repetition penalty (tokens of prompt and output); frequency and presence penalties
//! (tokens of the output); then, if greedy, the largest logit, else temperature, min-p, top-k, top-p over
//! what top-k left, and one draw. What a format or `min_tokens` forbids becomes impossible after the penalties.
//! Ties go to the smaller token id. This is vLLM's order.
//!
//! Promise: the draw depends on the logits, the tokens so far, and (seed, position) alone.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use domain::{Logprobs, Sampling};

use crate::grammar::Mask;
use crate::ops::weigh::weigh;
use crate::{Failure, random};

/// The sampling state of one sequence.
pub(crate) struct Sampler {
    sampling: Sampling,
    /// How often each token occurs in the output; zero for tokens of the prompt alone.
    seen: BTreeMap<u32, u32>,
}

/// How it was before a token was noted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    id: u32,
    before: Option<u32>,
}

/// What may not be drawn.
#[derive(Clone, Copy, Default)]
pub(crate) struct Limits<'a> {
    /// Everything but these.
    pub(crate) allowed: Option<&'a Mask>,
    /// Everything but these; ascending.
    pub(crate) only: Option<&'a [u32]>,
    /// These.
    pub(crate) banned: &'a [u32],
}

/// A token that may be drawn, and its probability relative to the most probable one.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    weight: f32,
}

impl Sampler {
    /// A sampler for a sequence with this prompt and the output `generated` so far.
    pub(crate) fn new(sampling: Sampling, prompt: &[u32], generated: &[u32]) -> Self {
        let mut sampler = Self { sampling, seen: BTreeMap::new() };
        if sampler.has_penalties() {
            sampler.seen = prompt.iter().map(|&id| (id, 0)).collect();
            for &id in generated {
                sampler.note(id);
            }
        }
        sampler
    }

    /// Notes that `id` was added to the output.
    pub(crate) fn note(&mut self, id: u32) -> Noted {
        let mut before = None;
        if self.has_penalties() {
            before = self.seen.get(&id).copied();
            self.seen.insert(id, before.unwrap_or(0) + 1);
        }
        Noted { id, before }
    }

    /// Takes back the last note that was not taken back yet.
    pub(crate) fn forget(&mut self, noted: Noted) {
        match noted.before {
            Some(count) => drop(self.seen.insert(noted.id, count)),
            None => drop(self.seen.remove(&noted.id)),
        }
    }

    /// Draws the token for `position` of prompt plus output; `logits` are changed.
    pub(crate) fn sample(
        &self,
        logits: &mut [f32],
        position: u32,
        limits: Limits<'_>,
    ) -> Result<u32, Failure> {
        // Not `any`: looking at all of them is faster, because it needs no branches.
        if logits.iter().fold(false, |found, logit| found | logit.is_nan()) {
            return Err(Failure::NotANumber { position });
        }
        self.adjust(logits);
        if let Some(mask) = limits.allowed {
            mask.apply(logits);
        }
        if let Some(only) = limits.only {
            keep(logits, only);
        }
        for &id in limits.banned {
            logits[id as usize] = f32::NEG_INFINITY;
        }
        let (best, max) = largest(logits);
        if !max.is_finite() {
            return Err(Failure::NotANumber { position });
        }
        if self.sampling.temperature <= 0.0 {
            return Ok(best);
        }
        weigh(logits, max, self.sampling.temperature);
        let uniform = random::uniform(self.sampling.seed, position);
        if self.keeps_all() {
            let all = (0..).zip(logits.iter()).map(|(id, &weight)| Candidate { id, weight });
            return Ok(draw(all, uniform));
        }
        Ok(draw(self.candidates(logits).into_iter(), uniform))
    }

    fn keeps_all(&self) -> bool {
        let Sampling { top_p, top_k, min_p, .. } = self.sampling;
        top_p >= 1.0 && top_k == 0 && min_p <= 0.0
    }

    /// Applies bias and penalties.
    fn adjust(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } =
            self.sampling;
        for &(id, bias) in &self.sampling.logit_bias {
            logits[id as usize] += bias;
        }
        for (&id, &count) in &self.seen {
            let logit = &mut logits[id as usize];
            if *logit > 0.0 {
                *logit /= repetition_penalty;
            } else {
                *logit *= repetition_penalty;
            }
            if count > 0 {
                *logit -= frequency_penalty * count as f32 + presence_penalty;
            }
        }
    }

    /// The tokens that min-p, top-k and top-p leave.
    fn candidates(&self, weights: &[f32]) -> Vec<Candidate> {
        let Sampling { top_p, top_k, min_p, .. } = self.sampling;
        let mut candidates = Vec::with_capacity(weights.len());
        for (id, &weight) in (0..).zip(weights) {
            if weight >= min_p && weight > 0.0 {
                candidates.push(Candidate { id, weight });
            }
        }
        if top_k > 0 && (top_k as usize) < candidates.len() {
            sort_head(&mut candidates, top_k as usize);
            candidates.truncate(top_k as usize);
        }
        if top_p < 1.0 {
            keep_top_p(&mut candidates, top_p);
        }
        candidates
    }

    fn has_penalties(&self) -> bool {
        self.sampling.repetition_penalty != 1.0
            || self.sampling.presence_penalty != 0.0
            || self.sampling.frequency_penalty != 0.0
    }
}

/// How probable `id` is by these logits, and the `count` most probable tokens.
///
/// The sum is in double precision and in order, so that it is the same wherever it is computed.
pub(crate) fn logprobs(logits: &[f32], id: u32, count: u32) -> Logprobs {
    let (_, max) = largest(logits);
    let mass: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let total = f64::from(max) + mass.ln();
    let logprob = |logit: f32| (f64::from(logit) - total) as f32;
    let mut top: Vec<Candidate> =
        (0..).zip(logits).map(|(id, &weight)| Candidate { id, weight }).collect();
    let count = (count as usize).min(top.len());
    if count > 0 {
        sort_head(&mut top, count);
    }
    let top = top[..count].iter().map(|token| (token.id, logprob(token.weight))).collect();
    Logprobs { logprob: logprob(logits[id as usize]), top }
}

/// Makes everything but these tokens, which are ascending, impossible.
fn keep(logits: &mut [f32], only: &[u32]) {
    let mut next = 0;
    for id in only.iter().map(|id| *id as usize).chain([logits.len()]) {
        logits[next..id].fill(f32::NEG_INFINITY);
        next = id + 1;
    }
}

/// The first of the largest logits and its value; negative infinity if there is none.
fn largest(logits: &[f32]) -> (u32, f32) {
    let max =
        logits.iter().fold(f32::NEG_INFINITY, |max, &logit| if logit > max { logit } else { max });
    let first = logits.iter().position(|&logit| logit == max);
    (first.unwrap_or(0) as u32, max)
}

/// Keeps the smallest set of most probable tokens whose share of the mass reaches `top_p`.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
    let wanted = total * f64::from(top_p);
    let mut head = FIRST_HEAD.min(candidates.len());
    loop {
        // Sorting a growing head is much cheaper than sorting a vocabulary: the mass is in few tokens.
        sort_head(candidates, head);
        let mut mass = 0.0;
        for (index, candidate) in candidates[..head].iter().enumerate() {
            mass += f64::from(candidate.weight);
            if mass >= wanted {
                candidates.truncate(index + 1);
                return;
            }
        }
        if head == candidates.len() {
            return;
        }
        head = (head * 8).min(candidates.len());
    }
}

/// Brings the `head` most probable candidates to the front, in order.
fn sort_head(candidates: &mut [Candidate], head: usize) {
    if head < candidates.len() {
        candidates.select_nth_unstable_by(head, more_probable);
    }
    candidates[..head].sort_unstable_by(more_probable);
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that sorting calls")]
fn more_probable(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// The candidate at `uniform` of the total mass, in the order given; never one without weight.
fn draw(candidates: impl Iterator<Item = Candidate> + Clone, uniform: f64) -> u32 {
    // Eight sums side by side: one after the other would wait for each addition.
    let mut sums = [0.0_f64; 8];
    for (index, candidate) in candidates.clone().enumerate() {
        sums[index % 8] += f64::from(candidate.weight);
    }
    let target = sums.iter().sum::<f64>() * uniform;
    let (mut mass, mut last) = (0.0, 0);
    for candidate in candidates.filter(|candidate| candidate.weight > 0.0) {
        mass += f64::from(candidate.weight);
        last = candidate.id;
        if mass > target {
            break;
        }
    }
    last
}

const FIRST_HEAD: usize = 64;

#[cfg(test)]
mod tests;
