//! Embeddings from worker processes of their own, beside one that makes text.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use system_tests::{Fleet, Reply, attempt, root, until};

use crate::ledger::Ledger;

#[tokio::test]
async fn one_gateway_serves_models_of_both_kinds_and_its_books_are_true() -> anyhow::Result<()> {
    let workers = [worker("tiny", &tiny()), String::new()];
    let mut fleet = Fleet::start_each(&workers, "").await?;
    listed(&fleet, "tiny").await?;
    listed(&fleet, "tollgate-demo").await?;
    let golden = std::fs::read(tiny().join("golden.json")).context("read golden vectors")?;
    let golden: Value = serde_json::from_slice(&golden)?;

    let reply = embed(&fleet, "tiny", &golden["texts"]).await?.expect(200)?;
    let cut = embed(&fleet, "tiny", &json!(vec!["t22"; 1000])).await?.expect(200)?;

    for (at, expected) in golden["vectors"].as_array().into_iter().flatten().enumerate() {
        let expected: Vec<f32> = serde_json::from_value(expected.clone())?;
        assert_close(&vector(&reply, at)?, &expected);
    }
    // The first golden text is the token that is called t22.
    assert_eq!(vector(&cut, 999)?, vector(&reply, 0)?);
    for (model, path) in [("tiny", "/v1/chat/completions"), ("tollgate-demo", "/v1/embeddings")] {
        let messages = json!([{ "role": "user", "content": "t22" }]);
        let body = json!({ "model": model, "input": "t22", "messages": messages });
        let refused = fleet.api().post(path, &body).await?.expect(400)?;
        assert_eq!(refused.error()["param"], "model", "{}", refused.body);
    }
    fleet.admin().quiet().await?;
    let ledger = Ledger::open(fleet.data()).await?;
    let row = ledger.row(cut.request_id()).await?;
    assert_eq!((row.outcome.as_str(), row.prompt_tokens), ("stop", 1000));
    assert_eq!(Some(row.charge), cut.charge());
    assert!(row.charge > 0 && row.completion_tokens == 0, "{row:?}");
    fleet.gateway.process().stop().await?;
    let said = verify(&fleet).await?;
    ensure!(said.starts_with("clean: ") && said.contains("2 ledger rows"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_worker_that_vanishes_costs_no_client_its_vectors() -> anyhow::Result<()> {
    let both = [worker("tiny", &tiny()), worker("tiny", &tiny())];
    let mut fleet = Fleet::start_each(&both, "").await?;
    listed(&fleet, "tiny").await?;
    fleet.whole().await?;
    let texts = json!(vec![vec![3; 128]; 240]);
    let undisturbed = embed(&fleet, "tiny", &json!([vec![3; 128]])).await?.expect(200)?;

    let (api, body) = (fleet.api(), json!({ "model": "tiny", "input": texts }));
    let asked = tokio::spawn(async move { api.post("/v1/embeddings", &body).await });
    let at = fleet.busy_worker().await?;
    fleet.worker(at).kill().await?;

    let reply = asked.await??.expect(200)?;
    for at in 0..240 {
        assert_eq!(vector(&reply, at)?, vector(&undisturbed, 0)?);
    }
    Ok(())
}

#[tokio::test]
async fn a_tokenizer_of_word_pieces_puts_its_marks_around_each_text_and_cuts_none()
-> anyhow::Result<()> {
    let folder = tempfile::TempDir::with_prefix("tollgate-encoder-")?;
    for file in ["config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"] {
        let copy = folder.path().join(file);
        std::fs::create_dir_all(copy.parent().context("it is in a folder")?)?;
        std::fs::copy(tiny().join(file), copy)?;
    }
    std::fs::write(folder.path().join("tokenizer.json"), word_pieces().to_string())?;
    let fleet = Fleet::start_each(&[worker("pieces", folder.path())], "").await?;
    listed(&fleet, "pieces").await?;

    let texts = json!(["Hello, worlds", "hello ".repeat(20)]);
    let read = embed(&fleet, "pieces", &texts).await?.expect(200)?;
    let hello = [&[2][..], &[10; 20], &[3]].concat();
    let ids = json!([[2, 10, 12, 11, 13, 3], hello]);
    let expected = embed(&fleet, "pieces", &ids).await?.expect(200)?;

    assert_eq!(read.json()["usage"]["prompt_tokens"], 28);
    for at in 0..2 {
        assert_eq!(vector(&read, at)?, vector(&expected, at)?);
    }
    Ok(())
}

/// A tokenizer as BERT's, whose file says to cut texts at eight tokens and to fill them up to that.
fn word_pieces() -> Value {
    json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0 },
        "padding": {
            "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "[CLS]", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "[SEP]", "type_id": 0 } },
            ],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": {
                "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
                "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] },
            },
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {
                "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3,
                "hello": 10, "world": 11, ",": 12, "##s": 13,
            },
        },
    })
}

/// The smallest model that embeds.
fn tiny() -> PathBuf {
    root().join("crates/engine/tests/encoders/bert")
}

fn worker(name: &str, folder: &Path) -> String {
    format!("[model]\nname = \"{name}\"\npath = \"{}\"\n", folder.display())
}

async fn embed(fleet: &Fleet, model: &str, input: &Value) -> anyhow::Result<Reply> {
    fleet.api().post("/v1/embeddings", &json!({ "model": model, "input": input })).await
}

async fn listed(fleet: &Fleet, model: &str) -> anyhow::Result<()> {
    let path = format!("/v1/models/{model}");
    let look = async || Ok((fleet.api().get(&path).await?.status == 200).then_some(()));
    until(&format!("{model} is listed"), LIMIT, look).await
}

fn vector(reply: &Reply, at: usize) -> anyhow::Result<Vec<f32>> {
    let vector = reply.json()["data"][at]["embedding"].take();
    serde_json::from_value(vector).with_context(|| format!("find vector {at}"))
}

fn assert_close(one: &[f32], other: &[f32]) {
    assert_eq!(one.len(), other.len());
    let off = one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
    assert!(off < 2e-3, "off by {off}");
}

async fn verify(fleet: &Fleet) -> anyhow::Result<String> {
    let data = fleet.data().display().to_string();
    let output = attempt(&["ledger", "verify", "--data", &data]).await?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

const LIMIT: Duration = Duration::from_secs(20);
