//! Answers of models, read whole and in pieces.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::tools::format::{HERMES, LLAMA3, MISTRAL};
use crate::tools::{Function, ToolChoice};

fn tools(parallel: bool) -> Tools {
    let function =
        |name: &str| Function { name: name.to_owned(), parameters: None, told: json!({}) };
    let functions = vec![function("weather"), function("add")];
    Tools { functions, choice: ToolChoice::Auto, parallel }
}

/// What comes of `pieces`: content, and calls as (name, arguments).
fn read(format: &'static ToolFormat, pieces: &[&str]) -> (String, Vec<(String, String)>) {
    let mut parser = ToolParser::new(&tools(true), &Voice { format, tokens: Vec::new() });
    let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    parts.extend(parser.finish());
    together(parts)
}

fn together(parts: Vec<Part>) -> (String, Vec<(String, String)>) {
    let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for part in parts {
        match part {
            Part::Text(text) => content.push_str(&text),
            Part::Call { index, name } => {
                assert_eq!(index, calls.len(), "calls come in order");
                calls.push((name, String::new()));
            }
            Part::Arguments { index, text } => {
                assert_eq!(index + 1, calls.len(), "arguments follow their call");
                calls[index].1.push_str(&text);
            }
        }
    }
    (content, calls)
}

fn call(name: &str, arguments: &str) -> (String, String) {
    (name.to_owned(), arguments.to_owned())
}

#[test]
fn hermes_calls_are_found_among_content() {
    let text = "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln }\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": [1, {}]}}\n</tool_call>\nDone.";
    let (content, calls) = read(&HERMES, &[text]);
    assert_eq!(content, "Let me see.Done.");
    assert_eq!(calls, [call("weather", "{\"city\": \"Köln }\"}"), call("add", "{\"a\": [1, {}]}")]);
}

#[test]
fn llama_calls_are_found_with_and_without_their_token() {
    let bare = "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}";
    let expected = vec![call("weather", "{\"city\": \"Rome\"}")];
    assert_eq!(read(&LLAMA3, &[bare]), (String::new(), expected.clone()));
    let tagged = format!("<|python_tag|>{bare}");
    assert_eq!(read(&LLAMA3, &[&tagged]), (String::new(), expected.clone()));
    let typed =
        "{\"type\": \"function\", \"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}";
    assert_eq!(read(&LLAMA3, &[typed]), (String::new(), expected));
    let two = format!("{bare}; {bare}");
    assert_eq!(read(&LLAMA3, &[&two]).1.len(), 2);
}

#[test]
fn json_that_calls_no_known_function_is_an_answer() {
    for text in [
        "{\"name\": \"Bob\", \"age\": 3}",
        "{\"name\": \"unknown\", \"parameters\": {}}",
        "{\"city\": \"Rome\"}",
        " {",
        "{\"name\": 7}",
    ] {
        assert_eq!(read(&LLAMA3, &[text]), (text.to_owned(), vec![]), "{text}");
    }
}

#[test]
fn mistral_calls_are_a_list() {
    let text = "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}, {\"name\": \"add\", \"arguments\": {}}]";
    let (content, calls) = read(&MISTRAL, &[text]);
    assert_eq!(content, "");
    assert_eq!(calls, [call("weather", "{\"city\": \"Rome\"}"), call("add", "{}")]);
}

#[test]
fn what_only_looks_like_a_call_is_content() {
    for text in [
        "Use <tool_call> to call.",
        "<tool_call>no json</tool_call>",
        "<tool_call>\n{\"name\": \"weather\"",
        "a <tool_",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "  indented \n",
    ] {
        assert_eq!(read(&HERMES, &[text]), (text.to_owned(), vec![]), "{text}");
    }
}

#[test]
fn arguments_are_handed_on_while_they_come() {
    let mut parser = ToolParser::new(&tools(true), &Voice { format: &HERMES, tokens: Vec::new() });
    assert!(parser.push("<tool_call>{\"name\": \"add\", \"arg").is_empty());
    assert_eq!(
        parser.push("uments\": {\"a\""),
        [
            Part::Call { index: 0, name: "add".to_owned() },
            Part::Arguments { index: 0, text: "{\"a\"".to_owned() }
        ]
    );
    let more = Part::Arguments { index: 0, text: ": 1".to_owned() };
    assert_eq!(parser.push(": 1"), [more]);
}

#[test]
fn arguments_may_stand_before_the_name_and_may_be_written_as_a_string() {
    let before = "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"add\"}</tool_call>";
    assert_eq!(read(&HERMES, &[before]).1, [call("add", "{\"a\": 1}")]);
    let text = "<tool_call>{\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
    assert_eq!(read(&HERMES, &[text]).1, [call("add", "{\"a\": 1}")]);
    let none = "<tool_call>{\"name\": \"add\", \"arguments\": null}</tool_call>";
    assert_eq!(read(&HERMES, &[none]).1, [call("add", "{}")]);
}

#[test]
fn a_call_that_is_cut_off_keeps_what_came() {
    let cut = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1";
    assert_eq!(read(&HERMES, &[cut]), (String::new(), vec![call("add", "{\"a\": 1")]));
}

#[test]
fn a_single_call_completes_an_answer_that_may_have_one() {
    let mut parser = ToolParser::new(&tools(false), &Voice { format: &HERMES, tokens: Vec::new() });
    let one = "<tool_call>{\"name\": \"add\", \"arguments\": {}}";
    parser.push(one);
    assert!(parser.is_complete());
    assert!(parser.push(&format!("</tool_call>{one} more")).is_empty());
    assert!(parser.finish().is_empty());
}

fn any_answer() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<tool_call>"),
        Just("</tool_call>"),
        Just("<|python_tag|>"),
        Just("[TOOL_CALLS]"),
        Just("{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\", \"n\": [1, {}]}}"),
        Just("{\"name\": \"add\", \"parameters\": {\"a\": \"\\\"}\"}}"),
        Just("{\"name\": \"add\""),
        Just("{\"parameters\": \"x\", \"name\": \"add\"}"),
        Just("["),
        Just("]"),
        Just(", "),
        Just("; "),
        Just("\n"),
        Just(" "),
        Just("text"),
        Just("<tool"),
        Just("{"),
        Just("}"),
        Just("\u{e9}"),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn however_text_is_cut_the_same_calls_come_out(
        text in any_answer(),
        cuts in prop::collection::vec(0_usize..200, 0..20),
        format in 0_usize..3,
    ) {
        let format = crate::tools::format::FORMATS[format];
        let characters: Vec<char> = text.chars().collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (characters.len() + 1)).collect();
        at.extend([0, characters.len()]);
        at.sort_unstable();
        let pieces: Vec<String> =
            at.windows(2).map(|pair| characters[pair[0]..pair[1]].iter().collect()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();

        prop_assert_eq!(read(format, &pieces), read(format, &[&text]));
    }
}
