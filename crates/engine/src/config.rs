//! How much an engine may hold and how it cuts its steps. Every default is here, named.

use crate::EngineError;
use crate::fair::extra_places;

/// Bounds of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// KV blocks to allocate. Absent means as many as fit `kv_bytes`.
    pub kv_blocks: Option<u32>,
    /// Memory for the KV cache, in bytes; not used if `kv_blocks` is given. Absent means [`Self::LEAST_KV_BYTES`]: an
    /// engine does not know the machine, and whoever does may give it more.
    pub kv_bytes: Option<u64>,
    /// Memory for following outputs in formats, in bytes. While it is used up, sequences in formats wait; a tenant
    /// that holds less than its share of it does not, up to as much again.
    pub format_bytes: u64,
    /// Tokens that one KV block holds; a multiple of 16.
    pub block_tokens: u32,
    /// Sequences that may hold blocks at once, paused ones included. If others hold all of these places, a tenant that has
    /// less than its share of them still gets one of an eighth more; where there are fewer than 16, there are no more.
    pub max_sequences: u32,
    /// Sequences that may wait for blocks; more are refused. If others fill the queue, a tenant that has less than
    /// its share of it is still taken, up to as many sequences again.
    pub max_waiting: u32,
    /// Tokens that one step computes at most, over all sequences; more than there may be sequences.
    pub step_tokens: u32,
    /// Prompt tokens of one sequence that one step computes at most.
    pub prefill_chunk: u32,
    /// Threads that compute, the step thread included.
    pub compute_threads: u32,
    /// Whether tokens that can be looked up in a sequence's own text are computed before they are known, where that
    /// takes less time than one after the other.
    pub lookup: bool,
}

impl EngineConfig {
    /// What a KV cache takes if nobody says anything, in bytes.
    pub const LEAST_KV_BYTES: u64 = 256 * 1024 * 1024;

    /// What the KV cache takes of a model whose tokens take `bytes_per_token` each, as far as it is settled.
    pub fn settled_kv_bytes(&self, bytes_per_token: u64) -> Option<u64> {
        let block = bytes_per_token.saturating_mul(u64::from(self.block_tokens));
        let of_blocks = self.kv_blocks.map(|blocks| block.saturating_mul(u64::from(blocks)));
        of_blocks.or(self.kv_bytes)
    }

    /// Refuses bounds under which some sequence would never be stepped.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let at_least_one = [
            ("kv_blocks", self.kv_blocks.unwrap_or(1)),
            ("block_tokens", self.block_tokens),
            ("max_sequences", self.max_sequences),
            ("prefill_chunk", self.prefill_chunk),
            ("compute_threads", self.compute_threads),
        ];
        for (setting, value) in at_least_one {
            if value == 0 {
                return Err(setting_error(setting, "must be at least 1"));
            }
        }
        if !self.block_tokens.is_multiple_of(BLOCK_UNIT) {
            return Err(setting_error("block_tokens", "must be a multiple of 16"));
        }
        // One token for every decoding sequence and one left over, so that prompts always move.
        let most = self.most_sequences();
        if self.step_tokens <= most {
            let problem = format!("must be larger than `max_sequences` and an eighth, here {most}");
            return Err(setting_error("step_tokens", &problem));
        }
        Ok(())
    }

    /// Sequences that may hold blocks at once, those in extra places included.
    pub(crate) const fn most_sequences(&self) -> u32 {
        self.max_sequences.saturating_add(extra_places(self.max_sequences))
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            kv_blocks: None,
            kv_bytes: None,
            format_bytes: FORMAT_BYTES,
            block_tokens: BLOCK_TOKENS,
            max_sequences: MAX_SEQUENCES,
            max_waiting: MAX_WAITING,
            step_tokens: STEP_TOKENS,
            prefill_chunk: PREFILL_CHUNK,
            lookup: true,
            compute_threads: std::thread::available_parallelism()
                .map_or(1, |threads| u32::try_from(threads.get()).unwrap_or(1)),
        }
    }
}

fn setting_error(setting: &'static str, problem: &str) -> EngineError {
    EngineError::Setting { setting, problem: problem.to_owned() }
}

/// Our attention kernel works on this many positions at once.
const BLOCK_UNIT: u32 = 16;
const FORMAT_BYTES: u64 = 256 * 1024 * 1024;
const BLOCK_TOKENS: u32 = 32;
const MAX_SEQUENCES: u32 = 64;
const MAX_WAITING: u32 = 256;
const STEP_TOKENS: u32 = 128;
const PREFILL_CHUNK: u32 = 64;
