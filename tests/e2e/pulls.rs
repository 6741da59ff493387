//! Models that are pulled from a hub before they are served. The hub is on loopback, and has the built-in model.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use system_tests::{Api, Fleet, Serve, root, tollgate};
use tokio::process::Command;

use crate::fake::hub::FakeHub;
use crate::fake::store::FakeStore;

#[tokio::test]
async fn serve_answers_with_a_model_of_a_hub_and_without_the_hub_afterwards() -> anyhow::Result<()>
{
    let hub = hub_with_demo().await?;
    let address = format!("{}/acme/demo", hub.endpoint());
    let built_in = Serve::start().await?;
    let expected = answer(&built_in.api(), "tollgate-demo").await?;

    let mut serve = Serve::start_with(&["--model", &address]).await?;
    let online = answer(&serve.api(), "demo").await?;
    hub.leave().await;
    hub.lose_storage().await;
    serve.restart().await?;
    let offline = answer(&serve.api(), "demo").await?;

    assert_eq!((&online, &offline), (&expected, &expected));
    let said = serve.story();
    ensure!(said.contains("was") && said.contains("the last time"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_worker_pulls_a_gguf_file_and_its_tokenizer() -> anyhow::Result<()> {
    let hub = hub_with_demo().await?;
    let kept = tempfile::tempdir()?;
    let worker = format!(
        "[hub]\nfolder = \"{}\"\nendpoint = \"{}\"\n\
         [model]\nname = \"small\"\npath = \"hf://acme/demo/q/demo-q4.gguf@main\"\ntokenizer = \"hf://acme/demo\"\n",
        kept.path().display(),
        hub.endpoint()
    );

    let fleet = Fleet::start_each(&[worker], "").await?;

    ensure!(!answer(&fleet.api(), "small").await?.is_empty());
    assert_eq!(hub.sent_of("model.safetensors"), 0);
    Ok(())
}

#[tokio::test]
async fn a_pull_that_is_cut_goes_on_and_shows_lines_and_no_token() -> anyhow::Result<()> {
    let hub = hub_with_demo().await?;
    hub.state().gated.insert("acme/demo".to_owned(), "hf_secret".to_owned());
    hub.state().cuts = [1_000_000, 2_000_000].into();
    let folder = tempfile::tempdir()?;
    let to = folder.path().join("q").display().to_string();

    let refused = pull(&hub, &["hf://acme/demo/q/demo-q4.gguf", "--to", &to], "").await?;
    let pulled = pull(&hub, &["hf://acme/demo/q/demo-q4.gguf", "--to", &to], "hf_secret").await?;

    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("accept its conditions"), "{said}");
    let said = String::from_utf8_lossy(&pulled.stderr);
    ensure!(pulled.status.success(), "{said}");
    ensure!(said.contains("going on from byte") && said.contains("100 %"), "{said}");
    ensure!(!said.contains("hf_secret") && !said.contains("Signature"), "{said}");
    let wanted = std::fs::read(demo("tollgate-demo-q4_k_m.gguf"))?;
    ensure!(std::fs::read(folder.path().join("q/q/demo-q4.gguf"))? == wanted);
    assert_eq!(hub.sent_of("demo-q4.gguf"), wanted.len());
    Ok(())
}

#[tokio::test]
async fn an_object_store_is_known_by_what_its_environment_says() -> anyhow::Result<()> {
    let store = FakeStore::start().await;
    let wanted = std::fs::read(demo("tollgate-demo-q4_k_m.gguf"))?;
    store.put("q/demo.gguf", &wanted);
    store.state().cuts = [3_000_000].into();
    let folder = tempfile::tempdir()?;

    let mut command = Command::new(tollgate()?);
    command.args(["model", "pull", "s3://models/q/demo.gguf", "--to"]).arg(folder.path());
    command.envs(store.environment()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.context("run tollgate")?;

    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(std::fs::read(folder.path().join("demo.gguf"))? == wanted);
    assert_eq!((store.sent_of("q/demo.gguf"), store.state().unsigned), (wanted.len(), 0));
    Ok(())
}

#[tokio::test]
async fn a_bad_address_or_an_unknown_model_is_one_line() -> anyhow::Result<()> {
    let hub = hub_with_demo().await?;
    for (address, words) in [
        ("ftp://host/x", "`ftp` is not known"),
        ("hf://acme/none", "acme/none"),
        ("hf://acme/demo/none.gguf", "there are q/demo-q4.gguf"),
    ] {
        let output = pull(&hub, &[address], "").await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.lines().count() == 1, "{said}");
        ensure!(said.contains(words), "{said}");
    }
    Ok(())
}

async fn hub_with_demo() -> anyhow::Result<FakeHub> {
    let hub = FakeHub::start().await;
    let names = [
        ("config.json", "config.json"),
        ("generation_config.json", "generation_config.json"),
        ("tokenizer.json", "tokenizer.json"),
        ("tokenizer_config.json", "tokenizer_config.json"),
        ("model.safetensors", "model.safetensors"),
        ("q/demo-q4.gguf", "tollgate-demo-q4_k_m.gguf"),
    ];
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    for (path, name) in names {
        files.push((path, std::fs::read(demo(name)).with_context(|| format!("read {name}"))?));
    }
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(path, content)| (*path, content.as_slice())).collect();
    hub.commit("acme/demo", "main", &files);
    Ok(hub)
}

fn demo(name: &str) -> std::path::PathBuf {
    root().join("crates/engine/demo-model").join(name)
}

async fn answer(api: &Api, model: &str) -> anyhow::Result<String> {
    let messages = json!([{ "role": "user", "content": "Who are you?" }]);
    let body = json!({ "model": model, "messages": messages, "temperature": 0, "max_tokens": 12 });
    let reply = api.chat(&body).await?.expect(200)?;
    let content: &Value = &reply.json()["choices"][0]["message"]["content"];
    content.as_str().map(str::to_owned).context("there is a text")
}

async fn pull(hub: &FakeHub, rest: &[&str], token: &str) -> anyhow::Result<std::process::Output> {
    let models = tempfile::tempdir()?;
    let mut command = Command::new(tollgate()?);
    command
        .env("TOLLGATE_MODELS", models.path())
        .args(["model", "pull"])
        .args(rest)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_TOKEN", token).env("HF_TOKEN_PATH", "none");
    command.output().await.context("run tollgate")
}
