//! Options of vLLM's clients: what is said before an answer, what ends it and what of it is shown; and what a model thinks.

use super::outputs::{asking, body, chunks, saying, saying_by, text_of};
use super::*;

/// A model that thinks, unless it is told not to; `begun` puts the mark into the prompt.
fn thinker(begun: bool) -> ModelFiles {
    let begins = if begun { "<think>\n" } else { "" };
    let template = format!(
        "{{% for m in messages %}}{{% if m.reasoning_content %}}({{{{ m.reasoning_content }}}}){{% endif %}}{{{{ m.content }}}}|{{% endfor %}}{{% if add_generation_prompt %}}{{% if enable_thinking is defined and not enable_thinking %}}<think></think>{{% else %}}{begins}{{% endif %}}{{% endif %}}"
    );
    ModelFiles { chat_template: Some(template.into()), ..files() }
}

/// The whole reply to a text completion.
async fn complete(world: &World, body: &Value) -> String {
    let request = world.request(body).replace("/chat/completions", "/completions");
    let mut connection = world.send(&request).await;
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await.unwrap();
    reply
}

fn reasoning_tokens(usage: &Value) -> i64 {
    usage["completion_tokens_details"]["reasoning_tokens"].as_i64().unwrap()
}

fn streamed(more: &Value) -> Value {
    let mut body = asking(more);
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    body
}

