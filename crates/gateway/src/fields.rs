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
        match whole(value).filter(|number| range.contains(number)) {
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

/// A whole number, also where it is written as `1.0` or `1e3`.
fn whole(value: &Value) -> Option<i64> {
    let exact = |number: &f64| number.fract() == 0.0 && number.abs() <= LARGEST_EXACT;
    value.as_i64().or_else(|| value.as_f64().filter(exact).map(|number| number as i64))
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

/// All whole numbers up to this one are told apart where numbers are not whole: 2 to the 53rd.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_whole_number_may_be_written_with_a_point_or_an_exponent() {
        let read = |value: Value| {
            let body = json!({ "n": value });
            let fields = Fields::of(&body, "").unwrap();
            fields.integer("n", 1..=5000).map_err(|failure| failure.cause())
        };
        assert_eq!(read(json!(1.0)), Ok(Some(1)));
        assert_eq!(read(serde_json::from_str("5e3").unwrap()), Ok(Some(5000)));
        assert!(read(json!(1.5)).unwrap_err().contains("an integer"));
        assert!(read(json!(6000.0)).unwrap_err().contains("between 1 and 5000"));
        assert!(read(json!(1e300)).unwrap_err().contains("between 1 and 5000"));
    }
}
