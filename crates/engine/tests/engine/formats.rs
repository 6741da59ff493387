//! Outputs in a format: valid, the same wherever they are computed and continued, and no trouble to others.

use std::sync::Arc;

use domain::{FinishReason, Format, OutputRules, Sampling};
use engine::{Engine, EngineConfig, Refusal, Request};
use serde_json::Value;

use crate::support::{answer, block_on, demo_text, request, start};

const PROMPT: &[u32] = &[4088, 280, 198];

fn schema(schema: &Value) -> Format {
    Format::JsonSchema(schema.to_string().into())
}

fn formatted(format: Format, max_output: u32) -> Request {
    let output = OutputRules { format, ..OutputRules::default() };
    Request { output, ..request(PROMPT, max_output) }
}

fn sampled(seed: u64) -> Sampling {
    Sampling { temperature: 1.0, seed, ..Sampling::greedy() }
}

fn person() -> Value {
    serde_json::json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "größe in cm": { "type": "integer", "minimum": 0, "maximum": 300 },
            "tags": { "type": "array", "items": { "enum": ["red", "green", "naïve 🙂"] }, "maxItems": 3 },
            "kind": { "const": "a rather long constant that is forced" }
        },
        "required": ["name", "größe in cm", "tags", "kind"],
        "additionalProperties": false
    })
}

/// One format of every kind.
fn formats() -> Vec<Format> {
    vec![
        schema(&person()),
        Format::JsonObject,
        Format::Regex("(ab|ba){2,5}-[0-9]{3} ü+!".into()),
        Format::Choice(Arc::from(["yes", "no", "yes, but (not) now.*"].map(str::to_owned))),
        Format::Grammar(
            "start: item (\", \" item)* \".\"\nitem: /[a-z]{3,8}/ \"=\" /[0-9]+/".into(),
        ),
    ]
}

#[test]
fn an_output_is_a_sentence_of_its_format() {
    let engine = start(EngineConfig::default());
    for seed in 0..4 {
        for format in formats() {
            let request = Request { sampling: sampled(seed), ..formatted(format.clone(), 120) };
            let answer = block_on(answer(&engine, request));
            println!("{:?} {:?}", answer.reason, demo_text(&answer.ids));
        }
    }
    println!("{:?}", engine.state().mask_times);
}
