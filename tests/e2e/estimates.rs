//! What a request would come to, how far it may go, and how rates stand.

use serde_json::{Value, json};
use system_tests::{Reply, Serve};

use crate::questions::{ENDLESS_PROMPT, endless, price, with};

#[tokio::test]
async fn an_estimate_says_what_the_request_then_costs_and_runs_nothing() -> anyhow::Result<()> {
    let serve = Serve::start().await?;

    let estimate = serve.api().post("/v1/cost/estimate", &endless(40)).await?.expect(200)?.json();
    let answer = serve.api().chat(&endless(40)).await?.expect(200)?;

    assert_eq!(estimate["prompt_tokens"], ENDLESS_PROMPT);
    assert_eq!(estimate["most"]["charge_nano_usd"], price(ENDLESS_PROMPT, 40));
    assert_eq!(answer.charge(), Some(price(ENDLESS_PROMPT, 40)));
    assert_eq!(estimate["admitted"], true, "{estimate}");
    let poor = serve.create_key("poor", &["--budget", "usd=0.000001"]).await?;
    let api = serve.api().with_key(&poor.api_key);
    let refused = api.post("/v1/cost/estimate", &endless(40)).await?.expect(200)?.json();
    assert_eq!(refused["admitted"], false, "{refused}");
    assert_eq!(refused["refusal"]["code"], "insufficient_quota", "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_request_goes_no_further_than_its_own_bound() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let bound = price(ENDLESS_PROMPT, 30);
    let text = format!("0.{bound:09}");
    let (field, value) = ("x-tollgate-max-cost-usd", text.as_str());

    let by_field = with(endless(1000), &json!({ "max_cost_usd": text }));
    let by_field = serve.api().chat(&by_field).await?.expect(200)?;
    let asked = serve.api().request(reqwest::Method::POST, "/v1/chat/completions");
    let by_header =
        Reply::of(asked.header(field, value).json(&endless(1001))).await?.expect(200)?;

    for reply in [by_field, by_header] {
        let answer: Value = reply.json();
        assert_eq!(answer["usage"]["completion_tokens"], 30, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
        assert_eq!(reply.charge(), Some(bound));
    }
    let nothing = with(endless(10), &json!({ "max_cost_usd": "0.000000001" }));
    let refused = serve.api().chat(&nothing).await?;
    assert!((400..500).contains(&refused.status), "{}", refused.body);
    assert!(refused.body.contains("max_cost_usd"), "{}", refused.body);
    Ok(())
}

#[tokio::test]
async fn answers_say_how_the_tightest_rates_stand() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let limits = ["--limit", "requests-per-minute=5", "--limit", "tokens-per-minute=1000"];
    let key = serve.create_key("rated", &limits).await?;

    let reply = serve.api().with_key(&key.api_key).chat(&endless(20)).await?.expect(200)?;

    let header = |name: &str| reply.header(name).unwrap_or_default().to_owned();
    assert_eq!(header("x-ratelimit-limit-requests"), "5");
    assert_eq!(header("x-ratelimit-remaining-requests"), "4");
    assert_eq!(header("x-ratelimit-limit-tokens"), "1000");
    assert!(header("x-ratelimit-reset-requests").ends_with('s'), "{:?}", reply.headers);
    Ok(())
}
