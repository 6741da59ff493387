//! What an engine tells about itself.

use std::time::Duration;

use domain::Accounts;

use crate::MaskTimes;

/// An engine at one moment, as of its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// KV blocks that no sequence holds or is expected to take; what they still hold of former sequences is
    /// given up when they are needed.
    pub free_blocks: u32,
    /// KV blocks that a sequence whose text begins alike can use, held ones included.
    pub cached_blocks: u32,
    /// All KV blocks.
    pub total_blocks: u32,
    /// Tokens that one block holds.
    pub block_tokens: u32,
    /// What the keys and values of one block take, in bytes.
    pub block_bytes: u64,
    /// Tokens whose keys and values running sequences hold; what several share counts for each.
    pub running_tokens: u64,
    /// Sequences that hold blocks, paused ones included.
    pub running: u32,
    /// Running sequences that wait for a larger allowance.
    pub paused: u32,
    /// Sequences that wait for blocks, those that gave theirs up included.
    pub waiting: u32,
    /// Prompt tokens that are still to be computed, of waiting and running sequences.
    pub waiting_tokens: u64,
    /// What a token of a prompt takes, by the work model: the mean over a prompt of common length.
    pub prompt_token_time: Duration,
    /// After how long a sequence that came now would have a place: as soon as those before it have theirs and one more
    /// sequence has ended, of those that are expected to.
    pub place_in: Duration,
    /// How long a step takes, lately.
    pub step_time: Duration,
    /// Whether new sequences are refused.
    pub draining: bool,
    /// Output tokens produced since the start.
    pub produced_tokens: u64,
    /// Where the step thread's time went.
    pub accounts: Accounts,
    /// How far the work model's prediction of a step's time was off, in millionths of that time: the mean
    /// over some hundred recent steps, none of which counts for more than itself.
    pub attribution_error_ppm: u32,
    /// Guessed output tokens that were computed since the start.
    pub drafted_tokens: u64,
    /// Those of `drafted_tokens` that became output.
    pub accepted_tokens: u64,
    /// What keeping outputs in their formats takes.
    pub mask_times: MaskTimes,
}

impl EngineState {
    /// After how long a sequence that came now would have its first token, its own prompt not counted.
    pub fn first_token_in(&self) -> Duration {
        let tokens = u32::try_from(self.waiting_tokens).unwrap_or(u32::MAX);
        let prompts = self.prompt_token_time.saturating_mul(tokens);
        self.place_in.saturating_add(prompts).saturating_add(self.step_time)
    }
}
