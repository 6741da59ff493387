//! A thousand streams on one budget over three gateways, while a gateway and Redis are killed.
//!
//! What was charged is read from the database and held against what clients were told; the product's own
//! verification has to agree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, Row as _};
use system_tests::{Api, Cluster, until};
use tokio::task::JoinSet;

#[path = "../database.rs"]
mod database;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_neither_overspend_a_budget_nor_lose_a_row_when_gateway_and_redis_die()
-> anyhow::Result<()> {
    let database = database::empty("outage").await?;
    let mut books = PgConnection::connect(&database).await.context("reach the new database")?;
    let mut cluster = Cluster::start(GATEWAYS, &database, ENGINE).await?;
    let budget = format!("usd=0.{BUDGET:09}");
    let make = ["keys", "create", "--name", "shared", "--budget", &budget];
    let key = cluster.administer(&make).await?;
    let organization = key["organization"].as_str().context("a key has an organization")?;
    let govern = ["organizations", "update", organization, "--budget", "usd=1"];
    let limits =
        ["--limit", "requests-per-minute=100000", "--limit", "tokens-per-minute=100000000"];
    cluster.administer(&[&govern[..], &limits[..]].concat()).await?;
    let key = key["api_key"].as_str().context("a key has a secret")?.to_owned();
    for at in 0..GATEWAYS {
        cluster.api(at, &key).known().await?;
    }

    let delivered = Arc::new(AtomicUsize::new(0));
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let api = cluster.api(number % GATEWAYS, &key);
        streams.spawn(stream(api, number, Arc::clone(&delivered)));
    }
    reached(&delivered, 5_000).await?;
    cluster.gateways[2].process().kill().await?;
    reached(&delivered, 8_000).await?;
    cluster.gateways[2].restart().await?;
    reached(&delivered, 12_000).await?;
    cluster.redis.kill().await?;
    // Some streams go on within what their gateways have, and all of them wait at its end.
    let _ = tokio::time::timeout(Duration::from_secs(3), reached(&delivered, 15_000)).await;
    cluster.redis.restart().await?;
    let mut seen = Vec::new();
    while let Some(stream) = streams.join_next().await {
        seen.push(stream?);
    }
    cluster.gateways[2].ready().await?;
    let after = spend_the_rest(&cluster, &key).await?;

    for at in 0..GATEWAYS {
        cluster.admin(at).quiet().await?;
    }
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for stream in &seen {
        *ends.entry(stream.end.clone()).or_default() += 1;
    }
    let rows = rows_of(&mut books, &[&seen[..], &after[..]].concat()).await?;
    let spent: i64 = rows.values().map(|(_, charge)| charge).sum();
    say(&format!(
        "outage: {STREAMS} streams ended {ends:?}, {} events with text, {} small requests after them, \
         {} rows, {spent} of {BUDGET} nano-dollars charged",
        delivered.load(Ordering::SeqCst),
        after.len(),
        rows.len()
    ));
    ensure!(spent <= BUDGET, "{spent} of {BUDGET} nano-dollars were charged");
    ensure!(spent * 100 >= BUDGET * 99, "only {spent} of {BUDGET} nano-dollars could be spent");
    let look = async || {
        let found = cluster.verify().await?;
        Ok((found.starts_with("clean: ") && found.contains("(1 at rest)")).then_some(found))
    };
    let found = until("the ledger is clean", LIMIT, look).await;
    say(&found.with_context(|| "verify the ledger")?);
    Ok(())
}

/// What a client knows of its request.
#[derive(Clone, Debug)]
struct Seen {
    /// The request's id, if an answer began.
    request: Option<String>,
    status: Option<u16>,
    /// What it was told to pay, if it was told.
    charge: Option<i64>,
    /// How it ended, in a word.
    end: String,
}

/// Reads one stream as far as it goes.
async fn stream(api: Api, number: usize, delivered: Arc<AtomicUsize>) -> Seen {
    let end = "lost before its head".to_owned();
    let lost = Seen { request: None, status: None, charge: None, end };
    let Ok(mut events) = api.try_open(&question(number, STREAM_TOKENS)).await else { return lost };
    let status = Some(events.status());
    let request = events.told().header("x-request-id").map(str::to_owned);
    let mut told = 0;
    while let Ok(Some(_)) = events.next().await {
        let texts = events.told().texts();
        delivered.fetch_add(texts - told, Ordering::SeqCst);
        told = texts;
    }
    let told = events.told();
    let error = told.error().map(|error| error["code"].to_string());
    let end = match (status, told.finish_reason(), error) {
        (Some(200), Some(finish), None) => finish.to_owned(),
        (Some(200), _, Some(error)) => error,
        (Some(200), None, None) => "lost".to_owned(),
        (status, _, _) => format!("{status:?}"),
    };
    Seen { request, status, charge: told.charge(), end }
}

