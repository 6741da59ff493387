//! The response cache: the same request costs nothing the second time, and no other tenant sees it.

use serde_json::json;
use system_tests::Serve;

use crate::ledger::Ledger;
use crate::questions::{about, endless, with};

#[tokio::test]
async fn the_same_request_is_answered_from_the_cache_for_nothing() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let first = serve.api().chat(&endless(40)).await?.expect(200)?;
    let second = serve.api().chat(&endless(40)).await?.expect(200)?;
    let streamed = serve.api().stream(&endless(40)).await?;

    assert_eq!(first.header(CACHE), Some("miss"));
    assert_eq!(second.header(CACHE), Some("hit"));
    assert_eq!(streamed.header(CACHE), Some("hit"));
    assert!(!first.text().is_empty());
    assert_eq!((second.text(), streamed.text()), (first.text(), first.text()));
    assert_eq!(streamed.finish_reason(), Some("length"));
    assert!(first.charge() > Some(0));
    assert_eq!((second.charge(), streamed.charge()), (Some(0), Some(0)));
    let ledger = Ledger::open(serve.data()).await?;
    for request in [second.request_id(), streamed.request_id()] {
        let row = ledger.row(request).await?;
        assert_eq!((row.outcome.as_str(), row.charge), ("cache_hit", 0), "{row:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_is_the_projects_own() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let stranger = serve.create_key("stranger", &["--project", "elsewhere"]).await?;
    let colleague = serve.create_key("colleague", &[]).await?;
    serve.api().chat(&endless(20)).await?.expect(200)?;

    let theirs = serve.api().with_key(&stranger.api_key).chat(&endless(20)).await?.expect(200)?;
    let ours = serve.api().with_key(&colleague.api_key).chat(&endless(20)).await?.expect(200)?;

    assert_eq!(theirs.header(CACHE), Some("miss"));
    assert!(theirs.charge() > Some(0), "{}", theirs.body);
    assert_eq!(ours.header(CACHE), Some("hit"));
    Ok(())
}

#[tokio::test]
async fn only_what_is_reproducible_is_cached() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let sampled = with(about("rain", 20), &json!({ "temperature": 1 }));
    for _ in 0..2 {
        let reply = serve.api().chat(&sampled).await?.expect(200)?;
        assert_eq!(reply.header(CACHE), None, "{:?}", reply.headers);
        assert!(reply.charge() > Some(0), "{}", reply.body);
    }
    let seeded = with(sampled, &json!({ "seed": 7 }));
    let first = serve.api().chat(&seeded).await?.expect(200)?;
    let second = serve.api().chat(&seeded).await?.expect(200)?;
    assert_eq!((first.header(CACHE), second.header(CACHE)), (Some("miss"), Some("hit")));

    for change in [json!({ "max_tokens": 21 }), json!({ "seed": 8 }), json!({ "top_p": 0.5 })] {
        let reply = serve.api().chat(&with(seeded.clone(), &change)).await?.expect(200)?;
        assert_eq!(reply.header(CACHE), Some("miss"), "{change}");
    }
    Ok(())
}

#[tokio::test]
async fn equal_requests_at_the_same_time_are_computed_once() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let mut asking = Vec::new();
    for _ in 0..8 {
        let api = serve.api();
        asking.push(tokio::spawn(async move { api.chat(&endless(100)).await }));
    }
    let mut texts = Vec::new();
    for asked in asking {
        texts.push(asked.await??.expect(200)?.text());
    }

    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    let rows = Ledger::open(serve.data()).await?.settled(8).await?;
    let paid = rows.iter().filter(|row| row.charge > 0).count();
    assert_eq!(paid, 1, "{rows:#?}");
    Ok(())
}

const CACHE: &str = "x-tollgate-cache";
