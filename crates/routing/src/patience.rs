//! How long a worker may say nothing about a sequence that should go on.
//!
//! A sequence that waits in its worker's queue is told nothing, however well the worker does. As long as that says
//! that sequences wait and its accounts show that it computes, waiting is no silence, up to the bound that no worker
//! chooses.

use std::time::Duration;

use domain::ModelDigest;
use proto::{ModelLoad, WorkerState};
use tokio::time::Instant;

use crate::member::Member;
use crate::settings::StallLimits;

/// What is known of a sequence of which nothing is heard.
pub(crate) struct Unheard<'a> {
    pub(crate) member: &'a Member,
    pub(crate) model: &'a ModelDigest,
    /// Tokens of its text so far.
    pub(crate) tokens: u64,
    /// When something new was heard of it, or could not be expected.
    pub(crate) heard: Instant,
    /// Whether its worker said something new itself.
    pub(crate) begun: bool,
}

impl Unheard<'_> {
    /// When something should have been heard: after several times what its worker predicts, within bounds that it
    /// does not choose.
    pub(crate) fn until(&self, limits: StallLimits) -> Instant {
        let most = limits.most.max(limits.least);
        let predicted =
            |state: &WorkerState| predicted(&state.load_of(self.model), self.tokens, self.begun);
        let predicted = self.member.with_state(predicted).unwrap_or_default();
        let due = self.heard + predicted.clamp(limits.least, most);
        if !self.waits() {
            return due;
        }
        let Some(worked) = self.member.worked() else { return due };
        due.max((worked + limits.least).min(self.heard + most))
    }

    /// Whether its worker may not have come to it, and worked on others.
    pub(crate) fn is_passed_over(&self, now: Instant, limits: StallLimits) -> bool {
        self.waits() && self.member.worked().is_some_and(|worked| now < worked + limits.least)
    }

    fn waits(&self) -> bool {
        let waiting = |state: &WorkerState| state.load_of(self.model).waiting > 0;
        self.member.with_state(waiting).unwrap_or_default()
    }
}

/// Several times what `member` predicts for reading `tokens` tokens that came now; it chooses that itself.
pub(crate) fn predicted_end(member: &Member, model: &ModelDigest, tokens: u64) -> Duration {
    let predicted = |state: &WorkerState| predicted(&state.load_of(model), tokens, false);
    member.with_state(predicted).unwrap_or_default()
}

fn predicted(state: &ModelLoad, prompt: u64, begun: bool) -> Duration {
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
