//! Every option that clients are known to send is honoured or refused by its name.

use http::Method;
use serde_json::{Value, json};

use crate::endpoints::{self, Action};

/// What a body asks for at `path`, in words that tell two calls apart; or the field that is to blame.
fn asked(path: &str, body: &Value) -> Result<String, String> {
    let endpoint = endpoints::find(&Method::POST, path).unwrap().endpoint;
    let Action::Answer(codec) = endpoint.action else { panic!("{path} gives no answers") };
    match codec.parse(body.to_string().as_bytes()) {
        Ok(call) => Ok(format!("{call:?}")),
        Err(failure) => {
            let body = failure.body(domain::RequestId::generate());
            Err(body["error"]["param"].as_str().unwrap_or_default().to_owned())
        }
    }
}

fn with(mut body: Value, name: &str, value: &Value) -> Value {
    body[name] = value.clone();
    body
}

fn chat() -> Value {
    json!({ "model": "m", "seed": 1, "stop": "x", "messages": [{ "role": "assistant", "content": "hi" }] })
}

fn text() -> Value {
    json!({ "model": "m", "seed": 1, "stop": "x", "prompt": "hi" })
}

const CHATS: &str = "/v1/chat/completions";
const TEXTS: &str = "/v1/completions";

/// An option, a value that asks for something, and one that asks for nothing.
fn in_both() -> Vec<(&'static str, Value, Value)> {
    vec![
        ("stop_token_ids", json!([5]), json!([])),
        ("include_stop_str_in_output", json!(true), json!(false)),
        ("skip_special_tokens", json!(false), json!(true)),
        ("bad_words", json!(["a"]), json!([])),
        ("allowed_token_ids", json!([5, 4]), json!(null)),
        ("prompt_logprobs", json!(0), json!(null)),
        ("truncate_prompt_tokens", json!(5), json!(null)),
        ("truncation_side", json!("right"), json!("left")),
        ("add_special_tokens", json!(true), json!(null)),
        ("use_beam_search", json!(true), json!(false)),
        ("length_penalty", json!(0.8), json!(1)),
        ("early_stopping", json!(true), json!(false)),
        ("repetition_penalty", json!(1.2), json!(1)),
        ("min_tokens", json!(3), json!(0)),
        ("min_p", json!(0.1), json!(0)),
        ("top_k", json!(5), json!(-1)),
        ("ignore_eos", json!(true), json!(false)),
        ("logit_bias", json!({ "7": 1 }), json!({})),
        ("suffix", json!("x"), json!("")),
        ("best_of", json!(2), json!(1)),
        ("return_tokens_as_token_ids", json!(true), json!(false)),
        ("return_token_ids", json!(true), json!(false)),
        ("detokenize", json!(false), json!(true)),
        ("logits_processors", json!(["x"]), json!([])),
        ("logprob_token_ids", json!([1]), json!([])),
        ("vllm_xargs", json!({ "x": 1 }), json!({})),
        ("prompt_embeds", json!("x"), json!(null)),
        ("thinking_token_budget", json!(5), json!(null)),
        ("repetition_detection", json!({}), json!(null)),
        ("guided_json", json!({}), json!(null)),
        ("guided_regex", json!("a"), json!(null)),
        ("guided_choice", json!(["a"]), json!(null)),
        ("guided_grammar", json!("start: \"a\""), json!(null)),
        ("guided_whitespace_pattern", json!(" "), json!(null)),
        ("structured_outputs", json!({ "structural_tag": "{}" }), json!({})),
        ("structured_outputs", json!({ "whitespace_pattern": " " }), json!({})),
        ("structured_outputs", json!({ "disable_additional_properties": true }), json!({})),
        ("chat_template", json!("{{ x }}"), json!(null)),
        ("chat_template_kwargs", json!({ "enable_thinking": false }), json!({})),
        ("add_generation_prompt", json!(false), json!(true)),
        ("continue_final_message", json!(true), json!(false)),
        ("reasoning_effort", json!("low"), json!(null)),
        ("documents", json!([{ "text": "a" }]), json!([])),
        ("echo", json!(true), json!(false)),
    ]
}

