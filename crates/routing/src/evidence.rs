//! Whether what a worker says can be true.
//!
//! A worker is believed within bounds that it cannot choose: tokens of the model's vocabulary, in order, no more than
//! were paid for, with the log-probabilities that were asked for; and no more time than has passed. What breaks them is
//! not delivered and not billed.

use std::time::Duration;

use domain::{FinishReason, GpuTime, Logprobs, Times, Usage};
use proto::Start;

/// What a worker has said cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lie {
    #[error("it skipped from token {known} to token {first}")]
    Gap { known: u32, first: u32 },
    #[error("it said another token {at} than the one before it had")]
    Contradiction { at: u32 },
    #[error("it produced more than was asked or paid for")]
    TooMuch,
    #[error("it said token {id} of a vocabulary of {vocabulary}")]
    UnknownToken { id: u32, vocabulary: u32 },
    #[error("it told {told} log-probabilities of {tokens} tokens")]
    Logprobs { told: usize, tokens: usize },
    #[error("it told a log-probability that is none")]
    NotALogprob,
    #[error("it ended as `{}` without a reason", .0.name())]
    Ending(FinishReason),
    #[error("it told of a usage that cannot be")]
    Usage,
}

/// Tokens that were not there before, and theirs.
pub(crate) type Fresh = (Vec<u32>, Vec<Logprobs>);

/// Those of `ids` that are new beside what `start` says was generated, if all of it can be true.
pub(crate) fn fresh(
    start: &Start,
    vocabulary: u32,
    first: u32,
    (mut ids, mut logprobs): Fresh,
) -> Result<Fresh, Lie> {
    let known = u32::try_from(start.generated.len()).unwrap_or(u32::MAX);
    let Some(repeated) = known.checked_sub(first) else { return Err(Lie::Gap { known, first }) };
    let told = logprobs.len();
    let expected = if start.output.logprobs.is_some() { ids.len() } else { 0 };
    if told != expected {
        return Err(Lie::Logprobs { told, tokens: ids.len() });
    }
    let repeated = ids.len().min(repeated as usize);
    let log = &start.generated[first as usize..];
    if let Some(at) = ids.iter().zip(log).position(|(id, known)| id != known) {
        return Err(Lie::Contradiction { at: first + at as u32 });
    }
    ids.drain(..repeated);
    logprobs.drain(..repeated.min(told));
    // A lease may be raised while tokens are on their way, never lowered.
    let room = start.max_output.min(start.allowance.max(known)) - known;
    if ids.len() > room as usize {
        return Err(Lie::TooMuch);
    }
    if let Some(id) = ids.iter().find(|id| **id >= vocabulary) {
        return Err(Lie::UnknownToken { id: *id, vocabulary });
    }
    let most = start.output.logprobs.unwrap_or(0) as usize;
    if !logprobs.iter().all(|told| is_plausible(told, most, vocabulary)) {
        return Err(Lie::NotALogprob);
    }
    Ok((ids, logprobs))
}

fn is_plausible(told: &Logprobs, most: usize, vocabulary: u32) -> bool {
    let is_one = |logprob: f32| logprob <= ROUNDING;
    let mut top = told.top.iter();
    is_one(told.logprob)
        && told.top.len() <= most
        && top.all(|(id, logprob)| *id < vocabulary && is_one(*logprob))
}

/// Whether a sequence that was to produce at most so much, and was asked to end for this reason if at all, may have ended
/// like this.
pub(crate) fn ending(
    start: &Start,
    (max_output, asked): (u32, Option<FinishReason>),
    reason: FinishReason,
    usage: &Usage,
) -> Result<(), Lie> {
    let generated = start.generated.len();
    let plausible = match reason {
        FinishReason::Stop => true,
        // The context of the worker bounds it, so there is no other length.
        FinishReason::Length => generated >= max_output as usize || asked.is_some(),
        // Nobody but us ends a sequence for these reasons.
        FinishReason::Budget | FinishReason::Cancelled => asked.is_some(),
    };
    if !plausible {
        return Err(Lie::Ending(reason));
    }
    if usage.completion_tokens > start.max_output {
        return Err(Lie::Usage);
    }
    Ok(())
}

/// A usage whose times fit into `wall`, the time since the worker was given the sequence; and by how much what is
/// billable was too long.
pub(crate) fn bounded(usage: &Usage, wall: Duration) -> (Usage, GpuTime) {
    let most = most_time(wall);
    let cut = |time: GpuTime| time.min(most);
    let Times { queue, prefill, decode, recompute, saved } = usage.times;
    let prefill = cut(prefill);
    // Together they are what is billed.
    let decode = decode.min(most - prefill);
    let times = Times {
        queue: cut(queue),
        prefill,
        decode,
        recompute: cut(recompute),
        // An estimate of what did not happen: no time bounds it but that of a whole prompt.
        saved: saved.min(GpuTime::from_nanos(LONGEST_SAVED)),
    };
    let gpu = cut(usage.gpu);
    (Usage { gpu, times, ..*usage }, usage.gpu - gpu)
}

/// The most time a worker can have spent on a sequence within `wall`: clocks and events are not exact.
pub(crate) fn most_time(wall: Duration) -> GpuTime {
    let nanos = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
    GpuTime::from_nanos(nanos.saturating_add(GRACE))
}

/// The sum of probabilities is 1 but for rounding.
const ROUNDING: f32 = 1e-3;
/// A second: what is told in one event may have been computed long before it, never before the sequence came.
const GRACE: u64 = 1_000_000_000;
/// An hour.
const LONGEST_SAVED: u64 = 3_600_000_000_000;

#[cfg(test)]
mod tests;
