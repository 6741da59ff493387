//! Bearer tokens of tenants: JSON Web Tokens (RFC 7519) that somebody else's identity provider signed.
//!
//! Promises: a token counts only if its issuer is configured, its signature is by a key of that issuer and by an
//! algorithm that is allowed for it, it is for us, and its time has come and is not over. `none` is no algorithm,
//! and a key is never used for another family of algorithms than its own. Verifying waits for nothing: keys are
//! fetched ahead, and again when a token names one that is not known.
//!
//! Knows nothing of HTTP: whoever fetches key sets implements [`KeySets`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use domain::{Clock, KeyId, ProjectId, Timestamp};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use tokio::sync::Notify;

use crate::{AdmitError, StoreError};

/// Whose tokens are believed, and what they mean.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The `iss` claim.
    pub name: String,
    /// Accepted values of the `aud` claim; at least one must be in a token.
    pub audiences: Vec<String>,
    /// Accepted algorithms.
    pub algorithms: Vec<TokenAlgorithm>,
    /// Where its keys are.
    pub keys: TokenKeys,
    /// Which project a token is for.
    pub project: TokenProject,
    /// The claim that names the end user, if tokens name one.
    pub user_claim: Option<String>,
}

/// An algorithm that tokens may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
pub enum TokenAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug)]
pub enum TokenKeys {
    /// A JSON Web Key Set (RFC 7517), as text.
    Fixed(String),
    /// The address of one.
    Fetched(String),
}

/// Which project a token is for.
#[derive(Clone, Debug)]
pub enum TokenProject {
    /// Always this one.
    Fixed(ProjectId),
    /// The one whose id is in this claim.
    Claim(String),
}

/// Who a good token says its bearer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The project.
    pub project: ProjectId,
    /// What the issuer calls the end user, if it says.
    pub subject: Option<String>,
    /// Stands for the issuer's tokens of this project where a key's id would stand.
    pub credential: KeyId,
}

/// Gets key sets from where they are published.
#[async_trait]
pub trait KeySets: Send + Sync {
    /// The text at `url`.
    async fn fetch(&self, url: &str) -> Result<String, StoreError>;
}

/// Keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key set of issuer `{issuer}` is not a JSON Web Key Set (RFC 7517): {reason}")]
pub struct KeySetError {
    issuer: String,
    reason: String,
}

/// Verifies tokens of every configured issuer.
pub struct BearerTokens {
    issuers: ArcSwap<Vec<Known>>,
    clock: Arc<dyn Clock>,
    /// Tokens that were verified before, by hash: a signature costs more than everything else together.
    verified: Mutex<HashMap<[u8; 32], Verified>>,
    missing: Notify,
}

struct Known {
    issuer: Issuer,
    keys: ArcSwap<Vec<NamedKey>>,
    fetched_at: Mutex<Option<Timestamp>>,
}

struct NamedKey {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    key: DecodingKey,
}

#[derive(Clone)]
struct Verified {
    bearer: Bearer,
    begins: u64,
    ends: u64,
}

impl BearerTokens {
    /// Tokens of `issuers`; keys that are published elsewhere are fetched by [`Self::follow`].
    pub fn new(issuers: Vec<Issuer>, clock: Arc<dyn Clock>) -> Result<Self, KeySetError> {
        let issuers = ArcSwap::from_pointee(known(issuers, &[])?);
        Ok(Self { issuers, clock, verified: Mutex::default(), missing: Notify::new() })
    }

    /// From now on tokens of `issuers` are believed, and no others. Keys that were fetched from where one still
    /// publishes them are kept; others are fetched by the next [`Self::refresh`].
    pub fn replace(&self, issuers: Vec<Issuer>) -> Result<(), KeySetError> {
        let issuers = known(issuers, &self.issuers.load())?;
        self.issuers.store(Arc::new(issuers));
        // What an issuer signed that is not believed any more must not live on.
        self.verified().clear();
        Ok(())
    }

