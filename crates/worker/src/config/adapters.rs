//! What a worker's configuration says of adapters.

use std::path::PathBuf;

use domain::Problems;
use serde::Deserialize;

/// An adapter, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdapter {
    /// What clients ask for.
    name: String,
    /// A folder in the layout of PEFT.
    path: PathBuf,
}

impl RawAdapter {
    /// Where it is, as written.
    pub(super) const fn path(&mut self) -> &mut PathBuf {
        &mut self.path
    }
}

/// An adapter of a worker's model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSettings {
    /// What clients ask for.
    pub name: String,
    /// A folder in the layout of PEFT.
    pub folder: PathBuf,
}

/// What they mean, beside a model of this name.
pub(super) fn check(
    written: Vec<RawAdapter>,
    model: &str,
    problems: &mut Problems,
) -> Vec<AdapterSettings> {
    let mut adapters: Vec<AdapterSettings> = Vec::with_capacity(written.len());
    for (index, RawAdapter { name, path }) in written.into_iter().enumerate() {
        let at = format!("adapters[{index}].name");
        if name.trim().is_empty() {
            problems.add(&at, "must not be empty");
        }
        if name == model || adapters.iter().any(|other| other.name == name) {
            problems.add(&at, format!("`{name}` is there before; give it a name of its own"));
        }
        adapters.push(AdapterSettings { name, folder: path });
    }
    adapters
}
