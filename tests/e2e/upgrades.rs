//! A gateway is replaced by a new process on the same listeners, and told to read its configuration again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use system_tests::{Fleet, Process, Wishes};

use crate::ledger::Ledger;
use crate::questions::{endless, price};

#[tokio::test]
async fn a_gateway_that_shares_no_quotas_ends_what_it_began_before_its_successor_serves()
-> anyhow::Result<()> {
    let mut fleet = Fleet::start(1, UNCACHED).await?;
    let api = fleet.api();
    let mut events = api.open(&endless(300)).await?;
    events.texts(3).await?;

    // The second one is asked while the first is being answered: it waits for the successor.
    let other = endless(20);
    let (upgraded, first, second) =
        tokio::join!(fleet.gateway.upgrade(), events.rest(), api.stream(&other));
    let mut before = upgraded?;
    assert_eq!(first?.charge(), Some(price(17, 300)));
    assert_eq!(second?.charge(), Some(price(17, 20)));
    assert!(before.ended(LIMIT).await?.success(), "{}", before.story());

    fleet.admin().quiet().await?;
    let rows = Ledger::open(fleet.data()).await?.rows().await?;
    assert_eq!(rows.len(), 2, "{rows:?}");
    Ok(())
}

#[tokio::test]
async fn a_successor_that_cannot_serve_changes_nothing() -> anyhow::Result<()> {
    let fleet = Fleet::start(1, UNCACHED).await?;
    let elsewhere = fleet.data().join("elsewhere.toml");
    let text = std::fs::read_to_string(config(&fleet))?;
    let (_, rest) = text.split_once('\n').context("it begins with its address")?;
    std::fs::write(&elsewhere, format!("listen = \"127.0.0.1:9\"\n{rest}"))?;

    let elsewhere = elsewhere.display().to_string();
    let mut successor = Process::start(&["gateway", "--upgrade", "--config", &elsewhere])?;

    successor.logged("`listen` is 127.0.0.1:9", LIMIT).await?;
    assert!(!successor.ended(LIMIT).await?.success());
    assert!(fleet.api().stream(&endless(5)).await?.done);
    Ok(())
}

#[tokio::test]
async fn how_long_requests_may_take_after_a_stop_is_what_was_reloaded_last() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(1, UNCACHED).await?;
    let text = std::fs::read_to_string(config(&fleet))?;
    let limits = "[limits]\ndrain_timeout = \"0s\"\n\n[[prices]]";
    std::fs::write(config(&fleet), text.replacen("[[prices]]", limits, 1))?;
    fleet.gateway.process().signal("HUP").await?;
    fleet.gateway.process().logged("configuration reloaded", LIMIT).await?;
    let mut events = fleet.api().open(&endless(2_000)).await?;
    events.texts(3).await?;

    fleet.gateway.process().signal("INT").await?;

    fleet.gateway.process().logged("requests cut off at the drain timeout", LIMIT).await?;
    assert!(fleet.gateway.process().ended(LIMIT).await?.success());
    Ok(())
}

#[tokio::test]
async fn a_configuration_is_read_again_as_a_whole_or_not_at_all() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2, UNCACHED).await?;
    let (api, admin) = (fleet.api(), fleet.admin());
    let before = std::fs::read_to_string(config(&fleet))?;
    let charge = async || Ok::<_, anyhow::Error>(api.stream(&endless(10)).await?.charge());
    assert_eq!(charge().await?, Some(price(17, 10)));

    // Both prices at once, by the signal.
    let doubled = before.replace("\"0.40\"", "\"0.80\"").replace("\"0.10\"", "\"0.20\"");
    std::fs::write(config(&fleet), &doubled)?;
    fleet.gateway.process().signal("HUP").await?;
    fleet.gateway.process().logged("configuration reloaded", LIMIT).await?;
    assert_eq!(charge().await?, Some(2 * price(17, 10)));

    // One good change and one bad one: neither holds, and the bad one is named.
    let spoilt = before.replace("\"0.10\"", "\"free\"");
    std::fs::write(config(&fleet), &spoilt)?;
    let (status, problem) = admin.post("/admin/v1/configuration/reload", &json!({})).await?;
    assert_eq!((status, &problem["problems"][0]["field"]), (422, &json!("prices[0].input")));
    assert_eq!(charge().await?, Some(2 * price(17, 10)));

    // What belongs to the process does not change in it.
    let (_, rest) = before.split_once('\n').context("it begins with its address")?;
    std::fs::write(config(&fleet), format!("listen = \"127.0.0.1:9\"\n{rest}"))?;
    let (status, problem) = admin.post("/admin/v1/configuration/reload", &json!({})).await?;
    assert_eq!((status, &problem["problems"][0]["field"]), (422, &json!("listen")));
    assert_eq!(charge().await?, Some(2 * price(17, 10)));

    // A file that is no configuration.
    std::fs::write(config(&fleet), before.replace("[[workers]]", "[[workers]"))?;
    let (status, problem) = admin.post("/admin/v1/configuration/reload", &json!({})).await?;
    assert_eq!((status, &problem["code"]), (409, &json!("not_reloaded")), "{problem}");

    // As it was, but for a worker that is not listed any more.
    let (both, _) = before.rsplit_once("[[workers]]").context("there are workers")?;
    std::fs::write(config(&fleet), both)?;
    let (status, reloaded) = admin.post("/admin/v1/configuration/reload", &json!({})).await?;
    assert_eq!((status, &reloaded["reloaded"]), (200, &json!(true)));
    let one = |status: &Value| (status["workers"].as_array()?.len() == 1).then_some(());
    admin.until("one worker is left", one).await?;
    assert_eq!(charge().await?, Some(price(17, 10)));
    Ok(())
}

fn config(fleet: &Fleet) -> PathBuf {
    fleet.data().join("gateway.toml")
}

const UNCACHED: Wishes<'_> = Wishes { gateway: "[cache]\nenabled = false\n", worker: "" };
const LIMIT: Duration = Duration::from_mins(1);
