//! The entries of a GGUF file, and which of them were read.
//!
//! Promise: an entry of another kind than expected is an error that names its key, never a default; and whoever
//! has read all that concerns it can ask what nobody read.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use candle_core::quantized::gguf_file::Value;

use crate::LoadError;

/// The entries of one file.
pub(super) struct Metadata {
    values: HashMap<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Metadata {
    pub(super) fn new(values: HashMap<String, Value>) -> Self {
        Self { values, read: RefCell::default() }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.of_kind(key, "text", |value| value.to_string().ok().map(String::as_str))
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        self.of_kind(key, "count", count)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.of_kind(key, "number", number)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.of_kind(key, "flag", |value| value.to_bool().ok())
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, LoadError> {
        self.of_kind(key, "list of texts", |value| {
            list(value, |one| one.to_string().ok().map(String::as_str))
        })
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, LoadError> {
        self.of_kind(key, "list of numbers", |value| list(value, number))
    }

    pub(super) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, LoadError> {
        self.of_kind(key, "list of flags", |value| list(value, |one| one.to_bool().ok()))
    }

    /// Whether there is a list under this key.
    pub(super) fn is_list(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Array(_)))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Takes an entry as read, or all whose keys begin with what ends in a dot.
    pub(super) fn seen(&self, key: &str) {
        let is_meant = |other: &&String| {
            if key.ends_with('.') { other.starts_with(key) } else { *other == key }
        };
        let meant = self.values.keys().filter(is_meant).cloned();
        self.read.borrow_mut().extend(meant);
    }

    /// The first key that begins so, was not read, and has something to say: nothing of a thing is not there.
    pub(super) fn unread(&self, beginning: &str) -> Option<String> {
        let read = self.read.borrow();
        let says = |value: &Value| matches!(value, Value::Bool(_)) || number(value) != Some(0.0);
        let unread = self.values.iter().filter(|(key, value)| {
            key.starts_with(beginning) && !read.contains(*key) && says(value)
        });
        unread.map(|(key, _)| key.clone()).min()
    }

    fn of_kind<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        self.read.borrow_mut().insert(key.to_owned());
        read(value).map(Some).ok_or_else(|| malformed(format!("`{key}` is no {kind}")))
    }
}

/// What must be there.
pub(super) fn required<T>(key: &str, found: Option<T>) -> Result<T, LoadError> {
    found.ok_or_else(|| malformed(format!("`{key}` is missing")))
}

pub(super) fn malformed(problem: impl Into<String>) -> LoadError {
    LoadError::Malformed { what: "GGUF file".to_owned(), problem: problem.into() }
}

fn list<'a, T>(value: &'a Value, read: impl Fn(&'a Value) -> Option<T>) -> Option<Vec<T>> {
    value.to_vec().ok()?.iter().map(read).collect()
}

fn count(value: &Value) -> Option<usize> {
    let signed = match value {
        Value::Bool(_) => return None,
        Value::I8(number) => i64::from(*number),
        Value::I16(number) => i64::from(*number),
        Value::I32(number) => i64::from(*number),
        Value::I64(number) => *number,
        other => return usize::try_from(other.to_u64().ok()?).ok(),
    };
    usize::try_from(signed).ok()
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::F32(number) => Some(f64::from(*number)),
        Value::F64(number) => Some(*number),
        Value::I8(number) => Some(f64::from(*number)),
        Value::I16(number) => Some(f64::from(*number)),
        Value::I32(number) => Some(f64::from(*number)),
        Value::I64(number) => Some(*number as f64),
        other => count(other).map(|count| count as f64),
    }
}