    /// Who bears `token`.
    pub fn verify(&self, token: &str) -> Result<Bearer, AdmitError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = self.verified().get(&hash).cloned();
        let verified = match known {
            Some(verified) => verified,
            None => self.verify_anew(token, hash)?,
        };
        let now = self.clock.now().seconds();
        if now + LEEWAY_SECONDS < verified.begins {
            return Err(bad("its time (`nbf`) has not come yet"));
        }
        if now >= verified.ends.saturating_add(LEEWAY_SECONDS) {
            return Err(bad("it has expired (`exp`)"));
        }
        Ok(verified.bearer)
    }

    /// Keeps the keys of every issuer new, until dropped.
    pub async fn follow(&self, source: &dyn KeySets) {
        loop {
            self.refresh(source).await;
            tokio::select! {
                () = tokio::time::sleep(REFRESH_INTERVAL) => {}
                () = self.missing.notified() => {}
            }
        }
    }

    /// Fetches the keys of issuers that publish them, unless that was done a moment ago.
    pub async fn refresh(&self, source: &dyn KeySets) {
        for known in self.issuers.load_full().iter() {
            let TokenKeys::Fetched(url) = &known.issuer.keys else { continue };
            if !known.may_fetch(self.clock.now()) {
                continue;
            }
            let parsed = match source.fetch(url).await {
                Ok(text) => {
                    parse_keys(&known.issuer.name, &text).map_err(|error| error.to_string())
                }
                Err(error) => Err(format!("{error:?}")),
            };
            match parsed {
                Ok(keys) => {
                    known.keys.store(Arc::new(keys));
                    // A key that was withdrawn must not live on in what it once signed.
                    self.verified().clear();
                }
                // Keys that were good a moment ago are still the best there are.
                Err(error) => {
                    tracing::warn!(issuer = known.issuer.name, error, "keys not fetched");
                }
            }
        }
    }

    fn verify_anew(&self, token: &str, hash: [u8; 32]) -> Result<Verified, AdmitError> {
        let header = decode_header(token).map_err(|_| bad("it is not a JSON Web Token"))?;
        let claimed = insecure_issuer(token).ok_or_else(|| bad("it names no issuer (`iss`)"))?;
        let issuers = self.issuers.load_full();
        let known = issuers.iter().find(|known| known.issuer.name == claimed);
        let known = known.ok_or_else(|| bad("its issuer (`iss`) is not known here"))?;
        let allowed = known.issuer.algorithms.iter().any(|one| one.library() == header.alg);
        if !allowed {
            return Err(bad("its algorithm (`alg`) is not allowed for its issuer"));
        }
        let claims = self.check_signature(token, known, header.alg, header.kid.as_deref())?;
        let verified = known.issuer.read(&claims)?;
        self.remember(hash, verified.clone());
        Ok(verified)
    }

    fn check_signature(
        &self,
        token: &str,
        known: &Known,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<Map<String, Value>, AdmitError> {
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&known.issuer.audiences);
        validation.set_issuer(&[&known.issuer.name]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Time is checked each time, by our clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let keys = known.keys.load();
        let mut fitting = keys.iter().filter(|key| key.fits(algorithm, id)).peekable();
        if fitting.peek().is_none() {
            self.missing.notify_one();
            return Err(bad("the key that signed it is not among its issuer's keys"));
        }
        let mut reason = "its signature is wrong";
        for key in fitting {
            match decode::<Map<String, Value>>(token, &key.key, &validation) {
                Ok(decoded) => return Ok(decoded.claims),
                Err(error) => reason = wrong(error.kind()),
            }
        }
        Err(bad(reason))
    }

    fn remember(&self, hash: [u8; 32], verified: Verified) {
        let mut all = self.verified();
        if all.len() >= MAX_REMEMBERED {
            let now = self.clock.now().seconds();
            all.retain(|_, one| one.ends > now);
            if all.len() >= MAX_REMEMBERED {
                all.clear();
            }
        }
        all.insert(hash, verified);
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Issuers with their keys; those that are fetched as `before` has them, if it does.
fn known(issuers: Vec<Issuer>, before: &[Known]) -> Result<Vec<Known>, KeySetError> {
    let known = |issuer: Issuer| {
        let keys = match &issuer.keys {
            TokenKeys::Fixed(text) => Arc::new(parse_keys(&issuer.name, text)?),
            TokenKeys::Fetched(url) => {
                let there = |known: &&Known| matches!(&known.issuer.keys, TokenKeys::Fetched(one) if one == url);
                before.iter().find(there).map(|known| known.keys.load_full()).unwrap_or_default()
            }
        };
        Ok(Known { issuer, keys: ArcSwap::new(keys), fetched_at: Mutex::default() })
    };
    issuers.into_iter().map(known).collect()
}

impl Issuer {
    /// What the claims of a token that it signed mean.
    fn read(&self, claims: &Map<String, Value>) -> Result<Verified, AdmitError> {
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let project = match &self.project {
            TokenProject::Fixed(project) => *project,
            TokenProject::Claim(claim) => text(claim)
                .and_then(|id| id.parse().ok())
                .ok_or_else(|| bad("the claim that names its project holds no project id"))?,
        };
        let subject = match &self.user_claim {
            None => None,
            Some(claim) => {
                let subject = text(claim).filter(|subject| !subject.is_empty());
                Some(subject.ok_or_else(|| bad("the claim that names its user is missing"))?)
            }
        };
        let number = |claim: &str| claims.get(claim).and_then(Value::as_f64);
        let ends = number("exp").ok_or_else(|| bad("it never expires (`exp`)"))?;
        let bearer = Bearer {
            project,
            subject: subject.map(str::to_owned),
            credential: credential(&self.name, project),
        };
        let begins = number("nbf").unwrap_or(0.0);
        Ok(Verified { bearer, begins: begins.max(0.0) as u64, ends: ends.max(0.0) as u64 })
    }
}

impl Known {
    /// Whether it is time to fetch, which it is then counted as.
    fn may_fetch(&self, now: Timestamp) -> bool {
        let mut fetched_at = self.fetched_at.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = fetched_at.is_some_and(|at| now.since(at) < SHORTEST_INTERVAL);
        if !recently {
            *fetched_at = Some(now);
        }
        !recently
    }
}

impl NamedKey {
    fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let named = id.is_none() || self.id.is_none() || self.id.as_deref() == id;
        let meant = self.algorithm.is_none_or(|own| own == algorithm);
        named && meant && self.key.family().algorithms().contains(&algorithm)
    }
}

impl TokenAlgorithm {
    const fn library(self) -> Algorithm {
        match self {
            Self::RS256 => Algorithm::RS256,
            Self::RS384 => Algorithm::RS384,
            Self::RS512 => Algorithm::RS512,
            Self::PS256 => Algorithm::PS256,
            Self::PS384 => Algorithm::PS384,
            Self::PS512 => Algorithm::PS512,
            Self::ES256 => Algorithm::ES256,
            Self::ES384 => Algorithm::ES384,
            Self::EdDSA => Algorithm::EdDSA,
        }
    }
}

/// The keys of a set that can verify signatures; others are left out.
fn parse_keys(issuer: &str, text: &str) -> Result<Vec<NamedKey>, KeySetError> {
    let refused = |reason: String| KeySetError { issuer: issuer.to_owned(), reason };
    let set: JwkSet = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
    let keys: Vec<NamedKey> = set.keys.iter().filter_map(named_key).collect();
    if keys.is_empty() {
        return Err(refused("it holds no key that verifies signatures".to_owned()));
    }
    Ok(keys)
}

fn named_key(jwk: &Jwk) -> Option<NamedKey> {
    let signs = jwk
        .common
        .public_key_use
        .as_ref()
        .is_none_or(|purpose| matches!(purpose, PublicKeyUse::Signature));
    // A shared secret in a published set is nobody's secret.
    let public = !matches!(jwk.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_));
    let key = DecodingKey::from_jwk(jwk).ok().filter(|_| signs && public)?;
    let algorithm =
        jwk.common.key_algorithm.and_then(|algorithm| algorithm.to_string().parse().ok());
    Some(NamedKey { id: jwk.common.key_id.clone(), algorithm, key })
}

