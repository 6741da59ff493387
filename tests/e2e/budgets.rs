//! Budgets: never overspent, and usable to the last token.

use serde_json::json;
use system_tests::{Key, Serve, Told};

use crate::ledger::Ledger;
use crate::questions::{ENDLESS_PROMPT, about, dollars, endless, price, with};

#[tokio::test]
async fn a_stream_ends_at_the_last_token_its_budget_pays_for() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let budget = price(ENDLESS_PROMPT, 400) + 399;
    let key = serve.create_key("poor", &["--budget", &format!("usd={}", dollars(budget))]).await?;
    let api = serve.api().with_key(&key.api_key);

    let told = api.stream(&endless(1500)).await?;

    check_ended_by_budget(&told);
    let paid = told.charge().expect("the last chunk tells the charge");
    let tokens = told.usage()["completion_tokens"].as_i64().expect("and the tokens");
    assert_eq!(paid, price(ENDLESS_PROMPT, tokens));
    assert!(paid <= budget, "{paid} of {budget}");
    // 99 % of the tokens that the budget pays for.
    assert!(tokens * 100 >= 400 * 99, "it stopped after {tokens} of 400 tokens");
    let row = Ledger::open(serve.data()).await?.row(told.request_id()).await?;
    assert_eq!((row.outcome.as_str(), row.charge), ("budget", paid), "{row:?}");
    check_spent(&serve, &key).await
}

#[tokio::test]
async fn a_whole_answer_ends_at_the_last_token_its_budget_pays_for() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let budget = price(ENDLESS_PROMPT, 100);
    let key = serve.create_key("poor", &["--budget", &format!("usd={}", dollars(budget))]).await?;

    let reply = serve.api().with_key(&key.api_key).chat(&endless(1500)).await?.expect(200)?;

    let answer = reply.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    assert_eq!(answer["error"]["code"], "insufficient_quota", "{answer}");
    let paid = reply.charge().expect("the answer tells the charge");
    assert!(paid <= budget && paid * 100 >= budget * 99, "{paid} of {budget}");
    check_spent(&serve, &key).await
}

#[tokio::test]
async fn many_streams_at_once_do_not_overspend_a_budget() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let budget = 20 * price(ENDLESS_PROMPT, 60) + 399;
    let key =
        serve.create_key("shared", &["--budget", &format!("usd={}", dollars(budget))]).await?;
    check_many(&serve, &key, budget).await
}

#[tokio::test]
async fn a_projects_budget_binds_all_of_its_keys() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let key = serve.create_key("member", &["--project", "small"]).await?;
    let other = serve.create_key("other member", &["--project", "small"]).await?;
    let budget = 20 * price(ENDLESS_PROMPT, 40);
    serve.set_limits(&key.project, &["--budget", &format!("usd={}", dollars(budget))]).await?;
    check_many(&serve, &key, budget).await?;
    check_spent(&serve, &other).await
}

#[tokio::test]
async fn an_organizations_budget_binds_all_of_its_projects() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let key = serve.create_key("one", &["--project", "one"]).await?;
    let other = serve.create_key("two", &["--project", "two"]).await?;
    let budget = 20 * price(ENDLESS_PROMPT, 40);
    serve.set_limits(&key.organization, &["--budget", &format!("usd={}", dollars(budget))]).await?;
    check_many(&serve, &key, budget).await?;
    check_spent(&serve, &other).await
}

/// Twenty streams that want far more than `budget` together.
async fn check_many(serve: &Serve, key: &Key, budget: i64) -> anyhow::Result<()> {
    let api = serve.api().with_key(&key.api_key);
    let mut streams = Vec::new();
    for number in 0..20 {
        let api = api.clone();
        let request = with(about(&format!("{number} owls"), 1000), &json!({ "stream": true }));
        streams.push(tokio::spawn(async move { api.chat(&request).await }));
    }
    let mut admitted = 0;
    for stream in streams {
        let reply = stream.await??;
        match reply.status {
            200 => admitted += 1,
            _ => assert_eq!(reply.error()["code"], "insufficient_quota", "{}", reply.body),
        }
        if reply.status == 200 {
            assert!(reply.body.contains("insufficient_quota"), "{}", reply.body);
        }
    }

    let rows = Ledger::open(serve.data()).await?.settled(admitted).await?;
    let paid: i64 = rows.iter().map(|row| row.charge).sum();
    assert!(paid <= budget, "{paid} of {budget} by {admitted} streams: {rows:#?}");
    assert!(paid * 100 >= budget * 99, "{paid} of {budget} by {admitted} streams: {rows:#?}");
    check_spent(serve, key).await
}

fn check_ended_by_budget(told: &Told) {
    assert!(told.done, "{told:?}");
    assert_eq!(told.finish_reason(), Some("length"), "{told:?}");
    let last = told.events.last().expect("there are events");
    assert_eq!(last["error"]["code"], "insufficient_quota", "{last}");
}

/// Nothing more is admitted, and a client is told not to try again.
async fn check_spent(serve: &Serve, key: &Key) -> anyhow::Result<()> {
    let reply = serve.api().with_key(&key.api_key).chat(&endless(10)).await?.expect(429)?;
    assert_eq!(reply.error()["code"], "insufficient_quota", "{}", reply.body);
    assert_eq!(reply.header("x-should-retry"), Some("false"), "{:?}", reply.headers);
    assert_eq!(reply.header("retry-after"), None, "{:?}", reply.headers);
    serve.admin().quiet().await
}
