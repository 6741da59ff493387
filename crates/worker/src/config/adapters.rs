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
    /// The name of the model it is for; that of `[model]` if absent.
    of: Option<String>,
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
    /// The name of the model it is for.
    pub of: String,
}

/// What they mean, beside models of these names, of which there is at least one.
pub(super) fn check(
    written: Vec<RawAdapter>,
    models: &[&str],
    problems: &mut Problems,
) -> Vec<AdapterSettings> {
    let mut adapters: Vec<AdapterSettings> = Vec::with_capacity(written.len());
    for (index, RawAdapter { name, path, of }) in written.into_iter().enumerate() {
        let at = format!("adapters[{index}].name");
        if name.trim().is_empty() {
            problems.add(&at, "must not be empty");
        }
        if models.contains(&name.as_str()) || adapters.iter().any(|other| other.name == name) {
            problems.add(&at, format!("`{name}` is there before; give it a name of its own"));
        }
        let first = models.first().copied().unwrap_or_default();
        let of = of.unwrap_or_else(|| first.to_owned());
        if !models.contains(&of.as_str()) {
            let at = format!("adapters[{index}].of");
            problems.add(at, format!("no model here is called `{of}`"));
        }
        adapters.push(AdapterSettings { name, folder: path, of });
    }
    adapters
}
