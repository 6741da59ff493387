//! `POST /v1/embeddings`: what is asked for, and how vectors are told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::{ModelName, OwnBound, Priority};
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Action, Ending, Endpoint, usage};
use crate::call;
use crate::failure::Failure;
use crate::fields::{Fields, parse_object, wrong_type};

pub(crate) const ENDPOINT: Endpoint =
    Endpoint { method: Method::POST, path: "/v1/embeddings", action: Action::Embed };

/// A request for vectors: checked, not yet matched to a model.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddingCall {
    pub(crate) model: ModelName,
    pub(crate) inputs: Inputs,
    pub(crate) encoding: Encoding,
    /// How many numbers each vector is to have, if that was said.
    pub(crate) dimensions: Option<u32>,
    pub(crate) priority: Priority,
    pub(crate) bound: OwnBound,
}

/// What to embed: at least one text, none of them empty.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) texts: Vec<Input>,
    /// They came as a list, so that each has a place in it.
    listed: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// As text: the model's own beginning and end are added.
    Text(String),
    /// Token ids, read as they are.
    Tokens(Vec<u32>),
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As JSON numbers.
    Float,
    /// As the base64 of little-endian 32-bit numbers.
    Base64,
}

impl Inputs {
    /// The field that the one at this place came from.
    pub(crate) fn field(&self, at: usize) -> String {
        if self.listed { format!("input[{at}]") } else { "input".to_owned() }
    }

    /// About how many bytes of text there are to read.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |input: &Input| match input {
            Input::Text(text) => text.len(),
            Input::Tokens(_) => 0,
        };
        self.texts.iter().map(bytes).sum()
    }
}

impl EmbeddingCall {
    /// The same with what headers say of it.
    pub(crate) fn bounded_by(mut self, bound: OwnBound, priority: Option<Priority>) -> Self {
        self.bound = call::tighter(self.bound, bound);
        self.priority = priority.unwrap_or(self.priority);
        self
    }
}

/// Reads the body.
pub(crate) fn parse(body: &[u8]) -> Result<EmbeddingCall, Failure> {
    let body = parse_object(body)?;
    let fields = Fields::of(&body, "")?;
    let dimensions = fields.integer("dimensions", 1..=i64::from(u32::MAX))?;
    Ok(EmbeddingCall {
        model: ModelName::new(fields.required_text("model")?),
        inputs: inputs(fields.required("input")?)?,
        encoding: encoding(&fields)?,
        dimensions: dimensions.and_then(|number| u32::try_from(number).ok()),
        priority: call::priority(&fields)?,
        bound: call::own_bound(&fields)?,
    })
}

fn encoding(fields: &Fields<'_>) -> Result<Encoding, Failure> {
    match fields.text("encoding_format")? {
        None | Some("float") => Ok(Encoding::Float),
        Some("base64") => Ok(Encoding::Base64),
        Some(other) => {
            let message = format!("`encoding_format` must be float or base64, not `{other}`");
            Err(Failure::invalid("encoding_format", message))
        }
    }
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
fn inputs(value: &Value) -> Result<Inputs, Failure> {
    let list = match value {
        Value::String(_) => return one("input", value).map(|text| of(vec![text], false)),
        Value::Array(list) => list,
        other => return Err(wrong_type("input", EXPECTED, other)),
    };
    if list.iter().any(Value::is_number) {
        return one("input", value).map(|text| of(vec![text], false));
    }
    if list.is_empty() || list.len() > MAX_INPUTS {
        let message = format!("`input` must hold 1 to {MAX_INPUTS} texts, not {}", list.len());
        return Err(Failure::invalid("input", message));
    }
    let texts = list.iter().enumerate().map(|(at, value)| one(&format!("input[{at}]"), value));
    Ok(of(texts.collect::<Result<_, _>>()?, true))
}

const fn of(texts: Vec<Input>, listed: bool) -> Inputs {
    Inputs { texts, listed }
}

/// The text at `path`.
fn one(path: &str, value: &Value) -> Result<Input, Failure> {
    let empty = || Failure::invalid(path, format!("`{path}` must not be empty"));
    match value {
        Value::String(text) if text.is_empty() => Err(empty()),
        Value::String(text) => Ok(Input::Text(text.clone())),
        Value::Array(ids) if ids.is_empty() => Err(empty()),
        Value::Array(ids) => call::token_ids(path, ids).map(Input::Tokens),
        other => Err(wrong_type(path, "a string or a list of token ids", other)),
    }
}

/// An answer, as it is written.
#[derive(Serialize)]
struct Answer<'a> {
    object: &'static str,
    data: Vec<Datum>,
    model: &'a str,
    usage: Value,
}

