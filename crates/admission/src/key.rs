//! API keys: what is shown once, and what is kept.
//!
//! A key is `sk-tg-` and 256 random bits. At rest there is only its HMAC-SHA-256 (RFC 2104) under a
//! server-side pepper, so a stolen database neither reveals keys nor lets anybody test guesses.

use std::fmt;

use domain::Secret;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

/// A key in the clear. It exists while it is being made or checked, and is never stored.
#[derive(Clone, Debug)]
pub struct ApiKey(Secret<String>);

impl ApiKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self::of(&random())
    }

    fn of(content: &[u8; KEY_BYTES]) -> Self {
        Self(Secret::new(format!("{PREFIX}{}", hex(content))))
    }

    /// What a caller presented, if it has the form of a key.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let well_formed =
            digits.len() == 2 * KEY_BYTES && digits.bytes().all(|byte| DIGITS.contains(&byte));
        well_formed.then(|| Self(Secret::new(text.to_owned())))
    }

    /// The key's text, for showing it once.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// What is kept of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// A digest read back from where it was kept.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest, for keeping it.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refused = || serde::de::Error::custom("a digest must be 64 hexadecimal digits");
        from_hex(&text).map(Self).ok_or_else(refused)
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest([redacted])")
    }
}

/// The secret that digests are made with. All gateways of one installation share it.
#[derive(Clone, Debug)]
pub struct Pepper(Secret<Vec<u8>>);

/// The pepper is too short to be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pepper must have at least {PEPPER_BYTES} bytes")]
pub struct PepperError;

impl Pepper {
    /// A new random pepper.
    pub fn generate() -> Self {
        Self(Secret::new(random::<PEPPER_BYTES>().to_vec()))
    }

    /// A pepper kept elsewhere.
    pub fn new(bytes: Vec<u8>) -> Result<Self, PepperError> {
        if bytes.len() < PEPPER_BYTES { Err(PepperError) } else { Ok(Self(Secret::new(bytes))) }
    }

    /// The pepper, for keeping it.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// What is kept of `key`.
    pub fn digest(&self, key: &ApiKey) -> KeyDigest {
        KeyDigest(self.mac(&[key.expose().as_bytes()]))
    }

    /// The key that grows from `seed`. Whoever has only one of seed and pepper knows nothing of it.
    pub(crate) fn key(&self, seed: &Seed) -> ApiKey {
        // What `digest` is made of begins with a key's prefix, so the two never meet.
        ApiKey::of(&self.mac(&[b"tollgate key 1\0", &seed.0]))
    }

    /// What tells one request from another without telling what either says.
    pub(crate) fn fingerprint(&self, parts: &[&[u8]]) -> String {
        let mut marked: Vec<&[u8]> = vec![b"tollgate request 1\0"];
        marked.extend(parts);
        hex(&self.mac(&marked))
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose()).expect("any length is a key");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// What a key grows from, given the pepper; good for nothing without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Seed([u8; 32]);

impl Seed {
    /// A new random seed.
    pub(crate) fn generate() -> Self {
        Self(random())
    }
}

impl TryFrom<String> for Seed {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        from_hex(&text).map(Self).ok_or("a seed must be 64 hexadecimal digits")
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        hex(&seed.0)
    }
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut random = [0_u8; BYTES];
    getrandom::fill(&mut random).expect("the operating system supplies randomness");
    random
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
    bytes.filter(|_| text.len() == 64)?.try_into().ok()
}

const PREFIX: &str = "sk-tg-";
const KEY_BYTES: usize = 32;
const PEPPER_BYTES: usize = 32;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_digests_the_same() {
        let pepper = Pepper::generate();
        let key = ApiKey::generate();
        let again = ApiKey::parse(key.expose()).unwrap();
        assert_eq!(pepper.digest(&key), pepper.digest(&again));
        assert_ne!(pepper.digest(&key), Pepper::generate().digest(&key));
        assert_ne!(pepper.digest(&key), pepper.digest(&ApiKey::generate()));
    }

    #[test]
    fn what_is_not_a_key_is_not_looked_up() {
        let key = ApiKey::generate();
        for text in ["", "sk-tg-", "sk-tg-xyz", &key.expose()[1..], &format!("{}0", key.expose())] {
            assert!(ApiKey::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = ApiKey::generate();
        assert!(!format!("{key:?}").contains(&key.expose()[6..]));
    }

    #[test]
    fn the_digest_is_hmac_sha_256() {
        // RFC 4231 has no case with our key form, so the reference is openssl's:
        // printf 'sk-tg-00..00' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0b..0b (32 bytes)
        let pepper = Pepper::new(vec![0x0b; 32]).unwrap();
        let key = ApiKey::parse(&format!("sk-tg-{}", "0".repeat(64))).unwrap();
        let digest = pepper.digest(&key);
        let hex: Vec<String> = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex.concat(), REFERENCE);
    }

    const REFERENCE: &str = "34822c262f4c5df0f9da030c32c0b7a843118d41715fa25be76dc5f83ce25f60";
}
