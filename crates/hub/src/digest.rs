//! What a file must be: the digest that its source tells of it, whatever kind that is.

use std::fmt::Write;

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What is told of a file's content beside its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "hex", rename_all = "kebab-case")]
pub(crate) enum Check {
    /// Large files of a hub.
    Sha256(String),
    /// Small files of a hub: SHA-1 of the blob that Git makes of it.
    GitBlob(String),
    /// Objects of a store.
    Md5(String),
    /// Nothing: its size has to do.
    Size,
}

impl Check {
    /// From a SHA-256 in hexadecimal digits.
    pub(crate) fn sha256(hex: &str) -> Option<Self> {
        is_hex(hex, 64).then(|| Self::Sha256(hex.to_ascii_lowercase()))
    }

    /// From a SHA-1 of Git in hexadecimal digits.
    pub(crate) fn git_blob(hex: &str) -> Option<Self> {
        is_hex(hex, 40).then(|| Self::GitBlob(hex.to_ascii_lowercase()))
    }

    /// From an MD5 in hexadecimal digits.
    pub(crate) fn md5(hex: &str) -> Option<Self> {
        is_hex(hex, 32).then(|| Self::Md5(hex.to_ascii_lowercase()))
    }

    /// Begins to digest a file of `size` bytes.
    pub(crate) fn begin(&self, size: u64) -> Digester {
        match self {
            Self::Sha256(_) => Digester::Sha256(Sha256::new()),
            Self::GitBlob(_) => {
                Digester::GitBlob(Sha1::new_with_prefix(format!("blob {size}\0").as_bytes()))
            }
            Self::Md5(_) => Digester::Md5(Md5::new()),
            Self::Size => Digester::Size,
        }
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256 {hex}"),
            Self::GitBlob(hex) => write!(f, "git blob {hex}"),
            Self::Md5(hex) => write!(f, "md5 {hex}"),
            Self::Size => f.write_str("its size"),
        }
    }
}

/// A digest that is being made.
#[derive(Clone)]
pub(crate) enum Digester {
    Sha256(Sha256),
    GitBlob(Sha1),
    Md5(Md5),
    Size,
}

impl Digester {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digester) => digester.update(bytes),
            Self::GitBlob(digester) => digester.update(bytes),
            Self::Md5(digester) => digester.update(bytes),
            Self::Size => {}
        }
    }

    pub(crate) fn end(self) -> Check {
        match self {
            Self::Sha256(digester) => Check::Sha256(hex(&digester.finalize())),
            Self::GitBlob(digester) => Check::GitBlob(hex(&digester.finalize())),
            Self::Md5(digester) => Check::Md5(hex(&digester.finalize())),
            Self::Size => Check::Size,
        }
    }
}

/// The SHA-256 of `bytes`, in hexadecimal digits.
pub(crate) fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// In hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether `text` is that many hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_digested_as_git_does() {
        let check = Check::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").unwrap();

        let mut digester = check.begin(6);
        digester.update(b"hel");
        digester.update(b"lo\n");

        assert_eq!(digester.end(), check);
    }

    #[test]
    fn what_is_no_digest_is_none() {
        assert_eq!(Check::sha256("ce013625030ba8dba906f756967f9e9ca394464a"), None);
        assert_eq!(Check::md5("d41d8cd98f00b204e9800998ecf8427e-2"), None);
    }
}
