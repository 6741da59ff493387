//! What a shared system prompt is worth: the time to the first token of the second request that has it, and its cost.

use anyhow::{Context as _, bail};
use load_tests::{Client, Question, Random, Sample};
use serde_json::json;
use tokio::time::Instant;

use super::{Place, say};

/// `true` if every second request had its first token at least [`LEAST_RATIO`] times as soon as the first one, was told
/// that most of its prompt was cached, and cost less.
pub(crate) async fn prefix(place: &Place) -> anyhow::Result<bool> {
    say(
        "\nprefix: first token of two requests with one system prompt of 1,500 tokens, on an idle server",
    );
    let (client, serve) = place.open(&["prefix".to_owned()]).await?;
    let mut random = Random::seeded(SEED);
    // The first answer of a process is no measure.
    ask(&client, "You are brief.", "Who are you?").await?;
    let (mut lowest, mut passed) = (f64::INFINITY, true);
    for pair in 1..=PAIRS {
        let words = (0..WORDS).map(|_| WORD[random.below(WORD.len())]);
        let system = format!("Tale {pair}. {}", words.collect::<Vec<_>>().join(" "));
        let first = ask(&client, &system, "Who are you?").await?;
        let second = ask(&client, &system, "What is it?").await?;
        let [cold, warm] = [&first, &second].map(|sample| sample.first_token().unwrap_or_default());
        let ratio = cold.as_secs_f64() / warm.as_secs_f64();
        lowest = lowest.min(ratio);
        let is_cached = second.cached_tokens * 10 >= second.prompt_tokens * 9;
        passed &= is_cached && second.charge_nano_usd < first.charge_nano_usd;
        say(&format!(
            "pair {pair}  {cold:.1?}, then {warm:.1?}: {ratio:.1} times as soon; {} of {} tokens cached, \
             charge {} then {} nano-dollars",
            second.cached_tokens,
            second.prompt_tokens,
            first.charge_nano_usd,
            second.charge_nano_usd
        ));
    }
    if let Some(serve) = serve {
        serve.end().await?;
    }
    passed &= lowest >= LEAST_RATIO;
    let word = if passed { "pass" } else { "FAIL" };
    say(&format!(
        "{word}  the lowest ratio >= {LEAST_RATIO} (it is {lowest:.1}), told and charged as cached"
    ));
    Ok(passed)
}

async fn ask(client: &Client, system: &str, user: &str) -> anyhow::Result<Sample> {
    let body = json!({
        "model": "tollgate-demo",
        "messages": [{ "role": "system", "content": system }, { "role": "user", "content": user }],
        "max_tokens": 8,
        "temperature": 1.0,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let path = "/v1/chat/completions";
    let question = Question { tenant: 0, path, body: body.to_string() };
    let sample = client.ask(&question, Instant::now()).await;
    if let Some(failure) = sample.failure {
        bail!("a request failed: {}", failure.0);
    }
    sample.first_token().context("the answer had no text")?;
    Ok(sample)
}

const PAIRS: usize = 8;
const LEAST_RATIO: f64 = 5.0;
/// With their spaces these are words of one token each, or little more.
const WORD: [&str; 10] =
    ["rabbit", "garden", "river", "stone", "yellow", "quiet", "mother", "box", "walk", "apple"];
const WORDS: usize = 1_350;
const SEED: u64 = 1;