/// The issuer that a token claims, before anything of it is believed.
fn insecure_issuer(token: &str) -> Option<String> {
    let claims: Map<String, Value> = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

/// The id that stands for an issuer's tokens of a project.
fn credential(issuer: &str, project: ProjectId) -> KeyId {
    let hash = Sha256::new()
        .chain_update(b"bearer tokens\0")
        .chain_update(project.as_bytes())
        .chain_update(issuer.as_bytes())
        .finalize();
    let half: [u8; 16] = std::array::from_fn(|at| hash[at]);
    KeyId::from_u128(u128::from_be_bytes(half))
}

fn wrong(kind: &jsonwebtoken::errors::ErrorKind) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match kind {
        ErrorKind::InvalidAudience => "it is meant for somebody else (`aud`)",
        ErrorKind::InvalidIssuer => "its issuer (`iss`) is not known here",
        ErrorKind::MissingRequiredClaim(_) => "it lacks one of `exp`, `iss` and `aud`",
        _ => "its signature is wrong",
    }
}

const fn bad(reason: &'static str) -> AdmitError {
    AdmitError::BadToken { reason }
}

/// Clocks differ.
const LEEWAY_SECONDS: u64 = 30;
const REFRESH_INTERVAL: Duration = Duration::from_mins(10);
/// Tokens with made-up key ids must not make us ask an issuer all the time.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(10);
const MAX_REMEMBERED: usize = 16_384;
