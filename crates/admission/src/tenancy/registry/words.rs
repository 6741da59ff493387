//! Names, metadata and what is left as it is: the fields that most records have.

use std::collections::BTreeMap;

use domain::Problems;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tenancy::records::Metadata;

/// What a change says about a field that may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Patched<T> {
    /// Nothing: it stays as it is.
    #[default]
    Same,
    /// It is to be empty. Written `null`.
    Cleared,
    /// It is to be this.
    Set(T),
}

impl<T> Patched<T> {
    /// Whether nothing is said.
    pub const fn is_same(&self) -> bool {
        matches!(self, Self::Same)
    }
}

impl<T: Serialize> Serialize for Patched<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Same | Self::Cleared => serializer.serialize_none(),
            Self::Set(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patched<T> {
    /// For a field with `#[serde(default)]`: an absent one stays [`Patched::Same`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Cleared, Self::Set))
    }
}

/// What a change says about metadata: words to set, and `None` for words to remove.
pub type MetadataPatch = BTreeMap<String, Option<String>>;

/// A name without blanks around it.
pub(super) fn name(text: &str, at: &str, problems: &mut Problems) -> String {
    let name = text.trim();
    if name.is_empty() {
        problems.add(at, "must not be empty; give it a name that people know it by");
    } else {
        check_length(name, MAX_NAME_CHARACTERS, at, problems);
    }
    if name.chars().any(char::is_control) {
        problems.add(at, "must not have control characters such as line breaks");
    }
    name.to_owned()
}

/// `before` with a patch on it.
pub(super) fn patch_metadata(
    before: &Metadata,
    patch: &MetadataPatch,
    problems: &mut Problems,
) -> Metadata {
    if patch.len() > MAX_WORDS {
        problems.add("metadata", format!("names {} words; at most {MAX_WORDS}", patch.len()));
        return before.clone();
    }
    let mut metadata = before.clone();
    for (word, value) in patch {
        let at = format!("metadata.{word}");
        check_length(word, MAX_NAME_CHARACTERS, &at, problems);
        if let Some(value) = value {
            check_length(value, MAX_VALUE_CHARACTERS, &at, problems);
            metadata.insert(word.clone(), value.clone());
        } else {
            metadata.remove(word);
        }
    }
    if metadata.len() > MAX_WORDS {
        let has = metadata.len();
        problems.add("metadata", format!("has {has} words; at most {MAX_WORDS} are kept"));
    }
    metadata
}

/// New metadata.
pub(super) fn new_metadata(metadata: &Metadata, problems: &mut Problems) -> Metadata {
    let patch = metadata.iter().map(|(word, value)| (word.clone(), Some(value.clone()))).collect();
    patch_metadata(&Metadata::new(), &patch, problems)
}

/// Notes what is no name for doing something once.
pub(super) fn check_repetition(text: &str, at: &str, problems: &mut Problems) {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !visible || !(1..=MAX_REPETITION_BYTES).contains(&text.len()) {
        let message =
            format!("must be 1 to {MAX_REPETITION_BYTES} visible ASCII characters, such as a UUID");
        problems.add(at, message);
    }
}

/// Notes a text that is longer than `max` characters.
pub(super) fn check_length(text: &str, max: usize, at: &str, problems: &mut Problems) {
    let has = text.chars().count();
    if has > max {
        problems.add(at, format!("has {has} characters; at most {max} are kept"));
    }
}

const MAX_NAME_CHARACTERS: usize = 128;
const MAX_VALUE_CHARACTERS: usize = 1_024;
const MAX_REPETITION_BYTES: usize = 255;
const MAX_WORDS: usize = 64;
