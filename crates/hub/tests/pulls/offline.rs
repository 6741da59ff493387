//! Starts without a network.

use hub::{HubError, Part};

use super::{Machine, bytes, commit_tiny, files};
use crate::fake::hub::FakeHub;

#[tokio::test]
async fn what_is_remembered_serves_without_a_network_and_that_is_said() {
    let hub = FakeHub::start().await;
    let weights = bytes(50_000, 3);
    let commit = commit_tiny(&hub, "main", &weights);
    let machine = Machine::of(&hub);
    machine.pull("hf://acme/tiny").await.unwrap();
    hub.leave().await;

    let pulled = machine.pull("hf://acme/tiny").await.unwrap();

    assert!(pulled.is_offline);
    assert_eq!(files(&pulled.path)["model.safetensors"], weights);
    assert!(
        machine.noted().contains(&format!("main was {commit} the last time")),
        "{}",
        machine.noted()
    );
}

#[tokio::test]
async fn a_commit_that_is_here_needs_nobody() {
    let hub = FakeHub::start().await;
    let commit = commit_tiny(&hub, "main", &bytes(50_000, 3));
    let machine = Machine::of(&hub);
    let address = format!("hf://acme/tiny@{commit}");
    machine.pull(&address).await.unwrap();
    let asked = hub.state().seen.len();

    let pulled = machine.pull(&address).await.unwrap();

    assert!(!pulled.is_offline);
    assert_eq!(hub.state().seen.len(), asked);
}

#[tokio::test]
async fn a_folder_that_was_pulled_to_remembers_too() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    let machine = Machine::of(&hub);
    let folder = machine.models.path().join("to");
    machine.pull_to("hf://acme/tiny", &folder).await.unwrap();
    hub.leave().await;

    assert!(machine.pull_to("hf://acme/tiny", &folder).await.unwrap().is_offline);
    machine.pull_to("hf://acme/tiny@v2", &folder).await.unwrap_err();
}

#[tokio::test]
async fn what_was_never_here_is_not_made_up() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    let machine = Machine::of(&hub);
    machine.pull_part("hf://acme/tiny", Part::Tokenizer, None).await.unwrap();
    hub.leave().await;

    for address in ["hf://acme/tiny", "hf://acme/tiny@v2", "hf://acme/other"] {
        let error = machine.pull(address).await.unwrap_err();
        assert!(matches!(error, HubError::Unreachable { .. }), "{address}: {error}");
    }
}

#[tokio::test]
async fn a_file_that_was_damaged_here_is_not_taken_for_whole() {
    let hub = FakeHub::start().await;
    let weights = bytes(50_000, 3);
    commit_tiny(&hub, "main", &weights);
    let machine = Machine::of(&hub);
    let pulled = machine.pull("hf://acme/tiny").await.unwrap();
    std::fs::write(pulled.path.join("model.safetensors"), &weights[..40_000]).unwrap();

    let again = machine.pull("hf://acme/tiny").await.unwrap();

    assert_eq!(files(&again.path)["model.safetensors"], weights);
    assert_eq!(again.fetched, 50_000);
}
