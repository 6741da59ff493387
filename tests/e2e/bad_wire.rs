//! Bytes that are no request, or one that is too large: refused, and nobody else notices.

use std::fmt::Write as _;

use system_tests::{Reply, Serve};

use crate::ledger::Ledger;
use crate::questions::{endless, who};
use crate::raw::{Connection, chat};

#[tokio::test]
async fn a_body_that_is_no_json_object_is_a_400() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let deep = "[".repeat(200_000);
    let deep_in_field = format!("{{\"messages\": {}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let twice = who().to_string().repeat(2);
    let good = who().to_string();
    let nan = good.replacen("\"temperature\":0", "\"temperature\":NaN", 1);
    let huge = good.replacen("\"temperature\":0", "\"temperature\":1e999", 1);
    let bodies: [&[u8]; 14] = [
        b"",
        b"{",
        &good.as_bytes()[..good.len() - 1],
        &good.as_bytes()[..good.len() / 2],
        b"[]",
        b"[{\"model\": \"tollgate-demo\"}]",
        b"null",
        b"\"text\"",
        b"model=tollgate-demo",
        b"{\"model\": \"\xff\xfe\"}",
        deep.as_bytes(),
        deep_in_field.as_bytes(),
        twice.as_bytes(),
        nan.as_bytes(),
    ];

    for body in bodies.into_iter().chain([huge.as_bytes()]) {
        let reply = post(&serve, body.to_vec()).await?;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        assert_eq!(reply.status, 400, "{shown}: {}", reply.body);
        assert!(reply.error()["message"].is_string(), "{shown}: {}", reply.body);
    }
    still_fine(&serve).await
}

#[tokio::test]
async fn a_body_that_is_too_large_is_a_413() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let announced = post(&serve, vec![b' '; 10_000_000]).await?;
    assert_eq!(
        (announced.status, announced.error()["code"].as_str()),
        (413, Some("request_too_large"))
    );

    let mut connection = Connection::open(serve.endpoint()).await?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        serve.api_key()
    );
    connection.send(head.as_bytes()).await;
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(0x10_0000));
    for _ in 0..10 {
        connection.send(chunk.as_bytes()).await;
    }
    let unannounced = connection.reply().await?;
    assert_eq!(unannounced.status, 413, "{unannounced:?}");
    connection.closed().await?;

    let mut connection = Connection::open(serve.endpoint()).await?;
    let lie = head.replace("transfer-encoding: chunked", "content-length: 99999999999999999999");
    connection.send(lie.as_bytes()).await;
    let reply = connection.reply().await?;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    still_fine(&serve).await
}

#[tokio::test]
async fn headers_that_are_too_large_are_a_431() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let mut many = String::new();
    for number in 0..1000 {
        let _ = write!(many, "x-{number}: {}\r\n", "v".repeat(40));
    }
    for more in [
        format!("x-large: {}\r\n", "v".repeat(40_000)),
        format!("x-large: {}\r\n", "v".repeat(1_200_000)),
        many,
    ] {
        let mut connection = Connection::open(serve.endpoint()).await?;
        connection.send(&chat(serve.api_key(), &who().to_string(), &more)).await;
        let reply = connection.reply().await?;
        assert_eq!(reply.status, 431, "{} bytes: {reply:?}", more.len());
        assert_eq!(reply.error()["code"], "headers_too_large", "{reply:?}");
    }
    let long = format!("GET /v1/models?{} HTTP/1.1\r\nhost: x\r\n\r\n", "q".repeat(40_000));
    let mut connection = Connection::open(serve.endpoint()).await?;
    connection.send(long.as_bytes()).await;
    assert_eq!(connection.reply().await?.status, 431);
    still_fine(&serve).await
}

#[tokio::test]
async fn what_is_no_http_gets_a_400_or_a_closed_door() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let garbage: [&[u8]; 7] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nno colon here\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\ngarbage after a preface",
    ];
    for bytes in garbage {
        let mut connection = Connection::open(serve.endpoint()).await?;
        connection.send(bytes).await;
        connection.end_sending().await;
        if let Ok(reply) = connection.reply().await {
            assert!((400..500).contains(&reply.status), "{bytes:?}: {reply:?}");
        }
    }

    // Half a head and half a body, and then nothing: the client has left.
    for half in
        [&b"POST /v1/chat/comp"[..], &chat(serve.api_key(), &endless(1500).to_string(), "")[..300]]
    {
        let mut connection = Connection::open(serve.endpoint()).await?;
        connection.send(half).await;
        drop(connection);
    }
    still_fine(&serve).await
}

async fn post(serve: &Serve, body: Vec<u8>) -> anyhow::Result<Reply> {
    let request = serve.api().request(reqwest::Method::POST, "/v1/chat/completions");
    Reply::of(request.header("content-type", "application/json").body(body)).await
}

/// The server still answers, holds nothing, and has one row: that of the answer.
async fn still_fine(serve: &Serve) -> anyhow::Result<()> {
    let answer = serve.api().chat(&who()).await?.expect(200)?;
    serve.admin().quiet().await?;
    let rows = Ledger::open(serve.data()).await?.settled(1).await?;
    assert_eq!(rows[0].request, answer.request_id());
    Ok(())
}
