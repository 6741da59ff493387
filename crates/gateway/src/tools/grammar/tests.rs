//! Grammars as the machine of the workers reads them: a token for each byte.

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::ApproximateTokEnv;
use llguidance::{Matcher, ParserFactory};
use serde_json::json;

use super::*;
use crate::tools::format::{HERMES, LLAMA3, MISTRAL, ToolFormat};
use crate::tools::{Function, ToolParser};

fn tools(choice: ToolChoice, parallel: bool) -> Tools {
    let weather = json!({
        "type": "object",
        "properties": { "city": { "$ref": "#/$defs/city" } },
        "required": ["city"],
        "additionalProperties": false,
        "$defs": { "city": { "type": "string", "enum": ["Rome", "K\u{f6}ln"] } },
    });
    let function =
        |name: &str, parameters| Function { name: name.to_owned(), parameters, told: json!({}) };
    let functions = vec![function("weather", Some(weather)), function("now", None)];
    Tools { functions, choice, parallel }
}

/// Whether `text` is an answer that `grammar` accepts.
fn accepts(grammar: &str, text: &str) -> bool {
    let environment = ApproximateTokEnv::single_byte_env();
    let factory = ParserFactory::new_simple(&environment).unwrap();
    let parser = factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned()));
    let mut matcher = Matcher::new(parser);
    assert!(!matcher.is_error(), "{grammar}: {:?}", matcher.get_error());
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    matcher.try_consume_tokens(&tokens).unwrap() == tokens.len() && matcher.is_accepting().unwrap()
}

const fn voice(format: &'static ToolFormat) -> Voice {
    Voice { format, tokens: Vec::new() }
}

const ROME: &str = "{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}";
const NOW: &str = "{\"name\": \"now\", \"arguments\": {}}";

#[test]
fn what_a_grammar_accepts_is_what_the_parser_finds() {
    let required = tools(ToolChoice::Required, true);
    let cases = [
        (&HERMES, format!("<tool_call>\n{ROME}\n</tool_call>\n<tool_call>\n{NOW}\n</tool_call>")),
        (&LLAMA3, format!("{ROME}; {NOW}").replace("arguments", "parameters")),
        (&MISTRAL, format!("[TOOL_CALLS][{ROME}, {NOW}]")),
    ];
    for (format, text) in cases {
        let grammar = grammar(&required, &voice(format), None);
        assert!(accepts(&grammar, &text), "{}: {grammar}", format.name);
        let mut parser = ToolParser::new(&required, &voice(format));
        let parts = parser.push(&text);
        let calls = parts.iter().filter(|part| matches!(part, crate::tools::Part::Call { .. }));
        assert_eq!(calls.count(), 2, "{parts:?}");
        assert!(!parts.iter().any(|part| matches!(part, crate::tools::Part::Text(_))));
        assert!(!accepts(&grammar, "Hello"));
        assert!(!accepts(&grammar, &text.replace("Rome", "Oslo")));
    }
}

#[test]
fn a_named_function_is_called_once_and_no_other() {
    let grammar = grammar(&tools(ToolChoice::Named("now".to_owned()), true), &voice(&HERMES), None);
    let one = format!("<tool_call>\n{NOW}\n</tool_call>");
    assert!(accepts(&grammar, &one));
    assert!(!accepts(&grammar, &format!("{one}\n{one}")));
    assert!(!accepts(&grammar, &format!("<tool_call>\n{ROME}\n</tool_call>")));
}

#[test]
fn an_answer_of_a_form_may_stand_in_the_place_of_calls() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"], "additionalProperties": false });
    let grammar = grammar(&tools(ToolChoice::Auto, false), &voice(&HERMES), Some(&schema));
    assert!(accepts(&grammar, "{\"a\": 1}"));
    assert!(accepts(&grammar, &format!("<tool_call>\n{NOW}\n</tool_call>")));
    assert!(!accepts(&grammar, "{\"b\": 1}"));
}

#[test]
fn special_tokens_are_named_by_their_ids() {
    let voice = Voice { format: &MISTRAL, tokens: vec![(5, "[TOOL_CALLS]")] };
    let grammar = grammar(&tools(ToolChoice::Required, true), &voice, None);
    assert!(grammar.contains("calls: <[5]> \"[\""), "{grammar}");
}
