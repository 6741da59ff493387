//! How long a worker may say nothing about a sequence that should go on.

use std::time::Duration;

use domain::ModelDigest;
use proto::{ModelLoad, WorkerState};

use crate::member::Member;
use crate::place::Site;
use crate::settings::StallLimits;

/// How long `site` may say nothing about a sequence of `prompt` tokens, of which it said something new itself or not
/// (`begun`): several times what it predicts, within bounds that it does not choose.
pub(crate) fn patience(
    (site, model): (&Site, &ModelDigest),
    prompt: usize,
    begun: bool,
    limits: StallLimits,
) -> Duration {
    let predicted = |state: &WorkerState| predicted(&state.load_of(model), prompt, begun);
    let predicted = site.member.with_state(predicted);
    (predicted.unwrap_or_default()).clamp(limits.least, limits.most.max(limits.least))
}

/// Several times what `member` predicts for reading `tokens` tokens that came now; it chooses that itself.
pub(crate) fn predicted_end(member: &Member, model: &ModelDigest, tokens: u64) -> Duration {
    let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
    let predicted = |state: &WorkerState| predicted(&state.load_of(model), tokens, false);
    member.with_state(predicted).unwrap_or_default()
}

fn predicted(state: &ModelLoad, prompt: usize, begun: bool) -> Duration {
    let bounded = |duration: Duration| duration.min(LONGEST);
    let tokens = u32::try_from(prompt).unwrap_or(u32::MAX);
    // A sequence that gave way to others waits like a new one, and is computed again.
    let waits = !begun || state.waiting > 0;
    let first = if waits {
        bounded(state.first_token_in)
            .saturating_add(bounded(state.prompt_token_time).saturating_mul(tokens))
    } else {
        Duration::ZERO
    };
    bounded(state.step_time).saturating_mul(STEPS).saturating_add(first.saturating_mul(TIMES))
}

/// Steps after which a token is overdue.
const STEPS: u32 = 50;
/// A prediction may be that far off.
const TIMES: u32 = 4;
const LONGEST: Duration = Duration::from_hours(1);
