//! A token is for one host, and in no message.

use domain::Secret;

use super::{Machine, bytes, commit_tiny};
use crate::fake::hub::FakeHub;

#[tokio::test]
async fn a_token_goes_to_the_hub_and_not_to_where_it_redirects() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    hub.state().gated.insert("acme/tiny".to_owned(), "hf_secret".to_owned());
    let mut machine = Machine::of(&hub);
    machine.settings.token = Some(Secret::new("hf_secret".to_owned()));

    machine.pull("hf://acme/tiny").await.unwrap();

    let seen = hub.state().seen.clone();
    assert!(seen.iter().any(|seen| seen.is_storage));
    for seen in seen {
        assert_eq!(seen.token.is_some(), !seen.is_storage, "{seen:?}");
    }
}

#[tokio::test]
async fn a_token_is_not_for_another_hub_that_an_address_names() {
    let (ours, other) = (FakeHub::start().await, FakeHub::start().await);
    commit_tiny(&other, "main", &bytes(50_000, 3));
    let mut machine = Machine::of(&ours);
    machine.settings.token = Some(Secret::new("hf_secret".to_owned()));

    machine.pull(&format!("{}/acme/tiny", other.endpoint())).await.unwrap();

    assert!(other.state().seen.iter().all(|seen| seen.token.is_none()));
}

#[tokio::test]
async fn neither_a_token_nor_a_signature_is_in_any_message() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    hub.state().cuts = [0; 40].into();
    let mut machine = Machine::of(&hub);
    machine.settings.token = Some(Secret::new("hf_secret".to_owned()));
    machine.settings.patience.tries = 2;

    let cut = machine.pull("hf://acme/tiny").await.unwrap_err();
    hub.lose_storage().await;
    let lost = machine.pull("hf://acme/tiny").await.unwrap_err();

    let told = format!("{cut:?} {lost:?} {lost} {:?} {}", machine.settings, machine.noted());
    assert!(told.contains("error sending request"), "{told}");
    for secret in ["hf_secret", "signed", "X-Amz-Signature"] {
        assert!(!told.contains(secret), "{told}");
    }
}