/// Asks small things on every gateway until the budget refuses them.
async fn spend_the_rest(cluster: &Cluster, key: &str) -> anyhow::Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for at in 0..GATEWAYS {
        let api = cluster.api(at, key);
        let mut number = STREAMS * (at + 1);
        let refused = async || {
            number += 1;
            let reply = api.chat(&question(number, 3)).await?;
            match (reply.status, reply.error()["code"].as_str()) {
                (200, _) => {
                    let request = Some(reply.request_id().to_owned());
                    let (status, charge) = (Some(200), reply.charge());
                    seen.push(Seen { request, status, charge, end: "stop".to_owned() });
                    Ok(None)
                }
                (429, Some("insufficient_quota")) => Ok(Some(())),
                (503, _) => Ok(None), // gateways still hear of each other
                _ => bail!("{} {}", reply.status, reply.body),
            }
        };
        until("the budget refuses", LIMIT, refused).await?;
    }
    Ok(seen)
}

/// Outcome and charge of every row by request, once each request that was answered has one.
async fn rows_of(
    books: &mut PgConnection,
    seen: &[Seen],
) -> anyhow::Result<BTreeMap<String, (String, i64)>> {
    let answered = seen.iter().filter(|one| one.status == Some(200));
    let answered: Vec<(&str, Option<i64>)> = answered
        .map(|one| Ok((one.request.as_deref().context("an answer has an id")?, one.charge)))
        .collect::<anyhow::Result<_>>()?;
    let look = async || {
        let rows = sqlx::query("SELECT request_id, outcome, charge_nanos FROM ledger")
            .fetch_all(&mut *books)
            .await
            .context("read the ledger")?;
        let row = |row: &sqlx::postgres::PgRow| {
            Ok((
                row.try_get("request_id")?,
                (row.try_get("outcome")?, row.try_get("charge_nanos")?),
            ))
        };
        let read: Vec<_> = rows.iter().map(row).collect::<sqlx::Result<_>>()?;
        let all = read.len();
        let rows: BTreeMap<String, (String, i64)> = read.into_iter().collect();
        ensure!(all == rows.len(), "a request has two rows");
        let has_all = answered.iter().all(|(request, _)| rows.contains_key(*request));
        Ok(has_all.then_some(rows))
    };
    let rows = until("every answered request has its row", LIMIT, look).await?;
    for (request, charge) in answered {
        let (outcome, booked) = &rows[request];
        ensure!(
            charge.is_none_or(|charge| charge == *booked),
            "{request} was told {charge:?} and booked {booked} as {outcome}"
        );
    }
    for refused in seen.iter().filter(|one| one.status.is_some_and(|status| status != 200)) {
        ensure!(matches!(refused.status, Some(429 | 503)), "refused with {refused:?}");
    }
    Ok(rows)
}

async fn reached(delivered: &AtomicUsize, number: usize) -> anyhow::Result<()> {
    let look = async || Ok((delivered.load(Ordering::SeqCst) >= number).then_some(()));
    until(&format!("{number} events were delivered"), LIMIT, look).await
}

/// A question without an early end, that nobody asked before.
fn question(number: usize, tokens: u32) -> Value {
    let no_end: BTreeMap<String, i32> =
        (4087..4096).map(|token| (token.to_string(), -100)).collect();
    json!({
        "model": "tollgate-demo",
        "messages": [{ "role": "user", "content": format!("Tell me of {number} dragons.") }],
        "max_tokens": tokens,
        "logit_bias": no_end,
    })
}

#[expect(clippy::print_stdout, reason = "a run of minutes has something to tell when it is over")]
fn say(text: &str) {
    println!("{text}");
}

const GATEWAYS: usize = 3;
const STREAMS: usize = 1_000;
const STREAM_TOKENS: u32 = 60;
/// Nano-dollars: about two thirds of what the streams would cost.
const BUDGET: i64 = 17_000_000;
const ENGINE: &str = "[engine]\nmax_sequences = 1024\nmax_waiting = 1024\nstep_tokens = 1280\nkv_bytes = 1_073_741_824\n";
const LIMIT: Duration = Duration::from_mins(3);
