//! Models that come and go while a worker runs, from the shell, as clients see it.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use system_tests::{Fleet, Wishes, attempt, root, until};

use crate::draining::{config, succeed, workers};
use crate::questions::{MODEL, endless, who, with};

#[tokio::test]
async fn a_model_and_an_adapter_are_loaded_answer_and_are_unloaded_from_the_shell()
-> anyhow::Result<()> {
    let folder = root().join("crates/engine").canonicalize()?;
    let worker = format!("[loading]\nfolder = \"{}\"\n", folder.display());
    let gateway = "[cache]\nenabled = false\n";
    let mut fleet = Fleet::start(1, Wishes { gateway, worker: &worker }).await?;
    let address = format!("http://{}", fleet.workers[0].address());
    let base = fleet.api().chat(&who()).await?.expect(200)?.text();

    let second =
        ["load", &address, "--name", "second", "--path", "demo-model", "--quantize", "q8_0"];
    succeed(&workers(&fleet, &second).await?);
    let adapter = [
        "load",
        &address,
        "--name",
        "mine",
        "--path",
        "tests/adapters/demo",
        "--adapter-of",
        MODEL,
    ];
    succeed(&workers(&fleet, &adapter).await?);

    offered(&fleet, &["mine", "second", MODEL]).await?;
    let requests =
        ["second", "mine", MODEL].map(|model| with(endless(60), &json!({ "model": model })));
    let api = fleet.api();
    let answers = requests.iter().map(|request| api.chat(request));
    for answer in futures_util::future::join_all(answers).await {
        let answer = answer?.expect(200)?;
        ensure!(answer.json()["usage"]["completion_tokens"] == 60, "{}", answer.body);
    }
    ensure!(fleet.api().chat(&who()).await?.expect(200)?.text() == base, "the first is as it was");

    let again = workers(&fleet, &second).await?;
    let why = String::from_utf8(again.stderr)?;
    ensure!(!again.status.success() && why.contains("`second`"), "{why}");
    let outside = ["load", &address, "--name", "out", "--path", "/etc"];
    let why = String::from_utf8(workers(&fleet, &outside).await?.stderr)?;
    ensure!(why.contains("loading.folder"), "{why}");

    let mut events = fleet.api().open(&with(endless(400), &json!({ "model": "second" }))).await?;
    events.texts(3).await?;
    succeed(&workers(&fleet, &["unload", &address, "--name", "second"]).await?);
    succeed(&workers(&fleet, &["unload", &address, "--name", "mine"]).await?);
    offered(&fleet, &[MODEL]).await?;
    for gone in ["second", "mine"] {
        let refused = fleet.api().chat(&with(who(), &json!({ "model": gone }))).await?;
        ensure!(refused.status == 404, "{} {}", refused.status, refused.body);
    }
    let told = events.rest().await?;
    ensure!(told.done && told.finish_reason() == Some("length"), "{told:?}");
    fleet.worker(0).logged("its memory is free", LIMIT).await?;
    ensure!(fleet.api().chat(&who()).await?.expect(200)?.text() == base);

    fleet.admin().quiet().await?;
    fleet.gateway.process().signal("TERM").await?;
    fleet.gateway.process().ended(LIMIT).await?;
    let data = fleet.data().display().to_string();
    let verified = attempt(&["ledger", "verify", "--data", &data]).await?;
    let said = String::from_utf8_lossy(&[verified.stdout, verified.stderr].concat()).into_owned();
    // One life is that of the server that made the first key.
    ensure!(said.starts_with("clean: ") && said.contains("(2 at rest)"), "{said}");
    let audit = attempt(&["admin", "--config", &config(&fleet), "audit", "--json"]).await?;
    let audit = String::from_utf8(audit.stdout)?;
    ensure!(audit.matches("worker.govern").count() == 4, "what was refused is no deed: {audit}");
    Ok(())
}

/// Waits until clients are offered these models and no other.
async fn offered(fleet: &Fleet, models: &[&str]) -> anyhow::Result<()> {
    let look = async || {
        let listed = fleet.api().get("/v1/models").await?.expect(200)?.json();
        let listed = listed["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names: Vec<&str> = listed.iter().filter_map(|model| model["id"].as_str()).collect();
        Ok((names == models).then_some(()))
    };
    until(&format!("{models:?} are offered"), LIMIT, look).await
}

const LIMIT: Duration = Duration::from_secs(20);