fn in_chats() -> Vec<(&'static str, Value, Value)> {
    vec![
        ("include_reasoning", json!(false), json!(true)),
        ("function_call", json!({ "name": "f" }), json!("none")),
        ("functions", json!([{ "name": "f" }]), json!([])),
        ("modalities", json!(["audio"]), json!(["text"])),
        ("audio", json!({}), json!(null)),
        ("web_search_options", json!({}), json!(null)),
        ("verbosity", json!("low"), json!("medium")),
    ]
}

#[test]
fn every_option_changes_what_is_asked_or_is_refused_by_its_name() {
    let rows = |path, base: fn() -> Value, more: Vec<(&'static str, Value, Value)>| {
        in_both().into_iter().chain(more).map(move |row| (path, base(), row))
    };
    for (path, base, (name, value, neutral)) in
        rows(CHATS, chat, in_chats()).chain(rows(TEXTS, text, Vec::new()))
    {
        let plain = asked(path, &base).unwrap();
        match asked(path, &with(base.clone(), name, &value)) {
            Ok(changed) => assert_ne!(changed, plain, "{path}: `{name}` was ignored"),
            Err(blamed) => assert!(blamed.starts_with(name), "{path}: `{name}`, not `{blamed}`"),
        }
        let nothing = asked(path, &with(base, name, &neutral));
        assert_eq!(nothing, Ok(plain), "{path}: {neutral} asks for nothing as `{name}`");
    }
}

#[test]
fn what_is_said_twice_or_against_itself_is_refused() {
    for (name, value, blamed) in [
        ("logit_bias", json!({ "07": 1 }), "logit_bias.07"),
        ("logit_bias", json!({ "+7": 1 }), "logit_bias.+7"),
        ("allowed_token_ids", json!([]), "allowed_token_ids"),
        ("stop_token_ids", json!([-1]), "stop_token_ids[0]"),
        ("stop_token_ids", json!(vec![1; 129]), "stop_token_ids"),
        ("bad_words", json!(["a", "  "]), "bad_words[1]"),
        ("bad_words", json!([7]), "bad_words[0]"),
        ("bad_words", json!(vec!["a"; 129]), "bad_words"),
        ("bad_words", json!(["a".repeat(129)]), "bad_words[0]"),
        ("truncate_prompt_tokens", json!(0), "truncate_prompt_tokens"),
        ("spaces_between_special_tokens", json!("no"), "spaces_between_special_tokens"),
        ("reasoning_effort", json!("utmost"), "reasoning_effort"),
        ("chat_template_kwargs", json!([]), "chat_template_kwargs"),
        ("chat_template_kwargs", json!({ "messages": [] }), "chat_template_kwargs.messages"),
        (
            "chat_template_kwargs",
            json!({ "add_generation_prompt": false }),
            "chat_template_kwargs.add_generation_prompt",
        ),
        ("chat_template_kwargs", json!({ "x": "a".repeat(16_384) }), "chat_template_kwargs"),
        ("documents", json!(["a"]), "documents[0]"),
        (
            "stream_options",
            json!({ "continuous_usage_stats": true }),
            "stream_options.continuous_usage_stats",
        ),
    ] {
        let body = with(with(chat(), name, &value), "stream", &json!(true));
        assert_eq!(asked(CHATS, &body), Err(blamed.to_owned()), "{name}: {value}");
    }
    let both = with(chat(), "continue_final_message", &json!(true));
    let both = with(both, "add_generation_prompt", &json!(true));
    assert_eq!(asked(CHATS, &both), Err("continue_final_message".to_owned()));
    let empty = json!([{ "role": "assistant", "content": " " }]);
    let empty = with(with(chat(), "messages", &empty), "continue_final_message", &json!(true));
    assert_eq!(asked(CHATS, &empty), Err("continue_final_message".to_owned()));
    let told = with(with(text(), "echo", &json!(true)), "logprobs", &json!(1));
    assert_eq!(asked(TEXTS, &told), Err("echo".to_owned()));
    let twice = with(chat(), "chat_template_kwargs", &json!({ "reasoning_effort": "low" }));
    let twice = with(twice, "reasoning_effort", &json!("low"));
    assert_eq!(asked(CHATS, &twice), Err("reasoning_effort".to_owned()));
}
