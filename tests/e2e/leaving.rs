//! Clients that hang up: what they started ends at once, and they pay for what was produced.

use serde_json::{Value, json};
use system_tests::{Api, Fleet, Serve, Wishes};

use crate::ledger::{Ledger, LedgerRow};
use crate::questions::{ENDLESS_PROMPT, about, endless, price, with};
use crate::raw::{Connection, chat};

#[tokio::test]
async fn leaving_a_stream_ends_its_sequence_and_charges_what_was_produced() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let mut events = serve.api().open(&endless(ANSWER)).await?;
    events.texts(5).await?;
    let (request, seen) = (events.told().request_id().to_owned(), events.told().texts());

    drop(events);
    serve.admin().quiet().await?;

    let row = Ledger::open(serve.data()).await?.row(&request).await?;
    check_left(&row, seen)
}

#[tokio::test]
async fn resetting_an_http2_stream_ends_that_sequence_and_no_other() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    // One token longer than the other, so that the other is computed again.
    let undisturbed = serve.api().chat(&about("two cats", 301)).await?.text();
    let api = Api::over_http2(serve.endpoint(), serve.api_key());
    let mut leaving = api.open(&endless(ANSWER)).await?;
    let staying = api.open(&about("two cats", 300)).await?;
    leaving.texts(5).await?;
    let (request, seen) = (leaving.told().request_id().to_owned(), leaving.told().texts());

    drop(leaving);
    let stayed = staying.rest().await?;

    assert!(stayed.done && stayed.text().len() > 300, "{stayed:?}");
    assert!(undisturbed.starts_with(&stayed.text()), "{undisturbed:?}\n{:?}", stayed.text());
    serve.admin().quiet().await?;
    let row = Ledger::open(serve.data()).await?.row(&request).await?;
    check_left(&row, seen)
}

#[tokio::test]
async fn leaving_while_a_whole_answer_is_computed_ends_it() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let mut connection = Connection::open(serve.endpoint()).await?;
    connection.send(&chat(serve.api_key(), &endless(ANSWER).to_string(), "")).await;
    serve.admin().running(1).await?;

    drop(connection);
    serve.admin().quiet().await?;

    let rows = Ledger::open(serve.data()).await?.settled(1).await?;
    check_left(&rows[0], 0)
}

#[tokio::test]
async fn leaving_before_the_first_token_costs_nothing() -> anyhow::Result<()> {
    let one_at_a_time = Wishes { worker: "[engine]\nmax_sequences = 1", ..Wishes::default() };
    let fleet = Fleet::start(1, one_at_a_time).await?;
    let mut first = fleet.api().open(&endless(ANSWER)).await?;
    first.texts(1).await?;
    let waits = |status: &Value| (status["workers"][0]["waiting"] == 1).then_some(());

    // Over both protocols, streamed and whole: all wait behind the first one.
    let mut number = 0;
    for api in [fleet.api(), Api::over_http2(&fleet.gateway.endpoint(), &fleet.key())] {
        for stream in [true, false] {
            let request =
                with(about(&format!("{number} crows"), ANSWER), &json!({ "stream": stream }));
            number += 1;
            let api = api.clone();
            let waiting = tokio::spawn(async move { api.chat(&request).await.map(drop) });
            fleet.admin().until("a sequence waits", waits).await?;
            waiting.abort();
            let none_waits = |status: &Value| (status["workers"][0]["waiting"] == 0).then_some(());
            fleet.admin().until("no sequence waits", none_waits).await?;
        }
    }

    drop(first);
    fleet.admin().quiet().await?;
    let rows = Ledger::open(fleet.data()).await?.settled(5).await?;
    for row in &rows[1..] {
        let free = (row.outcome.as_str(), row.completion_tokens, row.charge);
        assert_eq!(free, ("client_gone", 0, 0), "{row:?}");
    }
    check_left(&rows[0], 1)
}

/// The row of an answer that was left after `seen` events.
fn check_left(row: &LedgerRow, seen: usize) -> anyhow::Result<()> {
    assert_eq!(row.outcome, "client_gone", "{row:?}");
    assert_eq!(row.prompt_tokens, ENDLESS_PROMPT, "{row:?}");
    assert_eq!(row.charge, price(row.prompt_tokens, row.completion_tokens), "{row:?}");
    assert!(row.charge > 0 && row.completion_tokens >= i64::try_from(seen)?, "{row:?}");
    assert!(row.completion_tokens < i64::from(ANSWER), "it ran to its end: {row:?}");
    Ok(())
}

/// Seconds of computing, if nobody ends it.
const ANSWER: u32 = 1500;
