//! A gateway and workers as processes of their own: workers come and go, and streams go on.

use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{Events, Fleet, Gateway, Wishes, free_address, gateway_config};

use crate::ledger::Ledger;
use crate::questions::{endless, price, who, with};

#[tokio::test]
async fn a_gateway_answers_through_a_worker_elsewhere() -> anyhow::Result<()> {
    let fleet = Fleet::start(2, Wishes::default()).await?;
    let answer = fleet.api().chat(&who()).await?.expect(200)?;
    assert!(answer.text().contains("Tollgate demo model"), "{}", answer.body);
    let told = fleet.api().stream(&endless(30)).await?;
    assert!(told.done && told.charge() == Some(price(17, 30)), "{told:?}");
    fleet.admin().quiet().await
}

#[tokio::test]
async fn a_gateway_with_a_wrong_token_is_not_ready_and_says_why() -> anyhow::Result<()> {
    let fleet = Fleet::start(1, Wishes::default()).await?;
    let folder = tempfile::tempdir()?;
    let (listen, token) = (free_address()?, folder.path().join("worker.token"));
    std::fs::write(&token, "a wrong token")?;
    let text = gateway_config(listen, free_address()?, folder.path(), &token);
    let worker = fleet.workers[0].address();
    let text = format!("{text}[[workers]]\naddress = \"http://{worker}\"\n");
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, text)?;

    let mut gateway = Gateway::start(&config, listen).await?;

    gateway.process().logged("token", LIMIT).await?;
    let ready = reqwest::get(format!("{}/readyz", gateway.endpoint())).await?;
    assert_eq!(ready.status(), 503);
    let why: Value = ready.json().await?;
    assert!(why["reason"].is_string(), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_greedy_stream_goes_on_when_its_worker_is_killed() -> anyhow::Result<()> {
    check_migration(&endless(400)).await
}

#[tokio::test]
async fn a_sampled_stream_goes_on_when_its_worker_is_killed() -> anyhow::Result<()> {
    check_migration(&with(endless(400), &json!({ "temperature": 1.2, "seed": 42 }))).await
}

/// The worker of a stream is killed while another one is there.
async fn check_migration(request: &Value) -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2, UNCACHED).await?;
    let undisturbed = fleet.api().stream(request).await?;
    let mut events = fleet.api().open(request).await?;
    events.texts(5).await?;

    let at = fleet.busy_worker().await?;
    fleet.worker(at).kill().await?;
    check_goes_on(&mut fleet, events, &undisturbed.text()).await
}

#[tokio::test]
async fn a_stream_waits_for_its_only_worker_to_come_back() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(1, UNCACHED).await?;
    let undisturbed = fleet.api().stream(&endless(400)).await?;
    let mut events = fleet.api().open(&endless(400)).await?;
    events.texts(5).await?;

    fleet.worker(0).kill().await?;
    fleet.workers[0].restart().await?;
    check_goes_on(&mut fleet, events, &undisturbed.text()).await
}

#[tokio::test]
async fn a_whole_answer_survives_its_worker_too() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2, UNCACHED).await?;
    let undisturbed = fleet.api().chat(&endless(600)).await?.text();
    let api = fleet.api();
    let asking = tokio::spawn(async move { api.chat(&endless(600)).await });

    let at = fleet.busy_worker().await?;
    fleet.worker(at).kill().await?;

    let reply = asking.await??.expect(200)?;
    assert_eq!(reply.text(), undisturbed);
    assert_eq!(reply.charge(), Some(price(17, 600)));
    Ok(())
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_finishes_what_it_runs() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(2, UNCACHED).await?;
    let undisturbed = fleet.api().stream(&endless(400)).await?;
    let mut events = fleet.api().open(&endless(400)).await?;
    events.texts(5).await?;
    let at = fleet.busy_worker().await?;

    fleet.worker(at).signal("TERM").await?;
    fleet.worker(at).logged("draining", LIMIT).await?;
    for _ in 0..3 {
        fleet.api().chat(&who()).await?.expect(200)?;
    }

    assert_eq!(events.rest().await?.text(), undisturbed.text());
    let status = fleet.worker(at).ended(LIMIT).await?;
    assert!(status.success(), "{status}");
    let log = fleet.gateway.process().stderr();
    assert!(!log.contains("sequence leaves its worker"), "it was cut off: {log}");
    fleet.admin().quiet().await
}

#[tokio::test]
async fn a_gateway_that_is_told_to_stop_finishes_its_streams() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(1, Wishes::default()).await?;
    let mut streams = Vec::new();
    for temperature in [0, 1, 2] {
        let request = with(endless(300), &json!({ "temperature": temperature }));
        let mut events = fleet.api().open(&request).await?;
        events.texts(2).await?;
        streams.push(events);
    }
    let ledger = Ledger::open(fleet.data()).await?;

    fleet.gateway.process().signal("TERM").await?;

    for events in streams {
        let told = events.rest().await?;
        assert!(told.done && told.finish_reason() == Some("length"), "{told:?}");
    }
    let status = fleet.gateway.process().ended(LIMIT).await?;
    assert!(status.success(), "{status}: {}", fleet.gateway.process().story());
    let rows = ledger.settled(3).await?;
    assert!(rows.iter().all(|row| row.completion_tokens == 300), "{rows:#?}");
    Ok(())
}

/// Reads the rest of a stream whose worker is gone: nobody notices but us.
async fn check_goes_on(fleet: &mut Fleet, events: Events, undisturbed: &str) -> anyhow::Result<()> {
    let told = events.rest().await?;
    assert!(told.done, "{told:?}");
    assert_eq!(told.text(), undisturbed, "{:?}", fleet.gateway.process().stderr());
    fleet.gateway.process().logged("sequence leaves its worker", LIMIT).await?;
    fleet.admin().quiet().await?;
    let row = Ledger::open(fleet.data()).await?.row(told.request_id()).await?;
    assert_eq!((row.outcome.as_str(), row.charge), ("length", price(17, 400)), "{row:?}");
    let redone = fleet.admin().metric("tollgate_migration_gpu_nanoseconds_total").await?;
    assert!(redone > 0.0, "what was computed again belongs to the platform");
    Ok(())
}

const UNCACHED: Wishes<'static> =
    Wishes { gateway: "[cache]\nenabled = false\n[limits]\nqueue_timeout = \"30s\"\n", worker: "" };
const LIMIT: Duration = Duration::from_secs(20);
