//! Models are pulled from faithful fakes on loopback, on good days and on bad ones.

mod fake;
mod folders;
mod hubs;
mod offline;
mod secrets;
mod stores;
mod trouble;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use domain::Secret;
use hub::{Address, Event, HubError, Part, Patience, Pulled, Settings};
use tempfile::TempDir;

use self::fake::hub::FakeHub;
use self::fake::store::FakeStore;

/// A machine that pulls.
struct Machine {
    models: TempDir,
    settings: Settings,
    /// What was said.
    notes: Mutex<Vec<String>>,
}

impl Machine {
    fn of(hub: &FakeHub) -> Self {
        Self::with(&hub.endpoint(), Vec::new())
    }

    fn of_store(store: &FakeStore) -> Self {
        let variables = store.environment().into_iter();
        let variables = variables.map(|(name, value)| (name.to_owned(), Secret::new(value)));
        Self::with("http://127.0.0.1:9", variables.collect())
    }

    fn with(endpoint: &str, stores: Vec<(String, Secret<String>)>) -> Self {
        let models = TempDir::with_prefix("models-").unwrap();
        let settings = Settings {
            folder: models.path().to_owned(),
            endpoint: endpoint.parse().unwrap(),
            token: None,
            parallel: 4,
            patience: Patience { tries: 4, first: Duration::ZERO, longest: Duration::ZERO },
            stores,
        };
        Self { models, settings, notes: Mutex::default() }
    }

    async fn pull(&self, address: &str) -> Result<Pulled, HubError> {
        self.pull_part(address, Part::Whole, None).await
    }

    async fn pull_to(&self, address: &str, folder: &Path) -> Result<Pulled, HubError> {
        self.pull_part(address, Part::Whole, Some(folder)).await
    }

    async fn pull_part(
        &self,
        address: &str,
        part: Part,
        to: Option<&Path>,
    ) -> Result<Pulled, HubError> {
        let show = |event| {
            if let Event::Note(text) = event {
                self.notes.lock().unwrap().push(text);
            }
        };
        let address = Address::parse(address).unwrap();
        hub::pull(&address, part, to, &self.settings, &show).await
    }

    fn noted(&self) -> String {
        self.notes.lock().unwrap().join("\n")
    }
}

/// The files of a folder, but for ours.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with(".tollgate") {
                folders.push(path);
            } else if path.is_file() {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).into_keys().collect()
}

/// Bytes that are of no pattern, and always the same.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A small model: some of its files are large, some are not.
const CONFIG: &[u8] = br#"{"architectures": ["LlamaForCausalLM"]}"#;

fn commit_tiny(hub: &FakeHub, revision: &str, weights: &[u8]) -> String {
    hub.commit(
        "acme/tiny",
        revision,
        &[
            (".gitattributes", b"*.safetensors filter=lfs"),
            ("README.md", b"# Tiny"),
            ("config.json", CONFIG),
            ("tokenizer.json", &bytes(5_000, 1)),
            ("tokenizer_config.json", b"{}"),
            ("pytorch_model.bin", &bytes(9_000, 2)),
            ("model.safetensors", weights),
        ],
    )
}
