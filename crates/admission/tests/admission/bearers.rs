//! Tokens of identity providers: the good are believed, and nothing else is.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use admission::bearer::{
    Bearer, BearerTokens, Issuer, KeySets, TokenAlgorithm, TokenKeys, TokenProject,
};
use admission::{AdmitError, StoreError};
use async_trait::async_trait;
use domain::{ManualClock, ProjectId, Timestamp};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// A key pair of an issuer.
struct Pair {
    private: EncodingKey,
    public: Jwk,
}

impl Pair {
    fn new(id: &str) -> Self {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let private = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
        let mut public = Jwk::from_encoding_key(&private, Algorithm::ES256).unwrap();
        public.common.key_id = Some(id.to_owned());
        Self { private, public }
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid.clone_from(&self.public.common.key_id);
        encode(&header, claims, &self.private).unwrap()
    }
}

fn set(pairs: &[&Pair]) -> String {
    let keys = pairs.iter().map(|pair| pair.public.clone()).collect();
    serde_json::to_string(&JwkSet { keys }).unwrap()
}

fn project() -> ProjectId {
    ProjectId::from_u128(7)
}

fn claims() -> Value {
    json!({
        "iss": "https://idp.example", "aud": ["tollgate", "other"], "sub": "ada",
        "project": project(), "exp": NOW + 600, "nbf": NOW - 5,
    })
}

fn issuer(keys: TokenKeys) -> Issuer {
    Issuer {
        name: "https://idp.example".to_owned(),
        audiences: vec!["tollgate".to_owned()],
        algorithms: vec![TokenAlgorithm::ES256],
        keys,
        project: TokenProject::Claim("project".to_owned()),
        user_claim: Some("sub".to_owned()),
    }
}

fn tokens(keys: TokenKeys) -> (BearerTokens, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(NOW * 1_000)));
    (BearerTokens::new(vec![issuer(keys)], Arc::clone(&clock) as _).unwrap(), clock)
}

fn why(refused: Result<Bearer, AdmitError>) -> String {
    refused.unwrap_err().to_string()
}

#[test]
fn a_good_token_says_who_bears_it() {
    let pair = Pair::new("a");
    let (tokens, _) = tokens(TokenKeys::Fixed(set(&[&pair])));

    let bearer = tokens.verify(&pair.sign(&claims())).unwrap();

    assert_eq!((bearer.project, bearer.subject.as_deref()), (project(), Some("ada")));
    let again = tokens.verify(&pair.sign(&claims())).unwrap();
    assert_eq!(again, bearer, "and every gateway derives the same");
}

#[test]
fn claims_that_are_not_for_us_or_not_now_are_refused() {
    let pair = Pair::new("a");
    let (tokens, _) = tokens(TokenKeys::Fixed(set(&[&pair])));
    let with = |claim: &str, value: Value| {
        let mut claims = claims();
        claims[claim] = value;
        why(tokens.verify(&pair.sign(&claims)))
    };

    assert!(with("aud", json!("somebody else")).contains("`aud`"));
    assert!(with("aud", Value::Null).contains("`aud`"));
    assert!(with("iss", json!("https://evil.example")).contains("`iss`"));
    assert!(with("exp", json!(NOW - 31)).contains("`exp`"));
    assert!(with("exp", Value::Null).contains("exp"));
    assert!(with("nbf", json!(NOW + 31)).contains("`nbf`"));
    assert!(with("project", json!("proj_nonsense")).contains("project"));
    assert!(with("sub", json!("")).contains("user"));
}

#[test]
fn a_remembered_token_expires_too() {
    let pair = Pair::new("a");
    let (tokens, clock) = tokens(TokenKeys::Fixed(set(&[&pair])));
    let token = pair.sign(&claims());
    assert!(tokens.verify(&token).is_ok());

    clock.advance(Duration::from_secs(600 + 30));

    assert!(why(tokens.verify(&token)).contains("`exp`"));
}

#[test]
fn no_signature_or_one_by_another_key_or_algorithm_is_refused() {
    let (pair, stranger) = (Pair::new("a"), Pair::new("a"));
    let public = set(&[&pair]);
    let (tokens, _) = tokens(TokenKeys::Fixed(public.clone()));

    assert!(why(tokens.verify(&stranger.sign(&claims()))).contains("signature"));

    // The classic confusion: the public key, which everybody knows, used as a shared secret.
    let secret = EncodingKey::from_secret(public.as_bytes());
    let confused = encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
    assert!(why(tokens.verify(&confused)).contains("`alg`"));

    let good = pair.sign(&claims());
    let (_, rest) = good.split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"NONE","typ":"JWT"}"#] {
        let unsigned = format!("{}.{payload}.", base64(header));
        assert!(tokens.verify(&unsigned).is_err(), "{header}");
    }
    let tampered = base64(&claims().to_string().replace("ada", "eve"));
    let (header, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    assert!(why(tokens.verify(&format!("{header}.{tampered}.{signature}"))).contains("signature"));
    for nonsense in ["", "..", "a.b.c", "\u{1f511}.x.y"] {
        assert!(tokens.verify(nonsense).is_err(), "{nonsense}");
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// An issuer's published keys, which a test changes.
struct Published {
    text: Mutex<String>,
    fetched: Mutex<u32>,
}

#[async_trait]
impl KeySets for Published {
    async fn fetch(&self, url: &str) -> Result<String, StoreError> {
        assert_eq!(url, "https://idp.example/keys");
        *self.fetched.lock().unwrap() += 1;
        let text = self.text.lock().unwrap().clone();
        if text.is_empty() { Err(StoreError::new("fetch keys", "503")) } else { Ok(text) }
    }
}

#[tokio::test]
async fn published_keys_may_be_rotated_and_unreachable_for_a_while() {
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    let published = Published { text: Mutex::new(set(&[&old])), fetched: Mutex::new(0) };
    let (tokens, clock) = tokens(TokenKeys::Fetched("https://idp.example/keys".to_owned()));
    tokens.refresh(&published).await;
    assert!(tokens.verify(&old.sign(&claims())).is_ok());

    *published.text.lock().unwrap() = String::new();
    clock.advance(Duration::from_mins(1));
    tokens.refresh(&published).await;
    assert!(tokens.verify(&old.sign(&claims())).is_ok(), "the keys we have are still good");

    *published.text.lock().unwrap() = set(&[&new]);
    assert!(why(tokens.verify(&new.sign(&claims()))).contains("not among"));
    clock.advance(Duration::from_mins(1));
    tokens.refresh(&published).await;
    assert!(tokens.verify(&new.sign(&claims())).is_ok());
    assert!(tokens.verify(&old.sign(&claims())).is_err(), "a withdrawn key is worth nothing");

    let before = *published.fetched.lock().unwrap();
    for _ in 0..5 {
        tokens.refresh(&published).await;
    }
    assert_eq!(*published.fetched.lock().unwrap(), before, "an issuer is not asked all the time");
}

const NOW: u64 = 1_780_000_000;
