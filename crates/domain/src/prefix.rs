//! Names of what KV blocks hold, so that a gateway and its workers speak of the same prefixes.
//!
//! A block's name is a hash of its tokens, chained over the blocks before it, beginning with the exact
//! model and the tenant's salt: blocks of one name hold the same keys and values, and blocks of
//! two tenants never have one name. The hash resists collisions (BLAKE3, 256 bits), because a collision
//! would show one tenant what another one wrote.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ModelDigest, ProjectId};

/// Keeps the prefixes of one tenant apart from everybody else's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheSalt([u8; 16]);

impl CacheSalt {
    /// The salt of a project: the border that data never crosses.
    pub fn of(project: ProjectId) -> Self {
        Self(*project.as_bytes())
    }

    /// A salt of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for CacheSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheSalt(..)")
    }
}

/// The name of what a KV block holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash([u8; 32]);

impl BlockHash {
    /// A name of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its first eight bytes: enough to guess where a prefix may be, never enough to use a block.
    pub fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.short())
    }
}

/// Names the blocks of a growing text, one after the other.
#[derive(Clone, Debug)]
pub struct BlockNames {
    block_tokens: usize,
    last: BlockHash,
}

impl BlockNames {
    /// Names for blocks of `block_tokens` tokens (at least one) of a text of this model and salt.
    pub fn new(model: &ModelDigest, salt: CacheSalt, block_tokens: u32) -> Self {
        let mut root = blake3::Hasher::new_derive_key(CONTEXT);
        root.update(salt.as_bytes());
        root.update(&block_tokens.to_le_bytes());
        root.update(model.as_str().as_bytes());
        let last = BlockHash(*root.finalize().as_bytes());
        Self { block_tokens: block_tokens.max(1) as usize, last }
    }

    /// The name of the next block, which holds `tokens`: exactly as many as a block has.
    pub fn next(&mut self, tokens: &[u32]) -> BlockHash {
        debug_assert_eq!(tokens.len(), self.block_tokens, "a name is for a full block");
        let mut hasher = blake3::Hasher::new_keyed(&self.last.0);
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        self.last = BlockHash(*hasher.finalize().as_bytes());
        self.last
    }

    /// The names of all full blocks of `tokens`, which begin where the last name ended.
    pub fn all(mut self, tokens: &[u32]) -> Vec<BlockHash> {
        let blocks = tokens.chunks_exact(self.block_tokens);
        blocks.map(|block| self.next(block)).collect()
    }
}

const CONTEXT: &str = "tollgate 2026-11 kv block";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(model: &str, salt: u8, tokens: &[u32]) -> Vec<BlockHash> {
        let salt = CacheSalt::from_bytes([salt; 16]);
        BlockNames::new(&ModelDigest::new(model), salt, 4).all(tokens)
    }

    proptest! {
        #[test]
        fn names_agree_as_far_as_the_texts_do(
            common in prop::collection::vec(any::<u32>(), 0..20),
            one in prop::collection::vec(any::<u32>(), 4..9),
            other in prop::collection::vec(any::<u32>(), 4..9),
        ) {
            let (one, other) = ([&*common, &*one].concat(), [&*common, &*other].concat());
            let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count() / 4;

            let (one, other) = (names("m", 1, &one), names("m", 1, &other));

            prop_assert_eq!(&one[..same], &other[..same]);
            prop_assert!(one[same..].iter().all(|name| !other.contains(name)));
        }
    }

    #[test]
    fn tenants_and_models_share_no_name() {
        let tokens = [7; 16];
        let all = [names("m", 1, &tokens), names("m", 2, &tokens), names("n", 1, &tokens)].concat();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn a_block_that_is_not_full_has_no_name() {
        assert_eq!(names("m", 1, &[1, 2, 3]), []);
        assert_eq!(names("m", 1, &[1, 2, 3, 4, 5]).len(), 1);
    }
}
