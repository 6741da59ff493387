//! A model whose context is larger than the cache of whoever serves it: clients see a smaller context, never a failure.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::{Value, json};
use system_tests::{Fleet, Reply, Serve, until};

use crate::questions::{MODEL, endless, who, with};

/// The demo model's keys and values take 4 KiB for each token: this is a context of 256.
const SMALL: &str = "1MiB";

fn unbounded() -> Value {
    let mut request = endless(1);
    if let Some(request) = request.as_object_mut() {
        request.remove("max_tokens");
    }
    request
}

fn total(reply: &Reply) -> Option<i64> {
    reply.json()["usage"]["total_tokens"].as_i64()
}

#[tokio::test]
async fn a_chat_without_a_bound_ends_where_the_cache_does() -> anyhow::Result<()> {
    let serve = Serve::start_with(&["--kv-cache", SMALL]).await?;

    let reply = serve.api().chat(&unbounded()).await?.expect(200)?;

    assert_eq!(reply.json()["choices"][0]["finish_reason"], "length", "{}", reply.body);
    assert_eq!(total(&reply), Some(256));
    let models = serve.api().get("/v1/models").await?.json();
    assert_eq!(models["data"][0]["context_length"], 256, "{models}");
    let told = serve.api().stream(&unbounded()).await?;
    assert_eq!(told.finish_reason(), Some("length"));
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_the_cache_is_refused_as_what_does_not_fit_a_model() -> anyhow::Result<()>
{
    let serve = Serve::start_with(&["--kv-cache", SMALL]).await?;
    let api = serve.api();
    let content = "one two three ".repeat(200);
    let long = json!({ "messages": [{ "role": "user", "content": content }] });
    let tokens = json!({ "model": MODEL, "prompt": vec![5; 300] });
    let replies = [
        (api.chat(&with(who(), &long)).await?, "messages"),
        (api.chat(&with(who(), &json!({ "max_tokens": 256 }))).await?, "messages"),
        (api.post("/v1/completions", &tokens).await?, "prompt"),
    ];

    for (reply, param) in &replies {
        let error = reply.error();
        assert_eq!(reply.status, 400, "{error}");
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
        assert_eq!(error["param"], *param, "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("256")), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn workers_with_different_caches_serve_one_model_with_the_largest_of_their_contexts()
-> anyhow::Result<()> {
    let worker = |bytes: u32| format!("[engine]\nkv_bytes = {bytes}\n");
    let fleet = Fleet::start_each(&[worker(1 << 20), worker(2 << 20)], "").await?;
    fleet.whole().await?;
    let api = fleet.api();
    // What a model is offered with follows what workers tell a moment later.
    until("the larger context is told", Duration::from_secs(30), async || {
        let model = api.get(&format!("/v1/models/{MODEL}")).await?;
        Ok((model.json()["context_length"] == 512).then_some(()))
    })
    .await?;

    let chats = (0..6).map(|at| {
        let content = format!("Tell me story number {at}.");
        let messages = json!([{ "role": "user", "content": content }]);
        let request = with(unbounded(), &json!({ "messages": messages }));
        let api = &api;
        async move { api.chat(&request).await?.expect(200) }
    });
    let replies = try_join_all(chats).await?;

    for reply in &replies {
        assert_eq!(total(reply), Some(512), "{}", reply.body);
    }
    let prompt = json!({ "model": MODEL, "prompt": vec![5; 400], "max_tokens": 8 });
    api.post("/v1/completions", &prompt).await?.expect(200)?;
    Ok(())
}
