//! Repositories of a hub, on good days.

use hub::Part;

use super::{CONFIG, Machine, bytes, commit_tiny, files, names};
use crate::fake::hub::FakeHub;

#[tokio::test]
async fn a_model_comes_whole_and_nothing_else_does() {
    let hub = FakeHub::start().await;
    let weights = bytes(50_000, 3);
    let commit = commit_tiny(&hub, "main", &weights);
    let machine = Machine::of(&hub);

    let pulled = machine.pull("hf://acme/tiny").await.unwrap();

    assert_eq!(pulled.pin, commit);
    let wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&pulled.path), wanted);
    assert_eq!(files(&pulled.path)["model.safetensors"], weights);
    assert_eq!(files(&pulled.path)["config.json"], CONFIG);
    assert_eq!(hub.sent_of("pytorch_model.bin"), 0);
}

#[tokio::test]
async fn a_revision_is_made_a_commit_once_and_everything_is_asked_of_that() {
    let hub = FakeHub::start().await;
    let commit = commit_tiny(&hub, "v1.0/rc", &bytes(50_000, 3));
    let machine = Machine::of(&hub);

    machine.pull("hf://acme/tiny@v1.0/rc").await.unwrap();

    let seen = hub.state().seen.clone();
    let (of_revision, others): (Vec<_>, Vec<_>) = seen
        .iter()
        .filter(|seen| !seen.is_storage)
        .partition(|seen| seen.path.contains("/revision/"));
    assert_eq!(of_revision.len(), 1);
    assert!(others.iter().all(|seen| seen.path.contains(&commit)), "{others:?}");
}

#[tokio::test]
async fn what_is_here_is_not_fetched_again() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    let machine = Machine::of(&hub);
    machine.pull("hf://acme/tiny").await.unwrap();

    let again = machine.pull("hf://acme/tiny").await.unwrap();

    assert_eq!(again.fetched, 0);
    assert_eq!(hub.sent_of("model.safetensors"), 50_000);
}

#[tokio::test]
async fn shards_come_as_their_index_names_them() {
    let hub = FakeHub::start().await;
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "padding-so-that-it-is-large": "model-1.safetensors"}}"#;
    let [one, two, other] = [4, 5, 6].map(|seed| bytes(7_000, seed));
    let all: [(&str, &[u8]); 6] = [
        ("config.json", CONFIG),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", &one),
        ("model-2.safetensors", &two),
        ("consolidated.safetensors", &other),
    ];
    hub.commit("acme/sharded", "main", &all);
    let machine = Machine::of(&hub);

    let pulled = machine.pull("hf://acme/sharded").await.unwrap();

    let found = files(&pulled.path);
    assert_eq!((&found["model-1.safetensors"], &found["model-2.safetensors"]), (&one, &two));
    assert!(!found.contains_key("consolidated.safetensors"));
    assert_eq!(found.len(), 5);
}

#[tokio::test]
async fn one_gguf_file_comes_without_the_others_and_a_tokenizer_without_weights() {
    let hub = FakeHub::start().await;
    let (four, eight) = (bytes(4_000, 4), bytes(8_000, 8));
    let all: [(&str, &[u8]); 4] = [
        ("q/tiny-q4.gguf", &four),
        ("q/tiny-q8.gguf", &eight),
        ("q/tokenizer.json", b"{\"q\": 1}"),
        ("tokenizer.json", b"{}"),
    ];
    hub.commit("acme/quantized", "main", &all);
    let machine = Machine::of(&hub);

    let file = machine.pull("hf://acme/quantized/q/tiny-q4.gguf").await.unwrap();
    let tokenizer = machine.pull_part("hf://acme/quantized", Part::Tokenizer, None).await.unwrap();

    assert_eq!(std::fs::read(&file.path).unwrap(), four);
    let wanted = ["q/tiny-q4.gguf", "q/tokenizer.json", "tokenizer.json"];
    assert_eq!(names(&tokenizer.path), wanted, "both are of one commit, and in its folder");
    assert_eq!(hub.sent_of("tiny-q8.gguf"), 0);
}

#[tokio::test]
async fn an_adapter_is_told_by_its_files() {
    let hub = FakeHub::start().await;
    let weights = bytes(3_000, 7);
    let all: [(&str, &[u8]); 3] = [
        ("adapter_config.json", br#"{"r": 8}"#),
        ("adapter_model.safetensors", &weights),
        ("optimizer.pt", &weights),
    ];
    hub.commit("acme/support", "main", &all);

    let machine = Machine::of(&hub);
    let pulled = machine.pull("hf://acme/support").await.unwrap();

    assert_eq!(names(&pulled.path), ["adapter_config.json", "adapter_model.safetensors"]);
}

#[tokio::test]
async fn a_new_commit_fetches_only_what_is_new() {
    let hub = FakeHub::start().await;
    let weights = bytes(50_000, 3);
    let before = commit_tiny(&hub, "main", &weights);
    let machine = Machine::of(&hub);
    let old = machine.pull("hf://acme/tiny").await.unwrap();
    let all: [(&str, &[u8]); 3] =
        [("config.json", b"{}"), ("tokenizer.json", b"[]"), ("model.safetensors", &weights)];
    hub.commit("acme/tiny", "main", &all);

    let new = machine.pull("hf://acme/tiny").await.unwrap();

    assert_ne!(new.pin, before);
    assert_eq!(new.fetched, 4, "two files of two bytes");
    assert_eq!(files(&new.path)["model.safetensors"], weights);
    assert_eq!(files(&old.path)["config.json"], CONFIG, "what was pulled before stays");
}

#[tokio::test]
async fn the_page_of_a_repository_is_an_address_too() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    let machine = Machine::with("http://127.0.0.1:9", Vec::new());

    let pulled = machine.pull(&format!("{}/acme/tiny/tree/main", hub.endpoint())).await.unwrap();

    assert_eq!(names(&pulled.path).len(), 4);
}
