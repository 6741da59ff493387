//! How far one set of weights is from another: what quantization costs, measured on text.
//!
//! Both models read the same tokens; at every position their next-token distributions are held against each
//! other.

use domain::ModelDigest;

use crate::models::{Decoder, KvCache};
use crate::ops::Pool;
use crate::step::{Blocks, Step};
use crate::{EngineError, Model};

/// How a candidate's distributions differ from the reference's.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Positions at which they were compared.
    pub positions: u64,
    /// Mean of the Kullback-Leibler divergence of the candidate from the reference, in nats a token.
    pub mean_divergence: f64,
    /// The divergence that one position of a hundred exceeds.
    pub p99_divergence: f64,
    /// The part of the positions at which both find the same token the most probable.
    pub top_agreement: f64,
    /// Perplexity of the text under the reference.
    pub reference_perplexity: f64,
    /// And under the candidate.
    pub candidate_perplexity: f64,
    /// What was compared.
    pub digests: [ModelDigest; 2],
}

/// Compares two models on `texts`; longer ones are read in windows of `window` tokens. `progress` hears how
/// many tokens are done.
pub fn compare(
    reference: Model,
    candidate: Model,
    texts: &[Vec<u32>],
    window: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Comparison, EngineError> {
    let digests = [reference.info().digest.clone(), candidate.info().digest.clone()];
    let (one, other) = (Reader::new(reference)?, Reader::new(candidate)?);
    if one.vocabulary() != other.vocabulary() {
        let problem = "the models have different vocabularies; compare two forms of one model";
        return Err(EngineError::Start(problem.to_owned()));
    }
    let window = window.clamp(2, one.context().min(other.context()));
    let mut seen = Seen::default();
    for tokens in texts.iter().flat_map(|text| text.chunks(window)).filter(|part| part.len() > 1) {
        let (expected, found) = (one.logits(tokens)?, other.logits(tokens)?);
        let width = one.vocabulary();
        let rows = expected.chunks_exact(width).zip(found.chunks_exact(width));
        for ((expected, found), next) in rows.zip(&tokens[1..]) {
            seen.take(expected, found, *next as usize);
        }
        progress(seen.divergences.len() as u64);
    }
    seen.sum_up(digests)
}

/// A model that reads.
struct Reader {
    decoder: Box<dyn Decoder>,
    pool: Pool,
}

impl Reader {
    fn new(model: Model) -> Result<Self, EngineError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pool =
            Pool::new(u32::try_from(threads).unwrap_or(1)).map_err(|error| failed(&error))?;
        Ok(Self { decoder: model.into_parts().0, pool })
    }

    fn vocabulary(&self) -> usize {
        self.decoder.shape().vocabulary
    }

    fn context(&self) -> usize {
        self.decoder.shape().context as usize
    }

    /// The logits after each of `tokens`, `[tokens, vocabulary]`.
    fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        if let Some(id) = tokens.iter().find(|id| **id as usize >= self.vocabulary()) {
            return Err(EngineError::Start(format!("token id {id} is not in the vocabulary")));
        }
        let shape = self.decoder.shape();
        let blocks = tokens.len().div_ceil(BLOCK_TOKENS as usize) as u32;
        let cache = KvCache::new(shape, blocks, BLOCK_TOKENS).map_err(|error| failed(&error))?;
        let table: Vec<u32> = (0..blocks).collect();
        let blocks = Blocks { table: &table, block_tokens: BLOCK_TOKENS };
        let mut all = Vec::with_capacity(tokens.len() * shape.vocabulary);
        for (number, part) in tokens.chunks(STEP_TOKENS).enumerate() {
            let mut step = Step::default();
            step.push(part, (number * STEP_TOKENS) as u32, blocks, 0);
            step.sampled = (0..part.len() as u32).collect();
            let mut logits = Vec::new();
            let done = self.decoder.forward(&step, &cache, &self.pool, &mut logits);
            done.map_err(|error| failed(&error))?;
            all.extend(logits);
        }
        Ok(all)
    }
}

#[derive(Default)]
struct Seen {
    divergences: Vec<f64>,
    agreed: u64,
    /// Sums of the negative log-probabilities of what really came next.
    surprise: [f64; 2],
}

impl Seen {
    fn take(&mut self, expected: &[f32], found: &[f32], next: usize) {
        let (one, other) = (log_softmax(expected), log_softmax(found));
        let divergence: f64 = one.iter().zip(&other).map(|(p, q)| p.exp() * (p - q)).sum();
        // Rounding may leave it a hair below nothing.
        self.divergences.push(divergence.max(0.0));
        self.agreed += u64::from(best(expected) == best(found));
        self.surprise[0] -= one[next];
        self.surprise[1] -= other[next];
    }

    fn sum_up(mut self, digests: [ModelDigest; 2]) -> Result<Comparison, EngineError> {
        let positions = self.divergences.len();
        if positions == 0 {
            let problem = "there is no text to compare on; give at least two tokens";
            return Err(EngineError::Start(problem.to_owned()));
        }
        self.divergences.sort_unstable_by(f64::total_cmp);
        let mean = |sum: f64| sum / positions as f64;
        Ok(Comparison {
            positions: positions as u64,
            mean_divergence: mean(self.divergences.iter().sum()),
            p99_divergence: self.divergences[(positions - 1) * 99 / 100],
            top_agreement: mean(self.agreed as f64),
            reference_perplexity: mean(self.surprise[0]).exp(),
            candidate_perplexity: mean(self.surprise[1]).exp(),
            digests,
        })
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log = sum.ln() + f64::from(max);
    logits.iter().map(|logit| f64::from(*logit) - log).collect()
}

fn best(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

fn failed(error: &impl ToString) -> EngineError {
    EngineError::Start(error.to_string())
}

const BLOCK_TOKENS: u32 = 32;
const STEP_TOKENS: usize = 128;
