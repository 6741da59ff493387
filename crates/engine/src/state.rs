//! What an engine tells about itself.

use domain::GpuTime;

/// An engine at one moment, as of its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// KV blocks that no sequence holds.
    pub free_blocks: u32,
    /// All KV blocks.
    pub total_blocks: u32,
    /// Tokens that one block holds.
    pub block_tokens: u32,
    /// Sequences that hold blocks, paused ones included.
    pub running: u32,
    /// Running sequences that wait for a larger allowance.
    pub paused: u32,
    /// Sequences that wait for blocks.
    pub waiting: u32,
    /// Prompt tokens that are still to be computed, of waiting and running sequences.
    pub waiting_tokens: u64,
    /// Whether new sequences are refused.
    pub draining: bool,
    /// Output tokens produced since the start.
    pub produced_tokens: u64,
    /// Where the step thread's time went.
    pub accounts: Accounts,
}

/// The step thread's time since the start: `requests + idle + overhead == wall`, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Attributed to sequences.
    pub requests: GpuTime,
    /// Waiting for work.
    pub idle: GpuTime,
    /// Admission, scheduling and bookkeeping between steps, and steps that failed as a whole.
    pub overhead: GpuTime,
    /// All of it.
    pub wall: GpuTime,
}
