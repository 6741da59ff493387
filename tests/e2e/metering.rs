//! The ledger: one row for every admitted request, and what clients were told is what it says.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use system_tests::{Api, Serve};

use crate::ledger::{Ledger, sums};
use crate::questions::{MODEL, about, endless, price, who, with};

#[tokio::test]
async fn the_ledger_says_what_clients_were_told() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let key = serve.create_key("second", &["--project", "second"]).await?;
    let other = serve.api().with_key(&key.api_key);
    let mut told: BTreeMap<String, i64> = BTreeMap::new();

    for api in [serve.api(), other.clone()] {
        told.extend(ask_everything(&api).await?);
        for bad in [json!({ "n": 9 }), json!({ "model": "x" }), json!({ "max_tokens": 5000 })] {
            assert!(api.chat(&with(who(), &bad)).await?.status >= 400);
        }
    }
    serve.admin().quiet().await?;

    let ledger = Ledger::open(serve.data()).await?;
    let rows = ledger.settled(told.len()).await?;
    let booked: BTreeMap<String, i64> =
        rows.iter().map(|row| (row.request.clone(), row.charge)).collect();
    assert_eq!(booked, told);
    for row in &rows {
        let due = if row.outcome == "cache_hit" { 0 } else { row.price() };
        assert_eq!(row.charge, due, "{row:?}");
    }
    assert_eq!(ledger.spending().await?, sums(&rows));
    Ok(())
}

#[tokio::test]
async fn a_stream_is_metered_the_same_whether_its_client_asks_or_not() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let asked = json!({ "stream_options": { "include_usage": true } });
    let quiet = serve.api().stream(&about("a lake", 40)).await?;
    // One token more, so that it is computed.
    let loud = serve.api().stream(&with(about("a lake", 41), &asked)).await?;

    assert!(quiet.events.iter().all(|event| event["choices"][0].is_object()), "{quiet:?}");
    let last = loud.events.last().expect("there are events");
    assert_eq!(last["choices"], json!([]), "{last}");
    assert!(loud.events[..loud.events.len() - 1].iter().all(|event| event["usage"].is_null()));
    let ledger = Ledger::open(serve.data()).await?;
    let (quiet, loud) =
        (ledger.row(quiet.request_id()).await?, ledger.row(loud.request_id()).await?);
    assert_eq!((quiet.completion_tokens, loud.completion_tokens), (40, 41));
    assert_eq!(loud.charge - quiet.charge, price(0, 1));
    Ok(())
}

/// Every kind of answer there is, by request id with what the client was told it pays.
async fn ask_everything(api: &Api) -> anyhow::Result<Vec<(String, i64)>> {
    let asked = json!({ "stream_options": { "include_usage": true } });
    let completion = json!({ "model": MODEL, "prompt": "The capital of", "max_tokens": 7 });
    let wholes = [
        api.chat(&who()).await?,
        api.chat(&who()).await?, // from the cache
        api.chat(&with(endless(70), &json!({ "temperature": 1, "seed": 3 }))).await?,
        api.chat(&with(who(), &json!({ "stop": ["demo"] }))).await?,
        api.post("/v1/completions", &completion).await?,
    ];
    let streams = [
        api.stream(&who()).await?, // from the cache
        api.stream(&endless(100)).await?,
        api.stream(&with(endless(101), &asked)).await?,
        api.stream(&with(who(), &json!({ "temperature": 1.5 }))).await?,
    ];
    let wholes = wholes.iter().map(|reply| (reply.request_id(), reply.charge()));
    let streams = streams.iter().map(|told| (told.request_id(), told.charge()));
    let told = wholes.chain(streams).map(|(request, charge)| {
        Ok((request.to_owned(), charge.ok_or_else(|| anyhow::anyhow!("{request} has no charge"))?))
    });
    told.collect()
}

#[tokio::test]
async fn every_answer_says_what_it_used() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let usage: Value = serve.api().chat(&endless(50)).await?.expect(200)?.json()["usage"].take();
    assert_eq!(usage["completion_tokens"], 50, "{usage}");
    assert_eq!(usage["total_tokens"], 50 + usage["prompt_tokens"].as_i64().unwrap_or_default());
    assert!(usage["cost_details"]["gpu_nanos"].as_u64() > Some(0), "{usage}");
    assert!(usage["cost_details"]["cost_nano_usd"].as_u64() > Some(0), "{usage}");
    Ok(())
}
