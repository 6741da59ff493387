//! Reads the fields of a JSON request, and names the one that is wrong.
//!
//! As `OpenAI` does: `null` is absent, unknown fields are ignored, a wrong type or a value out of
//! range is refused with the field's path.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::failure::Failure;
use domain::ErrorKind;

/// A JSON object and where it stands in the request.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    at: String,
}

/// Reads a body that must be one JSON object.
pub(crate) fn parse_object(body: &[u8]) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        Failure::of(ErrorKind::InvalidRequest, format!("the body is not valid JSON: {error}"))
    })?;
    if value.is_object() {
        return Ok(value);
    }
    let message = format!("the body must be a JSON object, not {}", name_of(&value));
    Err(Failure::of(ErrorKind::InvalidRequest, message))
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at `at` (empty for the body itself).
    pub(crate) fn of(value: &'a Value, at: impl Into<String>) -> Result<Self, Failure> {
        let at = at.into();
        match value.as_object() {
            Some(object) => Ok(Self { object, at }),
            None => Err(wrong_type(&at, "an object", value)),
        }
    }

    /// The path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// A field's value; `None` if it is absent or `null`.
    pub(crate) fn value(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn required(&self, name: &str) -> Result<&'a Value, Failure> {
        let path = self.path(name);
        let missing = || Failure::invalid(path.clone(), format!("`{path}` is required"));
        self.value(name).ok_or_else(missing)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| wrong_type(&self.path(name), "a string", value))?;
        Ok(Some(text))
    }

    pub(crate) fn required_text(&self, name: &str) -> Result<&'a str, Failure> {
        let value = self.required(name)?;
        value.as_str().ok_or_else(|| wrong_type(&self.path(name), "a string", value))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let flag =
            value.as_bool().ok_or_else(|| wrong_type(&self.path(name), "a boolean", value))?;
        Ok(Some(flag))
    }

    pub(crate) fn number(
        &self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f32>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let path = self.path(name);
        let number = value.as_f64().ok_or_else(|| wrong_type(&path, "a number", value))?;
        if !range.contains(&number) {
            return Err(out_of_range(&path, value, range.start(), range.end()));
        }
        Ok(Some(number as f32))
    }

    pub(crate) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let path = self.path(name);
        if !value.is_number() || value.as_f64().is_some_and(|number| number.fract() != 0.0) {
            return Err(wrong_type(&path, "an integer", value));
        }
        match value.as_i64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(out_of_range(&path, value, range.start(), range.end())),
        }
    }

    pub(crate) fn list(&self, name: &str) -> Result<Option<&'a [Value]>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let list = value.as_array().ok_or_else(|| wrong_type(&self.path(name), "a list", value))?;
        Ok(Some(list))
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, Failure> {
        let Some(value) = self.value(name) else { return Ok(None) };
        Fields::of(value, self.path(name)).map(Some)
    }

    /// Every field with its value.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.object.iter()
    }
}

/// A value of the wrong type at `path`.
pub(crate) fn wrong_type(path: &str, expected: &str, found: &Value) -> Failure {
    Failure::invalid(path, format!("`{path}` must be {expected}, not {}", name_of(found)))
}

fn out_of_range<T: std::fmt::Display>(path: &str, found: &Value, low: T, high: T) -> Failure {
    Failure::invalid(path, format!("`{path}` must be between {low} and {high}, not {found}"))
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "this number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
