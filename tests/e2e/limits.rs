//! Limits on rates and concurrency: refused beyond them, and not a moment longer.

use system_tests::{Reply, Serve};

use crate::questions::{about, endless, who};

#[tokio::test]
async fn requests_per_minute_are_counted() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let key = serve.create_key("slow", &["--limit", "requests-per-minute=2"]).await?;
    let api = serve.api().with_key(&key.api_key);

    api.chat(&who()).await?.expect(200)?;
    api.chat(&who()).await?.expect(200)?;
    check_refused(&api.chat(&who()).await?);

    serve.api().chat(&who()).await?.expect(200)?;
    serve.admin().quiet().await
}

#[tokio::test]
async fn tokens_per_minute_are_counted_as_they_are_produced() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let key = serve.create_key("terse", &["--limit", "tokens-per-minute=300"]).await?;
    let api = serve.api().with_key(&key.api_key);

    // A stream may end beyond the limit; then others wait for it.
    let told = api.stream(&endless(320)).await?;
    assert_eq!(told.usage()["completion_tokens"], 320);
    check_refused(&api.chat(&about("a pond", 10)).await?);

    // Before the first minute is over, three hundred tokens cannot have come back.
    let large = api.chat(&about(&"very ".repeat(320), 10)).await?;
    assert!((400..500).contains(&large.status), "{}", large.body);
    serve.admin().quiet().await
}

#[tokio::test]
async fn a_slot_is_free_as_soon_as_its_stream_has_ended() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let key = serve.create_key("narrow", &["--limit", "concurrent-requests=1"]).await?;
    let api = serve.api().with_key(&key.api_key);
    let mut running = api.open(&endless(1500)).await?;
    running.texts(1).await?;
    check_refused(&api.chat(&who()).await?);

    drop(running);
    serve.admin().quiet().await?;

    // Each request follows the last byte of the one before it at once.
    for number in 0..20 {
        let told = api.stream(&about(&format!("{number} foxes"), 5)).await?;
        assert!(told.done, "{told:?}");
        api.chat(&about(&format!("{number} hens"), 5)).await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test]
async fn limits_of_a_project_and_an_organization_bind_their_keys() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let member = serve.create_key("member", &["--project", "team"]).await?;
    let other = serve.create_key("other member", &["--project", "team"]).await?;
    let (member_api, other_api) =
        (serve.api().with_key(&member.api_key), serve.api().with_key(&other.api_key));

    serve.set_limits(&member.project, &["--limit", "concurrent-requests=1"]).await?;
    let mut running = member_api.open(&endless(1500)).await?;
    running.texts(1).await?;
    check_refused(&other_api.chat(&who()).await?);
    serve.api().chat(&who()).await?.expect(200)?;
    drop(running);
    serve.admin().quiet().await?;

    serve.set_limits(&member.project, &["--no-limits"]).await?;
    serve.set_limits(&member.organization, &["--limit", "concurrent-requests=1"]).await?;
    let mut running = member_api.open(&endless(1500)).await?;
    running.texts(1).await?;
    check_refused(&serve.api().chat(&who()).await?);
    drop(running);
    serve.admin().quiet().await
}

fn check_refused(reply: &Reply) {
    assert_eq!(reply.status, 429, "{}", reply.body);
    assert_eq!(reply.error()["code"], "rate_limit_exceeded", "{}", reply.body);
    let wait: u64 = reply.header("retry-after").and_then(|wait| wait.parse().ok()).unwrap_or(0);
    assert!((1..=120).contains(&wait), "{:?}", reply.headers);
    assert_ne!(reply.header("x-should-retry"), Some("false"), "{:?}", reply.headers);
}
