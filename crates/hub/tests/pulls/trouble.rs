//! Connections that break, answers that are wrong, hosts that are ill, and several processes at once.

use std::path::{Path, PathBuf};

use hub::{HubError, Pulled};
use proptest::prelude::*;

use super::{CONFIG, Machine, bytes, commit_tiny, files, names};
use crate::fake::hub::FakeHub;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wherever_connections_are_cut_the_file_is_right_and_no_byte_comes_twice(
        size in 101_usize..40_000,
        cuts in proptest::collection::vec(0_usize..20_000, 0..12),
    ) {
        let (sent, came, expected) = in_runtime(async {
            let hub = FakeHub::start().await;
            let weights = bytes(size, 3);
            hub.commit("acme/tiny", "main", &[("tiny.gguf", &weights)]);
            hub.state().cuts = cuts.iter().copied().collect();
            let mut machine = Machine::of(&hub);
            // Cuts before the first byte gain nothing, and there may be some in a row.
            machine.settings.patience.tries = 13;
            let pulled = machine.pull("hf://acme/tiny/tiny.gguf").await.unwrap();
            (hub.sent_of("tiny.gguf"), std::fs::read(pulled.path).unwrap(), weights)
        });

        prop_assert_eq!(sent, size);
        prop_assert!(came == expected);
    }
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// The parts that are kept of a pull that failed.
fn parts(folder: &Path) -> Vec<PathBuf> {
    let parts = std::fs::read_dir(folder.join(".tollgate/parts")).unwrap();
    let parts = parts.map(|entry| entry.unwrap().path());
    parts.filter(|path| path.extension().is_some_and(|end| end == "part")).collect()
}

/// A repository of one file, and a pull of it into a folder that broke off after `kept` bytes.
async fn broken_off(weights: &[u8], kept: usize) -> (FakeHub, Machine, PathBuf) {
    let hub = FakeHub::start().await;
    hub.commit("acme/tiny", "main", &[("tiny.gguf", weights)]);
    let mut machine = Machine::of(&hub);
    machine.settings.patience.tries = 2;
    hub.state().cuts = [kept, 0, 0].into();
    let folder = machine.models.path().join("to");
    let error = machine.pull_to("hf://acme/tiny/tiny.gguf", &folder).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { tries: 2, .. }), "{error}");
    (hub, machine, folder)
}

#[tokio::test]
async fn another_process_goes_on_where_one_broke_off() {
    let weights = bytes(30_000, 3);
    let (hub, machine, folder) = broken_off(&weights, 12_345).await;
    assert!(names(&folder).is_empty(), "a part is not taken for the whole");

    let pulled = machine.pull_to("hf://acme/tiny/tiny.gguf", &folder).await.unwrap();

    assert_eq!(pulled.fetched, 30_000 - 12_345);
    let last = hub.state().seen.last().cloned().unwrap();
    assert_eq!((last.is_storage, last.from), (true, Some(12_345)));
    assert_eq!(std::fs::read(pulled.path).unwrap(), weights);
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_begins_anew() {
    let (hub, machine, folder) = broken_off(&bytes(30_000, 3), 12_345).await;
    let other = bytes(30_000, 4);
    hub.commit("acme/tiny", "main", &[("tiny.gguf", &other)]);

    let pulled = machine.pull_to("hf://acme/tiny/tiny.gguf", &folder).await.unwrap();

    assert_eq!(std::fs::read(pulled.path).unwrap(), other);
    assert_eq!(hub.state().seen.last().unwrap().from, None);
}

#[tokio::test]
async fn what_was_kept_and_is_wrong_is_fetched_once_more() {
    let weights = bytes(30_000, 3);
    let (_hub, machine, folder) = broken_off(&weights, 12_345).await;
    let part = parts(&folder).pop().unwrap();
    let mut kept = std::fs::read(&part).unwrap();
    kept[77] ^= 1;
    std::fs::write(&part, kept).unwrap();

    let pulled = machine.pull_to("hf://acme/tiny/tiny.gguf", &folder).await.unwrap();

    assert_eq!(std::fs::read(pulled.path).unwrap(), weights);
    assert!(machine.noted().contains("what was kept of it is wrong"), "{}", machine.noted());
}

#[tokio::test]
async fn a_source_that_heeds_no_ranges_begins_anew() {
    let weights = bytes(30_000, 3);
    let (hub, machine, folder) = broken_off(&weights, 12_345).await;
    hub.state().without_ranges.insert("tiny.gguf".to_owned());

    let pulled = machine.pull_to("hf://acme/tiny/tiny.gguf", &folder).await.unwrap();

    assert_eq!(std::fs::read(pulled.path).unwrap(), weights);
    assert_eq!(pulled.fetched, 30_000);
}

#[tokio::test]
async fn a_source_that_heeds_no_ranges_and_breaks_off_is_not_asked_forever() {
    let (hub, machine, folder) = broken_off(&bytes(30_000, 3), 12_345).await;
    hub.state().without_ranges.insert("tiny.gguf".to_owned());
    hub.state().cuts = [10_000; 50].into();

    let error = machine.pull_to("hf://acme/tiny/tiny.gguf", &folder).await.unwrap_err();

    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert_eq!(hub.state().cuts.len(), 48);
}

#[tokio::test]
async fn what_is_not_what_it_should_be_is_named_and_deleted() {
    for (path, wrong) in [
        ("model.safetensors", bytes(50_000, 9)),
        ("model.safetensors", bytes(49_999, 3)),
        ("model.safetensors", bytes(50_001, 3)),
        ("config.json", CONFIG.to_ascii_uppercase()),
    ] {
        let hub = FakeHub::start().await;
        commit_tiny(&hub, "main", &bytes(50_000, 3));
        hub.state().wrong.insert(path.to_owned(), wrong.clone());
        let machine = Machine::of(&hub);
        let folder = machine.models.path().join("to");

        let error = machine.pull_to("hf://acme/tiny", &folder).await.unwrap_err();

        if wrong.len() < 50_000 && path == "model.safetensors" {
            assert!(
                matches!(error, HubError::Unreachable { .. }),
                "too short looks broken: {error}"
            );
        } else {
            let HubError::Mismatch { file, .. } = error else { panic!("{error}") };
            assert_eq!(file, path);
            let length = |part: PathBuf| std::fs::metadata(part).unwrap().len();
            let kept: Vec<u64> = parts(&folder).into_iter().map(length).collect();
            assert!(!kept.contains(&(wrong.len().min(50_000) as u64)), "{kept:?}");
        }
        assert!(names(&folder).is_empty(), "nothing of a pull that failed is in its place");
    }
}

#[tokio::test]
async fn a_failed_pull_leaves_a_folder_as_it_was_and_the_next_one_leaves_nothing_old() {
    let hub = FakeHub::start().await;
    let (one, two) = (bytes(20_000, 1), bytes(20_000, 2));
    let files_of = |config: &'static [u8], weights| -> [(&str, &[u8]); 3] {
        [("config.json", config), ("model.safetensors", weights), ("tokenizer.json", b"{}")]
    };
    let mut first = files_of(b"{\"v\": 1}", &one).to_vec();
    first.push(("chat_template.jinja", b"old"));
    hub.commit("acme/tiny", "main", &first);
    let machine = Machine::of(&hub);
    let folder = machine.models.path().join("to");
    machine.pull_to("hf://acme/tiny", &folder).await.unwrap();
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    let before = files(&folder);
    hub.commit("acme/tiny", "main", &files_of(b"{\"v\": 2}", &two));
    hub.state().wrong.insert("model.safetensors".to_owned(), bytes(20_000, 7));

    machine.pull_to("hf://acme/tiny", &folder).await.unwrap_err();
    let after_failure = files(&folder);
    hub.state().wrong.clear();
    machine.pull_to("hf://acme/tiny", &folder).await.unwrap();

    assert_eq!(after_failure, before);
    assert_eq!(files(&folder)["model.safetensors"], two);
    let left = ["config.json", "model.safetensors", "notes.txt", "tokenizer.json"];
    assert_eq!(names(&folder), left);
}