#[tokio::test]
async fn thoughts_are_told_apart_whole_and_streamed_and_from_the_cache() {
    let spoken = "<think>\nI wonder, K\u{f6}ln?\n</think>\n\nIt is so.";
    let world = saying_by(thinker(false), &[spoken], None).await;

    let whole = world.chat(&asking(&json!({}))).await;
    let cached = world.chat(&streamed(&json!({}))).await;
    let live = world.chat(&streamed(&json!({ "temperature": 1 }))).await;

    let told = body(&whole);
    let message = &told["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "I wonder, K\u{f6}ln?");
    assert_eq!(message["content"], "It is so.");
    let tokens = reasoning_tokens(&told["usage"]);
    assert!(tokens > 3 && tokens + 8 < told["usage"]["completion_tokens"].as_i64().unwrap());
    assert!(cached.contains("x-tollgate-cache: hit"), "{cached}");
    for reply in [cached, live] {
        let chunks = chunks(&reply);
        assert_eq!(text_of(&chunks, 0, "/delta/reasoning_content"), "I wonder, K\u{f6}ln?");
        assert_eq!(text_of(&chunks, 0, "/delta/content"), "It is so.");
        assert_eq!(reasoning_tokens(&chunks.last().unwrap()["usage"]), tokens);
    }
}

#[tokio::test]
async fn a_prompt_may_begin_the_thoughts_and_calls_in_them_are_none() {
    let call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {}}\n</tool_call>";
    let spoken = format!("Shall I {call}?\n</think>\nYes.\n{call}");
    let world = saying_by(thinker(true), &[&spoken], None).await;
    let tools = json!([{ "type": "function", "function": { "name": "add" } }]);

    let told = body(&world.chat(&asking(&json!({ "tools": tools }))).await);
    let mut plain = asking(&json!({ "chat_template_kwargs": { "enable_thinking": false } }));
    plain["temperature"] = json!(1);
    let unthought = body(&world.chat(&plain).await);

    let message = &told["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], format!("Shall I {call}?"));
    assert_eq!(message["content"], "Yes.");
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(told["choices"][0]["finish_reason"], "tool_calls");
    let message = &unthought["choices"][0]["message"];
    assert_eq!(
        (&message["content"], &message["reasoning_content"]),
        (&json!(spoken), &json!(null))
    );
    assert_eq!(reasoning_tokens(&unthought["usage"]), 0);
}

#[tokio::test]
async fn a_model_that_marks_no_thoughts_has_none() {
    let spoken = "<think>a</think>b";
    let world = saying(&[spoken], None, |worker| worker).await;

    let told = body(&world.chat(&asking(&json!({}))).await);

    assert_eq!(told["choices"][0]["message"]["content"], spoken);
    assert_eq!(reasoning_tokens(&told["usage"]), 0);
}

#[tokio::test]
async fn a_prompt_is_echoed_before_its_answer() {
    let world = saying(&["the answer"], None, |worker| worker).await;
    let asked = json!({ "model": "scripted", "prompt": "Say ", "echo": true, "temperature": 0 });
    let mut more = asked.clone();
    more["stream"] = json!(true);
    let mut cut = asked.clone();
    cut["truncate_prompt_tokens"] = json!(1);
    cut["prompt"] = json!("one two");

    let whole = body(&complete(&world, &asked).await);
    let stream = chunks(&complete(&world, &more).await);
    let cut = body(&complete(&world, &cut).await);

    assert_eq!(whole["choices"][0]["text"], "Say the answer");
    assert_eq!(text_of(&stream, 0, "/text"), "Say the answer");
    assert_eq!(cut["usage"]["prompt_tokens"], 1);
    let text = cut["choices"][0]["text"].as_str().unwrap();
    assert!("one two the answer".replace("two ", "two").ends_with(text), "{text}");
}

#[tokio::test]
async fn stop_strings_wait_for_min_tokens_and_may_be_shown() {
    let world = saying(&["a END b END c"], None, |worker| worker).await;
    for (more, expected, reason) in [
        (json!({ "stop": "END" }), "a ", "stop"),
        (json!({ "stop": "END", "include_stop_str_in_output": true }), "a END", "stop"),
        (json!({ "stop": "END", "min_tokens": 5 }), "a END b ", "stop"),
        (json!({ "stop": ["END", "c"], "min_tokens": 200 }), "a END b END c", "stop"),
    ] {
        let told = body(&world.chat(&asking(&more)).await);
        let parts = chunks(&world.chat(&streamed(&more)).await);
        let choice = &told["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&json!(expected), &json!(reason)),
            "{more}"
        );
        assert_eq!(text_of(&parts, 0, "/delta/content"), expected, "{more}");
    }
}

#[tokio::test]
async fn special_tokens_are_shown_to_who_asks_for_them() {
    let world = saying(&["a<|im_start|>b"], None, |worker| worker).await;
    let shown = json!({ "skip_special_tokens": false });

    let hidden = body(&world.chat(&asking(&json!({}))).await);
    let told = body(&world.chat(&asking(&shown)).await);
    let parts = chunks(&world.chat(&streamed(&shown)).await);

    assert_eq!(hidden["choices"][0]["message"]["content"], "ab");
    assert_eq!(told["choices"][0]["message"]["content"], "a<|im_start|>b");
    assert_eq!(text_of(&parts, 0, "/delta/content"), "a<|im_start|>b");
}

#[tokio::test]
async fn what_a_model_or_a_form_leaves_no_room_for_is_refused_by_name() {
    let world = saying(&["a"], None, |worker| worker).await;
    let function = json!({ "name": "f", "strict": true });
    let tools = json!([{ "type": "function", "function": function }]);
    for (more, blamed) in [
        (json!({ "stop_token_ids": [4096] }), "stop_token_ids"),
        (json!({ "allowed_token_ids": [4096] }), "allowed_token_ids"),
        (json!({ "bad_words": ["a"], "guided_regex": "a" }), "bad_words"),
        (json!({ "allowed_token_ids": [1], "guided_regex": "a" }), "allowed_token_ids"),
        (json!({ "chat_template_kwargs": { "x": 1 } }), "chat_template_kwargs.x"),
        (json!({ "chat_template_kwargs": { "thinking": true } }), "chat_template_kwargs.thinking"),
        (json!({ "reasoning_effort": "high" }), "reasoning_effort"),
        (json!({ "documents": [{}] }), "documents"),
        (json!({ "tools": tools, "tool_choice": "required", "guided_regex": "a" }), "guided_regex"),
    ] {
        let told = body(&world.chat(&asking(&more)).await);
        assert_eq!(told["error"]["param"], blamed, "{more}: {told}");
    }
    for more in [
        json!({ "chat_template_kwargs": { "enable_thinking": false } }),
        json!({ "reasoning_effort": "none" }),
        json!({ "tools": tools }),
        json!({ "tools": tools, "tool_choice": "required" }),
        json!({ "tools": tools, "tool_choice": "required", "response_format": { "type": "json_object" } }),
    ] {
        assert!(world.chat(&asking(&more)).await.starts_with("HTTP/1.1 200"), "{more}");
    }
}
