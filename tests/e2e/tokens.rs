//! Bearer tokens of an identity provider, whose keys are fetched over HTTP.

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use system_tests::{Fleet, Outsider, Wishes, run, until};

use crate::questions::who;

#[tokio::test]
async fn a_token_of_a_trusted_issuer_is_as_good_as_a_key_and_no_other_token_is()
-> anyhow::Result<()> {
    let (private, public) = pair()?;
    let (stranger, _) = pair()?;
    let set = serde_json::to_string(&JwkSet { keys: vec![public] })?;
    let provider = Outsider::start(move |_| (200, set.clone())).await?;
    let issuers = format!(
        "[[issuers]]\nissuer = \"https://login.example\"\naudiences = [\"tollgate\"]\n\
         algorithms = [\"ES256\"]\njwks_url = \"{}\"\nproject_claim = \"project\"\n\
         user_claim = \"sub\"\n",
        provider.url("/keys")
    );
    let fleet = Fleet::start(1, Wishes { gateway: &issuers, ..Wishes::default() }).await?;
    let data = fleet.data().display().to_string();
    let listed = run(&["admin", "--data", &data, "projects", "list", "--json"]).await?;
    let project = serde_json::from_str::<Value>(&listed)?[0]["id"].clone();
    let good = json!({
        "iss": "https://login.example", "aud": "tollgate", "sub": "ada", "project": project,
        "exp": now() + 600,
    });
    let api = |claims: &Value, key: &EncodingKey| -> anyhow::Result<_> {
        Ok(fleet.api().with_key(&encode(&header(), claims, key)?))
    };

    let believed = api(&good, &private)?;
    let look = async || Ok((believed.get("/v1/models").await?.status == 200).then_some(()));
    until("the issuer's keys are known", LIMIT, look).await?;
    believed.chat(&who()).await?.expect(200)?;

    let with = |field: &str, value: Value| {
        let mut claims = good.clone();
        claims[field] = value;
        claims
    };
    for wrong in [
        with("aud", json!("somebody else")),
        with("iss", json!("https://evil.example")),
        with("exp", json!(now() - 600)),
        with("nbf", json!(now() + 600)),
        with("project", json!("proj_00000000000000000000000000000000")),
    ] {
        let reply = api(&wrong, &private)?.chat(&who()).await?;
        assert_eq!(reply.status, 401, "{wrong}: {}", reply.body);
    }
    let forged = api(&good, &stranger)?.chat(&who()).await?;
    assert_eq!(forged.status, 401, "{}", forged.body);

    let by_user = run(&["admin", "--data", &data, "usage", "--by", "end-user", "--json"]).await?;
    let lines = serde_json::from_str::<Value>(&by_user)?;
    let users = lines.as_array().into_iter().flatten();
    let users: Vec<&str> = users.filter_map(|line| line["group"][0].as_str()).collect();
    assert!(users.iter().any(|user| user.starts_with("user_")), "{lines}");
    Ok(())
}

fn pair() -> anyhow::Result<(EncodingKey, Jwk)> {
    let pem = rcgen::KeyPair::generate()?.serialize_pem();
    let private = EncodingKey::from_ec_pem(pem.as_bytes())?;
    let mut public = Jwk::from_encoding_key(&private, Algorithm::ES256)?;
    public.common.key_id = Some(KEY.to_owned());
    Ok((private, public))
}

fn header() -> Header {
    Header { kid: Some(KEY.to_owned()), ..Header::new(Algorithm::ES256) }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

const KEY: &str = "first";
const LIMIT: Duration = Duration::from_secs(20);
