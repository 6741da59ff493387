//! How long it takes from nothing to the first streamed token.

use std::time::Duration;

use anyhow::{Context as _, bail};
use load_tests::{Client, Percentiles, Product, Question, Target};
use serde_json::json;
use tokio::time::Instant;

use super::{Place, say};

/// Always `true` once it was measured: a time by itself is not judged.
pub(crate) async fn startup(place: &Place) -> anyhow::Result<bool> {
    say("\nstartup: `tollgate serve` in an empty folder, to the first streamed token");
    let product = place.product()?;
    let (mut ready, mut first) = (Vec::new(), Vec::new());
    for attempt in 1..=ATTEMPTS {
        let (until_ready, until_first) = start(&product).await?;
        say(&format!("start {attempt}  ready {until_ready:?}  first token {until_first:?}"));
        ready.push(until_ready);
        first.push(until_first);
    }
    let [ready, first] = [ready, first].map(|times| times.into_iter().collect::<Percentiles>());
    let [ready, first] = [ready, first].map(|times| times.at(50.0).unwrap_or_default());
    let met = if first < TARGET { "met" } else { "MISSED" };
    say(&format!("median of {ATTEMPTS}: ready {ready:?}, first token {first:?}"));
    say(&format!("target {TARGET:?}: {met} (a time by itself is not judged)"));
    Ok(true)
}

async fn start(product: &Product) -> anyhow::Result<(Duration, Duration)> {
    let serve = product.serve().await?;
    let ready = serve.began.elapsed();
    let keys = vec![serve.api_key.clone()];
    let client = Client::new(Target { endpoint: serve.endpoint.clone(), keys })?;
    let sample = client.ask(&question(), Instant::now()).await;
    if let Some(failure) = sample.failure {
        bail!("the first request failed: {}", failure.0);
    }
    let first = sample.chunks.first().context("the answer had no text")?;
    let first = first.duration_since(serve.began);
    serve.end().await?;
    Ok((ready, first))
}

fn question() -> Question {
    let body = json!({
        "model": "tollgate-demo",
        "messages": [{ "role": "user", "content": "Who are you?" }],
        "max_tokens": 16,
        "temperature": 1.0,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    Question { tenant: 0, path: "/v1/chat/completions", body: body.to_string() }
}

const ATTEMPTS: usize = 5;
const TARGET: Duration = Duration::from_secs(2);
