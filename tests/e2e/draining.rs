//! Workers that leave in time: what cannot end there goes on elsewhere, and clients do not notice.

use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::{Events, Fleet, Wishes, attempt};

use crate::ledger::Ledger;
use crate::questions::{endless, price, with};

#[tokio::test]
async fn a_worker_that_is_told_to_stop_hands_over_what_does_not_end_in_time() -> anyhow::Result<()>
{
    let mut fleet = Fleet::start(2, SHORT).await?;
    let sampled = with(endless(ANSWER), &json!({ "temperature": 1.2, "seed": 42 }));
    let requests = [endless(ANSWER), sampled];
    let mut undisturbed = Vec::new();
    for request in &requests {
        undisturbed.push(fleet.api().stream(request).await?.text());
    }
    let mut streams = Vec::new();
    for (request, undisturbed) in requests.into_iter().zip(undisturbed) {
        let mut events = fleet.api().open(&request).await?;
        events.texts(5).await?;
        streams.push((events, undisturbed));
        fleet.admin().running(streams.len() as u64).await?;
    }
    // Both streams may be on one of the two.
    let at = fleet.busy_worker().await?;

    fleet.worker(at).signal("TERM").await?;

    for (events, undisturbed) in streams {
        check(&fleet, events, &undisturbed).await?;
    }
    let status = fleet.worker(at).ended(LIMIT).await?;
    assert!(status.success(), "{status}");
    let log = fleet.worker(at).stderr();
    assert!(!log.contains("cut off"), "{log}");
    fleet.gateway.process().logged("the worker is draining", LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn workers_are_listed_priced_and_drained_from_the_shell() -> anyhow::Result<()> {
    let fleet = Fleet::start(2, Wishes { worker: "zone = \"eu-1\"\n", ..UNCACHED }).await?;
    let undisturbed = fleet.api().stream(&endless(ANSWER)).await?.text();
    let mut events = fleet.api().open(&endless(ANSWER)).await?;
    events.texts(5).await?;
    let busy = format!("http://{}", fleet.workers[fleet.busy_worker().await?].address());

    succeed(&workers(&fleet, &["price", &busy, "--per-hour", "0.25", "--capacity", "spot"]).await?);
    succeed(&workers(&fleet, &["drain", &busy, "--leaves-in", "0s"]).await?);

    check(&fleet, events, &undisturbed).await?;
    let listed = workers(&fleet, &["list", "--json"]).await?;
    succeed(&listed);
    let listed: Value = serde_json::from_slice(&listed.stdout)?;
    for worker in listed.as_array().into_iter().flatten() {
        let leaves = worker["name"] == busy.as_str();
        let stage = if leaves { "evacuating" } else { "serving" };
        assert_eq!(worker["stage"], stage, "{listed}");
        assert_eq!(worker["capacity"], if leaves { "spot" } else { "on-demand" }, "{listed}");
        assert_eq!((&worker["zone"], &worker["running"]), (&json!("eu-1"), &json!(0)), "{listed}");
    }
    let table = String::from_utf8(workers(&fleet, &["list"]).await?.stdout)?;
    assert!(table.contains("evacuating") && table.contains("serving"), "{table}");
    let unknown = workers(&fleet, &["drain", "http://127.0.0.1:1"]).await?;
    assert!(!unknown.status.success());
    let why = String::from_utf8(unknown.stderr)?;
    assert!(why.contains("no worker is called") && why.contains(&busy), "{why}");
    let config = config(&fleet);
    let audit = attempt(&["admin", "--config", &config, "audit", "--json"]).await?;
    let audit = String::from_utf8(audit.stdout)?;
    assert_eq!(audit.matches("worker.govern").count(), 2, "{audit}");
    Ok(())
}

/// `tollgate admin workers`, on the gateway of a fleet.
pub(crate) async fn workers(fleet: &Fleet, arguments: &[&str]) -> anyhow::Result<Output> {
    let config = config(fleet);
    attempt(&[&["admin", "--config", &config, "workers"], arguments].concat()).await
}

pub(crate) fn config(fleet: &Fleet) -> String {
    fleet.data().join("gateway.toml").display().to_string()
}

pub(crate) fn succeed(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Reads the rest of a stream that was moved, and looks at what it cost.
async fn check(fleet: &Fleet, events: Events, undisturbed: &str) -> anyhow::Result<()> {
    let told = events.rest().await?;
    assert!(told.done, "{told:?}");
    assert_eq!(told.text(), undisturbed);
    fleet.admin().quiet().await?;
    let row = Ledger::open(fleet.data()).await?.row(told.request_id()).await?;
    let ended = (row.outcome.as_str(), row.charge);
    assert_eq!(ended, ("length", price(17, i64::from(ANSWER))), "{row:?}");
    Ok(())
}

const UNCACHED: Wishes<'static> =
    Wishes { gateway: "[cache]\nenabled = false\n[limits]\nqueue_timeout = \"30s\"\n", worker: "" };
const SHORT: Wishes<'static> = Wishes { worker: "drain_timeout = \"500ms\"\n", ..UNCACHED };
/// Longer than any worker here stays.
const ANSWER: u32 = 1_900;
const LIMIT: Duration = Duration::from_secs(20);
