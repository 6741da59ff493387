//! Connections that carry more than one request.

use serde_json::json;
use system_tests::{Api, Serve};

use crate::questions::{about, endless, who, with};
use crate::raw::{Connection, chat};

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let mut connection = Connection::open(serve.endpoint()).await?;
    let refused = with(who(), &json!({ "n": 9 }));
    for (request, status) in [(who(), 200), (refused, 400), (endless(5), 200), (who(), 200)] {
        connection.send(&chat(serve.api_key(), &request.to_string(), "")).await;
        let reply = connection.reply().await?;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    connection.send(&chat(serve.api_key(), &who().to_string(), "connection: close\r\n")).await;
    assert_eq!(connection.reply().await?.status, 200);
    connection.closed().await
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_their_order() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let mut expected = Vec::new();
    let mut ahead = Vec::new();
    for tokens in [30, 3, 12] {
        expected.push(serve.api().chat(&about("a mill", tokens + 1)).await?.text());
        ahead.extend(chat(serve.api_key(), &about("a mill", tokens).to_string(), ""));
    }

    let mut connection = Connection::open(serve.endpoint()).await?;
    connection.send(&ahead).await;

    for (expected, tokens) in expected.iter().zip([30, 3, 12]) {
        let reply = connection.reply().await?;
        let answer: serde_json::Value = serde_json::from_str(&reply.body)?;
        assert_eq!(answer["usage"]["completion_tokens"], tokens, "{reply:?}");
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        assert!(!text.is_empty() && expected.starts_with(text), "{expected:?} {text:?}");
    }
    drop(connection);
    serve.admin().quiet().await
}

#[tokio::test]
async fn many_streams_share_one_http2_connection() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let api = Api::over_http2(serve.endpoint(), serve.api_key());
    let mut streams = Vec::new();
    for number in 0..6 {
        streams.push(api.open(&about(&format!("{number} bees"), 60)).await?);
    }
    assert_eq!(api.chat(&who()).await?.status, 200);

    for (number, events) in streams.into_iter().enumerate() {
        let told = events.rest().await?;
        let alone = serve.api().chat(&about(&format!("{number} bees"), 61)).await?.text();
        assert!(told.done && !told.text().is_empty(), "{told:?}");
        assert!(alone.starts_with(&told.text()), "{alone:?} {:?}", told.text());
    }
    serve.admin().quiet().await
}
