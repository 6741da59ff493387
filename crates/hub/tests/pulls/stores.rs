//! Prefixes of an object store.

use hub::HubError;
use proptest::prelude::*;

use super::{CONFIG, Machine, bytes, files, names};
use crate::fake::store::FakeStore;

async fn tiny(weights: &[u8]) -> FakeStore {
    let store = FakeStore::start().await;
    store.put("tiny/config.json", CONFIG);
    store.put("tiny/tokenizer.json", b"{}");
    store.put("tiny/model.safetensors", weights);
    store.put("tiny/pytorch_model.bin", weights);
    store.put("tiny/1_Pooling/config.json", b"[]");
    store.put("tiny-2/config.json", b"of another model");
    store
}

#[tokio::test]
async fn a_model_comes_from_a_prefix() {
    let weights = bytes(50_000, 3);
    let store = tiny(&weights).await;
    let machine = Machine::of_store(&store);

    let pulled = machine.pull("s3://models/tiny").await.unwrap();
    let again = machine.pull("s3://models/tiny/").await.unwrap();

    let wanted = ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"];
    assert_eq!(names(&pulled.path), wanted);
    assert_eq!(files(&pulled.path)["model.safetensors"], weights);
    assert_eq!((again.path, again.fetched), (pulled.path, 0));
    assert_eq!(store.state().unsigned, 0);
}

#[tokio::test]
async fn one_gguf_file_can_be_named() {
    let store = FakeStore::start().await;
    let weights = bytes(9_000, 3);
    store.put("q/tiny-q4.gguf", &weights);
    store.put("q/tiny-q8.gguf", &weights);

    let machine = Machine::of_store(&store);
    let pulled = machine.pull("s3://models/q/tiny-q4.gguf").await.unwrap();

    assert_eq!(std::fs::read(pulled.path).unwrap(), weights);
    assert_eq!(store.sent_of("q/tiny-q8.gguf"), 0);
}

#[tokio::test]
async fn what_is_not_what_its_tag_says_is_named() {
    let store = tiny(&bytes(50_000, 3)).await;
    store.state().wrong.insert("tiny/model.safetensors".to_owned(), bytes(50_000, 4));
    let machine = Machine::of_store(&store);

    let error = machine.pull("s3://models/tiny").await.unwrap_err();

    let HubError::Mismatch { file, expected, .. } = error else { panic!("{error}") };
    assert_eq!(file, "model.safetensors");
    assert!(expected.starts_with("md5 "), "{expected}");
}

#[tokio::test]
async fn an_object_that_changed_is_another_version_of_the_model() {
    let store = tiny(&bytes(50_000, 3)).await;
    let machine = Machine::of_store(&store);
    let before = machine.pull("s3://models/tiny").await.unwrap();
    let other = bytes(50_000, 4);
    store.put("tiny/model.safetensors", &other);

    let after = machine.pull("s3://models/tiny").await.unwrap();

    assert_ne!(before.pin, after.pin);
    assert_eq!(files(&after.path)["model.safetensors"], other);
    assert_eq!(after.fetched, 50_000, "what is the same is not fetched again");
}

#[tokio::test]
async fn a_part_that_lacks_nothing_but_its_check_is_checked() {
    let weights = bytes(50_000, 3);
    let store = FakeStore::start().await;
    let mut machine = Machine::of_store(&store);
    machine.settings.patience.tries = 1;
    let folder = machine.models.path().join("to");
    store.put("q/tiny.gguf", &weights);
    store.state().cuts = [49_000].into();
    machine.pull_to("s3://models/q/tiny.gguf", &folder).await.unwrap_err();
    let parts = std::fs::read_dir(folder.join(".tollgate/parts")).unwrap();
    let part = parts.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some());
    std::fs::write(part.unwrap(), bytes(50_000, 9)).unwrap();

    let pulled = machine.pull_to("s3://models/q/tiny.gguf", &folder).await.unwrap();

    assert_eq!(std::fs::read(pulled.path).unwrap(), weights);
}

#[tokio::test]
async fn an_empty_prefix_is_told() {
    let store = tiny(&bytes(500, 3)).await;
    let error = Machine::of_store(&store).pull("s3://models/none").await.unwrap_err();

    assert!(matches!(error, HubError::NothingToLoad { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wherever_a_store_is_cut_the_file_is_right_and_no_byte_comes_twice(
        size in 1_usize..40_000,
        cuts in proptest::collection::vec(0_usize..20_000, 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sent, came, expected) = runtime.block_on(async {
            let store = FakeStore::start().await;
            let weights = bytes(size, 3);
            store.put("q/tiny.gguf", &weights);
            store.state().cuts = cuts.iter().copied().collect();
            let mut machine = Machine::of_store(&store);
            machine.settings.patience.tries = 9;
            let pulled = machine.pull("s3://models/q/tiny.gguf").await.unwrap();
            (store.sent_of("q/tiny.gguf"), std::fs::read(pulled.path).unwrap(), weights)
        });

        prop_assert_eq!(sent, size);
        prop_assert!(came == expected);
    }
}