#[tokio::test]
async fn two_pulls_at_once_fetch_everything_once_and_both_have_it() {
    let hub = FakeHub::start().await;
    let weights = bytes(200_000, 3);
    commit_tiny(&hub, "main", &weights);
    let machine = Machine::of(&hub);

    let pulls = tokio::join!(
        machine.pull("hf://acme/tiny"),
        machine.pull("hf://acme/tiny"),
        machine.pull("hf://acme/tiny"),
    );

    let pulls: [Pulled; 3] = [pulls.0.unwrap(), pulls.1.unwrap(), pulls.2.unwrap()];
    for Pulled { path, .. } in &pulls {
        assert_eq!(files(path)["model.safetensors"], weights);
    }
    assert_eq!(hub.sent_of("model.safetensors"), 200_000);
    assert_eq!(pulls.iter().filter(|pulled| pulled.fetched > 0).count(), 1);
}

#[tokio::test]
async fn an_ill_hub_is_asked_again_and_not_forever() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    let machine = Machine::of(&hub);

    hub.state().sick = [503, 429, 500].into();
    let patient = machine.pull("hf://acme/tiny").await;
    hub.state().sick = [503; 40].into();
    let other = Machine::of(&hub);
    let weary = other.pull("hf://acme/tiny").await.unwrap_err();

    assert!(patient.is_ok(), "{patient:?}");
    assert!(matches!(weary, HubError::Unreachable { tries: 4, .. }), "{weary}");
    assert_eq!(hub.state().sick.len(), 36);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_any_of_it_comes() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    hub.state().told_sizes.insert("model.safetensors".to_owned(), u64::MAX / 4);

    let error = Machine::of(&hub).pull("hf://acme/tiny").await.unwrap_err();

    assert!(matches!(error, HubError::NoRoom { .. }), "{error}");
    assert_eq!(hub.sent_of("model.safetensors") + hub.sent_of("config.json"), 0);
}

#[tokio::test]
async fn what_is_missing_or_gated_or_nothing_is_told_with_a_remedy() {
    let hub = FakeHub::start().await;
    commit_tiny(&hub, "main", &bytes(50_000, 3));
    hub.commit("acme/pickled", "main", &[("config.json", CONFIG), ("pytorch_model.bin", b"x")]);
    hub.commit("acme/gated", "main", &[("config.json", CONFIG)]);
    hub.state().gated.insert("acme/gated".to_owned(), "hf_right".to_owned());
    let machine = Machine::of(&hub);
    let told = async |address: &str| machine.pull(address).await.unwrap_err().to_string();

    for (address, words) in [
        ("hf://acme/none", "look at its name, and set HF_TOKEN"),
        ("hf://acme/tiny@v9", "look at its revision"),
        ("hf://acme/tiny/none.gguf", "it has no none.gguf"),
        ("hf://acme/pickled", "pickled (pytorch_model.bin)"),
        ("hf://acme/gated", "accept its conditions at http://"),
    ] {
        let told = told(address).await;
        assert!(told.contains(words), "{address}: {told}");
    }
    assert!(machine.noted().is_empty(), "none of that is asked again: {}", machine.noted());
}
