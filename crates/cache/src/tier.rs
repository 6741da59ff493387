//! What is kept, and what a place to keep it must do.
//!
//! A tier forgets whenever it likes and fails silently: not to find is always right, because the
//! answer can be computed. Its adapters live in `store`, proved by one conformance suite.

use std::fmt;

use async_trait::async_trait;
use domain::FinishReason;
use serde::{Deserialize, Serialize};

use crate::CacheKey;

/// A complete answer, with what it takes to meter it again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// The text, without the stop string that ended it.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the text.
    pub completion_tokens: u32,
    /// Those of them that the model thought with before it answered.
    pub reasoning_tokens: u32,
}

impl CachedAnswer {
    /// Whether the same request would end the same way again, whoever asks and whenever.
    pub(crate) const fn repeatable(&self) -> bool {
        match self.finish {
            FinishReason::Stop | FinishReason::Length => true,
            FinishReason::Budget | FinishReason::Cancelled => false,
        }
    }
}

/// Leaves the text out: it belongs to a tenant, and debug output ends in logs.
impl fmt::Debug for CachedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, finish, prompt_tokens, completion_tokens, reasoning_tokens } = self;
        f.debug_struct("CachedAnswer")
            .field("text_bytes", &text.len())
            .field("finish", finish)
            .field("prompt_tokens", prompt_tokens)
            .field("completion_tokens", completion_tokens)
            .field("reasoning_tokens", reasoning_tokens)
            .finish()
    }
}

/// A place that keeps answers for a while: bounded in size and age, and in how long it takes.
#[async_trait]
pub trait Tier: Send + Sync {
    /// The answer kept under exactly this key. A failure or a late reply is `None`.
    async fn find(&self, key: &CacheKey) -> Option<CachedAnswer>;

    /// Keeps `answer` under `key`, if it can and the answer is not too large to be worth it.
    async fn store(&self, key: &CacheKey, answer: &CachedAnswer);

    /// The label in metrics and response headers.
    fn name(&self) -> &'static str;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_does_not_show_the_text() {
        let answer = CachedAnswer {
            text: "the secret recipe".into(),
            finish: FinishReason::Stop,
            prompt_tokens: 1,
            completion_tokens: 3,
            reasoning_tokens: 1,
        };

        let printed = format!("{answer:?}");

        assert!(!printed.contains("secret"), "{printed}");
    }
}
