//! The audit log: what was tried, by whom, and what became of it.
//!
//! Lines are only ever appended. Each carries a hash over itself and the hash of the line before, so
//! whoever changes a line or takes one out must rewrite every later one. A log whose *last* lines were cut
//! off still fits together; who needs to notice that keeps the number and hash of a last line elsewhere.

use domain::{OrganizationId, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::key::hex;

/// A line of the audit log, before it has its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditDraft {
    /// When.
    pub at: Timestamp,
    /// Who: an administrator's id, `local` for the command line on the data directory.
    pub actor: String,
    /// What was tried: `key.create`.
    pub action: String,
    /// On what: an id, or empty.
    pub resource: String,
    /// Whose business it is; absent if nobody's but the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationId>,
    /// `done`, or why not: an error's label.
    pub outcome: String,
    /// What was asked for, without secrets.
    pub detail: serde_json::Value,
}

/// A line of the audit log in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its place, from 1 on, without gaps.
    pub number: u64,
    /// What happened.
    #[serde(flatten)]
    pub draft: AuditDraft,
    /// SHA-256 over the previous hash, the number and the line, in hexadecimal digits.
    pub hash: String,
}

impl AuditEntry {
    /// The line that comes after `last`; the first one if there is none.
    pub fn after(last: Option<&Self>, draft: AuditDraft) -> Self {
        let (number, before) = last.map_or((1, ""), |last| (last.number + 1, &last.hash));
        let hash = hash(before, number, &draft);
        Self { number, draft, hash }
    }

    /// Whether this is, unchanged, the line that was written after `last`.
    pub fn follows(&self, last: Option<&Self>) -> bool {
        *self == Self::after(last, self.draft.clone())
    }
}

/// SHA-256 over the hash before (its digits; nothing for the first line), the number (64 bits, little
/// endian) and the line (JSON, its fields in the order above).
fn hash(before: &str, number: u64, draft: &AuditDraft) -> String {
    let line = serde_json::to_string(draft).expect("a line has only fields that JSON has");
    let hash = Sha256::new()
        .chain_update(before.as_bytes())
        .chain_update(number.to_le_bytes())
        .chain_update(line.as_bytes())
        .finalize();
    hex(&hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(action: &str) -> AuditDraft {
        AuditDraft {
            at: Timestamp::from_millis(1),
            actor: "local".to_owned(),
            action: action.to_owned(),
            resource: String::new(),
            organization: None,
            outcome: "done".to_owned(),
            detail: serde_json::json!({ "b": 1, "a": "two" }),
        }
    }

    #[test]
    fn a_line_that_was_changed_or_moved_does_not_follow() {
        let first = AuditEntry::after(None, draft("key.create"));
        let second = AuditEntry::after(Some(&first), draft("key.revoke"));
        let third = AuditEntry::after(Some(&second), draft("key.update"));
        assert!(
            first.follows(None) && second.follows(Some(&first)) && third.follows(Some(&second))
        );

        let mut changed = second.clone();
        changed.draft.actor = "somebody else".to_owned();
        assert!(!changed.follows(Some(&first)), "a changed line");
        assert!(!third.follows(Some(&first)), "a line was taken out");
        let rewritten = AuditEntry::after(Some(&first), changed.draft);
        assert!(!third.follows(Some(&rewritten)), "a line was rewritten with its hash");
    }

    #[test]
    fn the_hash_is_sha_256_of_hash_number_and_line() {
        // The reference is Python's hashlib over the same bytes.
        assert_eq!(hash("5eed", 7, &draft("key.create")), REFERENCE);
    }

    const REFERENCE: &str = "fddcb2d3cbccf33b496935679f003d9e93724d5ac2101fb99274177a66c2c8cc";
}
