//! The questions: one for each stream, of every kind that has one answer.

use serde_json::{Value, json};

/// The question of stream `number`.
pub(crate) fn question(number: usize) -> Value {
    let mut question = json!({
        "model": "tollgate-demo",
        "messages": [{ "role": "user", "content": format!("{number}: tell me a story.") }],
        "max_tokens": 150 + number % 100,
        "temperature": 0,
        "stream_options": { "include_usage": true },
    });
    let changes = match number % 6 {
        0 => json!({}),
        1 => json!({ "temperature": 1.1, "seed": number, "top_p": 0.95 }),
        2 => json!({ "temperature": 1, "seed": number, "response_format": schema() }),
        3 => {
            json!({ "tools": [tool()], "tool_choice": "required", "temperature": 1, "seed": number })
        }
        4 => json!({ "logprobs": true, "top_logprobs": 3, "frequency_penalty": 0.5 }),
        _ => json!({ "n": 2, "temperature": 1, "seed": number }),
    };
    for (name, value) in changes.as_object().into_iter().flatten() {
        question[name] = value.clone();
    }
    question
}

fn schema() -> Value {
    json!({
        "type": "json_schema",
        "json_schema": {
            "name": "hero",
            "strict": true,
            "schema": {
                "type": "object",
                "properties": {
                    "name": { "type": "string", "maxLength": 40 },
                    "kind": { "enum": ["dragon", "knight", "frog"] },
                    "age": { "type": "integer", "minimum": 0, "maximum": 900 },
                    "friends": {
                        "type": "array",
                        "maxItems": 3,
                        "items": {
                            "type": "object",
                            "properties": { "name": { "type": "string", "maxLength": 20 } },
                            "required": ["name"],
                            "additionalProperties": false,
                        },
                    },
                },
                "required": ["name", "kind", "age", "friends"],
                "additionalProperties": false,
            },
        },
    })
}

fn tool() -> Value {
    json!({
        "type": "function",
        "function": {
            "name": "tell_weather",
            "description": "Tells the weather at a place.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": { "type": "string", "maxLength": 30 },
                    "unit": { "enum": ["celsius", "fahrenheit"] },
                },
                "required": ["place", "unit"],
                "additionalProperties": false,
            },
        },
    })
}
