//! Low-rank adapters, each a model of its own to clients, tenants and the books, beside the model that they adapt.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use system_tests::{Api, Fleet, Reply, Wishes, attempt, create_key, root, run, until};

use crate::ledger::Ledger;
use crate::questions::{MODEL, about, with};

#[tokio::test]
async fn an_adapter_is_a_model_of_its_own_beside_its_base() -> anyhow::Result<()> {
    let alone = texts_of_adapters_alone().await?;
    let mut fleet = start(&ADAPTERS).await?;
    let api = fleet.api();
    let listed = api.get("/v1/models").await?.expect(200)?;
    let known = listed.json()["data"].take();
    let known: Vec<&str> =
        known.as_array().into_iter().flatten().filter_map(|model| model["id"].as_str()).collect();
    assert!([MODEL, SUPPORT, LEGAL].iter().all(|name| known.contains(name)), "{known:?}");

    // At the same time, so that they share the worker's steps.
    let (base, support, legal) =
        tokio::try_join!(ask(&api, MODEL, 40), ask(&api, SUPPORT, 40), ask(&api, LEGAL, 40))?;

    assert_eq!((support.text(), legal.text()), (alone[0].clone(), alone[1].clone()));
    assert_ne!(base.text(), support.text());
    assert_ne!(base.text(), legal.text());
    assert_ne!(support.text(), legal.text());
    for (reply, model) in [(&base, MODEL), (&support, SUPPORT), (&legal, LEGAL)] {
        assert_eq!(reply.json()["model"], model);
        assert_eq!(reply.header(CACHE), Some("miss"), "{model}");
    }
    fleet.admin().quiet().await?;
    let ledger = Ledger::open(fleet.data()).await?;
    let mut charged = Vec::new();
    for (reply, factor) in [(&base, 1), (&support, 2), (&legal, 3)] {
        let row = ledger.row(reply.request_id()).await?;
        assert_eq!((row.completion_tokens, row.charge), (40, factor * row.price()), "{row:?}");
        assert_eq!(reply.charge(), Some(row.charge));
        charged.push(row.charge);
    }
    assert_eq!(
        usage_by_model(&fleet).await?,
        BTreeMap::from([
            (MODEL.to_owned(), charged[0]),
            (SUPPORT.to_owned(), charged[1]),
            (LEGAL.to_owned(), charged[2]),
        ])
    );
    fleet.gateway.process().stop().await?;
    let said = verify(&fleet).await?;
    ensure!(said.starts_with("clean: ") && said.contains("3 ledger rows"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_a_model_has_read_is_of_no_use_to_its_adapters() -> anyhow::Result<()> {
    let mut fleet = start(&ADAPTERS).await?;
    let api = fleet.api();
    // Longer each time, so that no answer is known; the beginning of the prompt is the same.
    let mut cached = Vec::new();
    for (at, model) in [MODEL, MODEL, SUPPORT, LEGAL, SUPPORT, MODEL].into_iter().enumerate() {
        let reply = ask_long(&api, model, 4 + at as u32).await?;
        cached.push(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] != json!(0));
    }

    assert_eq!(cached, [false, true, false, false, true, true]);
    fleet.admin().quiet().await?;
    fleet.gateway.process().stop().await?;
    let said = verify(&fleet).await?;
    ensure!(said.starts_with("clean: ") && said.contains("6 ledger rows"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_key_for_the_base_alone_may_not_ask_its_adapters() -> anyhow::Result<()> {
    let fleet = start(&ADAPTERS).await?;
    let key = create_key(fleet.data(), "base only", &["--model", MODEL]).await?;
    let other = create_key(fleet.data(), "support only", &["--model", SUPPORT]).await?;
    let (base_only, support_only) =
        (fleet.api().with_key(&key.api_key), fleet.api().with_key(&other.api_key));
    base_only.known().await?;
    support_only.known().await?;

    for (api, mine, forbidden) in
        [(&base_only, MODEL, vec![SUPPORT, LEGAL]), (&support_only, SUPPORT, vec![MODEL, LEGAL])]
    {
        ask(api, mine, 8).await?.expect(200)?;
        for model in forbidden {
            // As if there were none of that name.
            let refused = api.chat(&question(model, 8)).await?.expect(404)?;
            assert_eq!(refused.error()["code"], "model_not_found", "{}", refused.body);
            assert_eq!(api.get(&format!("/v1/models/{model}")).await?.status, 404);
        }
    }
    Ok(())
}

/// What each adapter says where no other is, and its base is asked nothing.
async fn texts_of_adapters_alone() -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::new();
    for adapter in ADAPTERS {
        let fleet = start(&[adapter]).await?;
        texts.push(ask(&fleet.api(), adapter.0, 40).await?.text());
    }
    Ok(texts)
}

/// What each model's requests were charged in all, in nano-dollars.
async fn usage_by_model(fleet: &Fleet) -> anyhow::Result<BTreeMap<String, i64>> {
    let data = fleet.data().display().to_string();
    let said = run(&["admin", "--data", &data, "usage", "--by", "model", "--json"]).await?;
    let lines: Vec<Value> = serde_json::from_str(&said)?;
    let line = |line: &Value| {
        let model = line["group"][0].as_str().context("find the model's name")?.to_owned();
        Ok((model, line["charge"]["charge"].as_i64().context("find the charge")?))
    };
    lines.iter().map(line).collect()
}

/// A gateway with one worker that has these adapters, each a multiple of the base's price.
async fn start(adapters: &[(&str, &str)]) -> anyhow::Result<Fleet> {
    let (mut worker, mut prices) = (String::new(), String::new());
    for (at, (name, folder)) in adapters.iter().enumerate() {
        let path = folder_of(folder);
        let path = path.display();
        writeln!(worker, "[[adapters]]\nname = \"{name}\"\npath = \"{path}\"")?;
        let times = |cents: usize| cents * (at + 2);
        let (input, cached, output) = (times(10), times(5), times(40));
        writeln!(
            prices,
            "[[prices]]\nmodel = \"{name}\"\ninput = \"0.{input:02}\"\n\
             cached_input = \"0.{cached:02}\"\noutput = \"{}.{:02}\"",
            output / 100,
            output % 100
        )?;
    }
    let fleet = Fleet::start(1, Wishes { gateway: &prices, worker: &worker }).await?;
    for name in adapters.iter().map(|(name, _)| *name).chain([MODEL]) {
        let path = format!("/v1/models/{name}");
        let look = async || Ok((fleet.api().get(&path).await?.status == 200).then_some(()));
        until(&format!("{name} is listed"), LIMIT, look).await?;
    }
    Ok(fleet)
}

/// An adapter of the demo model, as PEFT writes it.
fn folder_of(name: &str) -> PathBuf {
    root().join("crates/engine/tests/adapters").join(name)
}

fn question(model: &str, tokens: u32) -> Value {
    with(about("a lighthouse", tokens), &json!({ "model": model }))
}

async fn ask(api: &Api, model: &str, tokens: u32) -> anyhow::Result<Reply> {
    api.chat(&question(model, tokens)).await?.expect(200)
}

/// The same about so much that its keys and values fill several blocks.
async fn ask_long(api: &Api, model: &str, tokens: u32) -> anyhow::Result<Reply> {
    let subject = "a lighthouse and the sea around it, and ".repeat(12);
    api.chat(&with(about(&subject, tokens), &json!({ "model": model }))).await?.expect(200)
}

async fn verify(fleet: &Fleet) -> anyhow::Result<String> {
    let data = fleet.data().display().to_string();
    let output = attempt(&["ledger", "verify", "--data", &data]).await?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

const SUPPORT: &str = "demo-support";
const LEGAL: &str = "demo-legal";
/// Names and folders.
const ADAPTERS: [(&str, &str); 2] = [(SUPPORT, "demo"), (LEGAL, "demo-other")];
const CACHE: &str = "x-tollgate-cache";
const LIMIT: Duration = Duration::from_secs(20);