#[derive(Serialize)]
struct Datum {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Float(Vec<f32>),
    Base64(String),
}

/// The whole answer as JSON.
pub(crate) fn answer(
    model: &str,
    vectors: Vec<Vec<f32>>,
    encoding: Encoding,
    end: &Ending,
) -> Result<String, serde_json::Error> {
    let datum = |(index, vector): (usize, Vec<f32>)| Datum {
        object: "embedding",
        index,
        embedding: match encoding {
            Encoding::Float => Numbers::Float(vector),
            Encoding::Base64 => Numbers::Base64(written(&vector)),
        },
    };
    let data = vectors.into_iter().enumerate().map(datum).collect();
    let all = usage(end);
    let usage = json!({
        "prompt_tokens": all["prompt_tokens"],
        "total_tokens": all["total_tokens"],
        "cost": all["cost"],
        "cost_details": all["cost_details"],
    });
    serde_json::to_string(&Answer { object: "list", data, model, usage })
}

fn written(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

const EXPECTED: &str = "a string, a list of strings, or token ids";
/// What `OpenAI` takes at a time.
const MAX_INPUTS: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    /// What `body` asks for, or the field that is to blame.
    fn read(body: &Value) -> Result<EmbeddingCall, String> {
        parse(body.to_string().as_bytes()).map_err(|failure| {
            let body = failure.body(domain::RequestId::generate());
            body["error"]["param"].as_str().unwrap_or_default().to_owned()
        })
    }

    fn asking(input: &Value) -> Value {
        json!({ "model": "m", "input": input })
    }

    #[test]
    fn texts_and_tokens_come_alone_or_in_lists() {
        let text = |text: &str| Input::Text(text.to_owned());
        for (input, expected, field) in [
            (json!("a"), vec![text("a")], "input"),
            (json!(["a", " "]), vec![text("a"), text(" ")], "input[0]"),
            (json!([1, 2]), vec![Input::Tokens(vec![1, 2])], "input"),
            (
                json!([[1], [2, 3]]),
                vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])],
                "input[0]",
            ),
        ] {
            let read = read(&asking(&input)).unwrap();
            assert_eq!((read.inputs.field(0).as_str(), read.inputs.texts), (field, expected));
        }
    }

    #[test]
    fn what_cannot_be_embedded_is_refused_by_its_place() {
        for (input, blamed) in [
            (json!(""), "input"),
            (json!([]), "input"),
            (json!(7), "input"),
            (json!(["a", ""]), "input[1]"),
            (json!([[1], []]), "input[1]"),
            (json!(["a", 7]), "input[0]"),
            (json!([[1], "a", {}]), "input[2]"),
            (json!([1, -2]), "input[1]"),
            (json!([[1, 2.5]]), "input[0][1]"),
            (json!(vec!["a"; MAX_INPUTS + 1]), "input"),
            (json!(null), "input"),
        ] {
            assert_eq!(read(&asking(&input)).unwrap_err(), blamed, "{input}");
        }
        assert!(read(&asking(&json!(vec!["a"; MAX_INPUTS]))).is_ok());
    }

    #[test]
    fn other_fields_are_checked_and_unknown_ones_ignored() {
        for (name, value, blamed) in [
            ("encoding_format", json!("hex"), "encoding_format"),
            ("encoding_format", json!(1), "encoding_format"),
            ("dimensions", json!(0), "dimensions"),
            ("dimensions", json!("many"), "dimensions"),
            ("model", json!(null), "model"),
        ] {
            let mut body = asking(&json!("a"));
            body[name] = value;
            assert_eq!(read(&body).unwrap_err(), blamed);
        }
        let mut body = asking(&json!("a"));
        body["user"] = json!("u");
        body["vendor"] = json!({});
        assert_eq!(read(&body).unwrap().encoding, Encoding::Float);
    }

    #[test]
    fn base64_holds_the_same_numbers_as_floats() {
        let vector = vec![0.1_f32, -1.5, f32::MIN_POSITIVE];
        let bytes = STANDARD.decode(written(&vector)).unwrap();
        let read = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
        assert_eq!(read.collect::<Vec<_>>(), vector);
    }
}
