//! Five hundred schemas, and that every output in each of them is valid.

#![expect(clippy::print_stdout, reason = "figures, for whoever runs it with --no-capture")]

use domain::{FinishReason, Sampling};
use engine::{EngineConfig, Request};
use serde_json::Value;

use crate::formats::{all_answers, formatted, sampled, schema};
use crate::schemas::corpus;
use crate::support::{Answer, demo_text, demo_tokenizer, start};

/// What helps the demo model, which is no great writer, to come to an end: it likes what closes, and not what opens.
fn inclined_to_end() -> Vec<(u32, f32)> {
    let tokenizer = demo_tokenizer();
    let mut bias = Vec::new();
    for (token, id) in tokenizer.get_vocab(true) {
        if token.chars().all(|char| "\"]}".contains(char)) {
            // Within a string only a quote closes.
            bias.push((id, if token.starts_with('"') { 100.0 } else { 80.0 }));
        } else if token.contains(|char: char| char.is_ascii_digit()) {
            // Numbers need not end, and behind one a comma may be due.
            bias.push((id, -100.0));
        } else if token.contains(['{', '[', ',']) {
            bias.push((id, -6.0));
        }
    }
    bias.sort_unstable_by_key(|(id, _)| *id);
    bias
}

#[test]
fn every_completion_of_five_hundred_schemas_is_valid() {
    let engine = start(EngineConfig::default());
    let schemas = corpus(500);
    let bias = inclined_to_end();
    for (how, sampling) in [("greedy", Sampling::greedy()), ("sampled", sampled(7))] {
        let asked = schemas.iter().map(|schema_| Request {
            sampling: sampling.clone(),
            ..formatted(schema(schema_), 60)
        });
        let asked: Vec<Request> = asked.collect();
        let begun = all_answers(&engine, &asked);
        // What was cut must be the beginning of something valid: it is continued, and comes to an end.
        let cut = |begun: &&Answer| begun.reason != FinishReason::Stop;
        let continued = asked.iter().zip(&begun).filter(|(_, begun)| cut(begun));
        let continued: Vec<Request> = continued
            .map(|(asked, begun)| Request {
                generated: begun.ids.clone(),
                max_output: 1_000,
                allowance: 1_000,
                sampling: Sampling { logit_bias: bias.clone(), ..sampling.clone() },
                ..asked.clone()
            })
            .collect();
        let mut rests = all_answers(&engine, &continued).into_iter();

        let mut tokens = 0;
        for (mut whole, schema) in begun.into_iter().zip(&schemas) {
            if cut(&&whole) {
                let rest = rests.next().unwrap();
                whole.ids.extend(rest.ids);
                whole.reason = rest.reason;
            }
            let text = demo_text(&whole.ids);
            assert_eq!(whole.reason, FinishReason::Stop, "it does not end: {text}\n{schema}");
            let value: Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{error}: {text}\n{schema}"));
            let problem = jsonschema::validator_for(schema).unwrap();
            let problem = problem.validate(&value).err();
            assert!(problem.is_none(), "{problem:?}: {text}\n{schema}");
            tokens += whole.ids.len();
        }
        let (cut, times) = (continued.len(), engine.state().mask_times);
        println!("{how}: {cut} of 500 were cut and continued, {tokens} tokens; {times:?}");
        assert!(cut > 50, "{cut} were cut and continued");
    }
}
