//! Processes killed at random while clients work: nobody gets stuck, and the ledger stays true.
//!
//! A gateway and two workers are killed (SIGKILL) and started again for `TOLLGATE_CHAOS_SECONDS`
//! (15 if it is not set). What happens is decided by a seed, which a failure tells and
//! `TOLLGATE_CHAOS_SEED` sets again; when it happens is up to the machine.

mod clients;
mod killer;
#[path = "../ledger.rs"]
mod ledger;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use system_tests::{Fleet, Wishes, run, told};

use crate::clients::{Load, Seen};
use crate::killer::Killer;
use crate::ledger::{Ledger, LedgerRow, sums};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_lose_nothing() -> anyhow::Result<()> {
    let length = Duration::from_secs(number("TOLLGATE_CHAOS_SECONDS")?.unwrap_or(SECONDS));
    let seed = number("TOLLGATE_CHAOS_SEED")?.unwrap_or_else(|| fastrand::u64(..));
    chaos(length, seed).await.with_context(|| format!("with TOLLGATE_CHAOS_SEED={seed}"))
}

async fn chaos(length: Duration, seed: u64) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let fleet = Fleet::start(2, PATIENCE).await?;
    let load = Load::start(&fleet, &mut random);
    let mut killer = Killer::new(fleet, random.fork());

    let killed = killer.kill_for(length).await;
    let mut seen = load.finish().await?;
    let (kills, fleet) = (killed?, killer.into_fleet());
    fleet.whole().await?;
    fleet.admin().quiet().await?;

    let ledger = Ledger::open(fleet.data()).await?;
    // Rows reach the database in the order in which requests end: with this one, all are there.
    let last = fleet.api().chat(&last_question()).await?.expect(200)?;
    ledger.row(last.request_id()).await?;
    seen.push(Seen::of(&last));
    let rows = ledger.rows().await?;
    say(&summary(&seen, &kills, &rows, seed));
    check_texts(&seen)?;
    check_rows(&seen, &rows)?;
    ensure!(ledger.spending().await? == sums(&rows), "spending is not the sum of the rows");
    let data = fleet.data().display().to_string();
    say(&run(&["ledger", "verify", "--data", &data]).await?);
    Ok(())
}

/// A greedy or seeded question has one answer, whoever was killed while it was given.
fn check_texts(seen: &[Seen]) -> anyhow::Result<()> {
    let mut answers: BTreeMap<&str, &str> = BTreeMap::new();
    let reproducible =
        |seen: &&Seen| seen.charge.is_some() && !seen.question.contains("\"temperature\":1");
    for seen in seen.iter().filter(reproducible) {
        let first = answers.entry(&seen.question).or_insert(&seen.text);
        ensure!(*first == seen.text, "two answers to {}:\n{first}\n{}", seen.question, seen.text);
    }
    Ok(())
}

/// What clients saw is what the ledger says.
fn check_rows(seen: &[Seen], rows: &[LedgerRow]) -> anyhow::Result<()> {
    let by_request: BTreeMap<&str, &LedgerRow> =
        rows.iter().map(|row| (row.request.as_str(), row)).collect();
    ensure!(by_request.len() == rows.len(), "a request has two rows: {rows:#?}");

    for answered in seen.iter().filter(|seen| seen.status == Some(200)) {
        let row = by_request.get(answered.request.as_str());
        let row = row.with_context(|| format!("{answered:?} has no row"))?;
        if let Some(charge) = answered.charge {
            ensure!(row.charge == charge, "told {answered:?}, but booked {row:?}");
        }
    }

    for refused in seen.iter().filter_map(|seen| seen.status).filter(|status| *status != 200) {
        ensure!((500..600).contains(&refused), "a good request was refused with {refused}");
    }

    let heads: BTreeSet<&str> = seen.iter().map(|seen| seen.request.as_str()).collect();
    let unseen = rows.iter().filter(|row| !heads.contains(row.request.as_str()));
    let finished = unseen.filter(|row| ANSWERED.contains(&row.outcome.as_str())).count();
    // The last word of an answer may be lost between the gateway and its client, and only there.
    let cut = seen.iter().filter(|seen| seen.status.is_none()).count();
    ensure!(finished <= cut, "{finished} answers that nobody saw, but {cut} lost connections");

    for row in rows {
        let free = ["interrupted", "cache_hit"].contains(&row.outcome.as_str());
        let answered = ANSWERED.contains(&row.outcome.as_str());
        // Who left before anything ran pays nothing; who was answered pays for all of it.
        let right = if free { row.charge == 0 } else { row.charge == row.price() };
        ensure!(right || (row.charge == 0 && !answered), "a wrong charge: {row:?}");
    }
    Ok(())
}

fn summary(seen: &[Seen], kills: &BTreeMap<String, u32>, rows: &[LedgerRow], seed: u64) -> String {
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    for row in rows {
        *outcomes.entry(&row.outcome).or_default() += 1;
    }
    let mut statuses: BTreeMap<String, u32> = BTreeMap::new();
    for seen in seen {
        let status = seen.status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        *statuses.entry(status).or_default() += 1;
    }
    let whole = seen.iter().filter(|seen| seen.charge.is_some()).count();
    format!(
        "chaos: {} requests ({whole} answered to the end), statuses {statuses:?}, kills {kills:?}, {} rows {outcomes:?}, seed {seed}",
        seen.len(),
        rows.len()
    )
}

fn last_question() -> serde_json::Value {
    let messages = [json!({ "role": "user", "content": "Was that all?" })];
    json!({ "model": "tollgate-demo", "messages": messages, "max_tokens": 5 })
}

fn number(name: &str) -> anyhow::Result<Option<u64>> {
    let Some(text) = told(name) else { return Ok(None) };
    let text = text.to_string_lossy();
    let number = text.parse().with_context(|| format!("{name} must be a number, not `{text}`"))?;
    Ok(Some(number))
}

#[expect(clippy::print_stdout, reason = "a run of minutes has something to tell when it is over")]
fn say(text: &str) {
    println!("{text}");
}

const SECONDS: u64 = 15;
/// Long enough for a killed worker to come back, short enough to see what does not end.
const PATIENCE: Wishes<'static> = Wishes {
    gateway: "[limits]\nqueue_timeout = \"8s\"\nrequest_timeout = \"40s\"\n",
    worker: "[engine]\ncompute_threads = 1\n",
};
/// Outcomes of requests that were answered to the end.
const ANSWERED: &[&str] = &["stop", "length", "budget", "cache_hit"];
