//! Bad values in well-formed HTTP: each is refused with a 4xx that names the field, and costs nothing.

use reqwest::Method;
use serde_json::{Value, json};
use system_tests::{Reply, Serve};

use crate::ledger::Ledger;
use crate::questions::{MODEL, endless, who, with};

/// A change to a good chat request, and the field that is to be blamed.
type Row = (Value, &'static str);

fn wrong_types() -> Vec<Row> {
    vec![
        (json!({ "model": 7 }), "model"),
        (json!({ "model": null }), "model"),
        (json!({ "messages": "hello" }), "messages"),
        (json!({ "messages": null }), "messages"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": ["hello"] }), "messages[0]"),
        (json!({ "messages": [{}] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "king", "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": 1, "content": "x" }] }), "messages[0].role"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": 7 }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": ["x"] }] }), "messages[0].content[0]"),
        (content_part(&json!({ "type": "hologram" })), "messages[0].content[0].type"),
        (content_part(&json!({ "type": "image_url" })), "messages[0].content[0].type"),
        (content_part(&json!({ "type": "text" })), "messages[0].content[0].text"),
        (content_part(&json!({ "type": 3 })), "messages[0].content[0].type"),
        (content_part(&json!({})), "messages[0].content[0].type"),
        (
            json!({ "messages": [{ "role": "user", "content": "x", "name": 1 }] }),
            "messages[0].name",
        ),
        (json!({ "stream": "yes" }), "stream"),
        (json!({ "stream": 1 }), "stream"),
        (json!({ "stream": true, "stream_options": true }), "stream_options"),
        (
            json!({ "stream": true, "stream_options": { "include_usage": 1 } }),
            "stream_options.include_usage",
        ),
        (json!({ "stream_options": {} }), "stream_options"),
        (json!({ "max_tokens": "many" }), "max_tokens"),
        (json!({ "max_completion_tokens": [] }), "max_completion_tokens"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "temperature": true }), "temperature"),
        (json!({ "top_p": "NaN" }), "top_p"),
        (json!({ "top_k": 1.5 }), "top_k"),
        (json!({ "min_p": {} }), "min_p"),
        (json!({ "repetition_penalty": "1" }), "repetition_penalty"),
        (json!({ "presence_penalty": [] }), "presence_penalty"),
        (json!({ "frequency_penalty": "x" }), "frequency_penalty"),
        (json!({ "seed": "abc" }), "seed"),
        (json!({ "seed": 1.5 }), "seed"),
        (json!({ "stop": 7 }), "stop"),
        (json!({ "stop": [7] }), "stop[0]"),
        (json!({ "logit_bias": [] }), "logit_bias"),
        (json!({ "logit_bias": { "x": 1 } }), "logit_bias.x"),
        (json!({ "logit_bias": { "5": "x" } }), "logit_bias.5"),
        (json!({ "stop_token_ids": 5 }), "stop_token_ids"),
        (json!({ "stop_token_ids": ["x"] }), "stop_token_ids[0]"),
        (json!({ "allowed_token_ids": {} }), "allowed_token_ids"),
        (json!({ "bad_words": "x" }), "bad_words"),
        (json!({ "bad_words": [1] }), "bad_words[0]"),
        (json!({ "skip_special_tokens": 1 }), "skip_special_tokens"),
        (json!({ "include_stop_str_in_output": "x" }), "include_stop_str_in_output"),
        (json!({ "chat_template_kwargs": [] }), "chat_template_kwargs"),
        (json!({ "add_generation_prompt": "x" }), "add_generation_prompt"),
        (json!({ "continue_final_message": 1 }), "continue_final_message"),
        (json!({ "reasoning_effort": 1 }), "reasoning_effort"),
        (json!({ "truncate_prompt_tokens": "x" }), "truncate_prompt_tokens"),
        (json!({ "n": "two" }), "n"),
        (json!({ "tools": {} }), "tools"),
        (json!({ "response_format": "json" }), "response_format"),
        (json!({ "response_format": {} }), "response_format.type"),
    ]
}

/// What the demo model, its template or this gateway has nothing for.
fn beyond_us() -> Vec<Row> {
    vec![
        (json!({ "documents": [{ "text": "x" }] }), "documents"),
        (json!({ "echo": true }), "echo"),
        (json!({ "use_beam_search": true }), "use_beam_search"),
        (json!({ "length_penalty": 2 }), "length_penalty"),
        (json!({ "early_stopping": true }), "early_stopping"),
        (json!({ "prompt_logprobs": 1 }), "prompt_logprobs"),
        (json!({ "return_tokens_as_token_ids": true }), "return_tokens_as_token_ids"),
        (json!({ "detokenize": false }), "detokenize"),
        (
            json!({ "structured_outputs": { "structural_tag": "{}" } }),
            "structured_outputs.structural_tag",
        ),
        (
            json!({ "tools": [tool("a")], "tool_choice": "required", "guided_regex": "a+" }),
            "guided_regex",
        ),
    ]
}

fn out_of_range() -> Vec<Row> {
    vec![
        (json!({ "max_tokens": 0 }), "max_tokens"),
        (json!({ "max_tokens": -5 }), "max_tokens"),
        (json!({ "max_tokens": 1.5 }), "max_tokens"),
        (json!({ "max_tokens": 1e30 }), "max_tokens"),
        (json!({ "max_tokens": u64::MAX }), "max_tokens"),
        (json!({ "max_completion_tokens": -1 }), "max_completion_tokens"),
        (json!({ "temperature": -0.1 }), "temperature"),
        (json!({ "temperature": 2.1 }), "temperature"),
        (json!({ "temperature": 1e30 }), "temperature"),
        (json!({ "top_p": -1 }), "top_p"),
        (json!({ "top_p": 1.1 }), "top_p"),
        (json!({ "top_k": -2 }), "top_k"),
        (json!({ "top_k": 1e30 }), "top_k"),
        (json!({ "min_p": 2 }), "min_p"),
        (json!({ "repetition_penalty": 0 }), "repetition_penalty"),
        (json!({ "repetition_penalty": 1e30 }), "repetition_penalty"),
        (json!({ "presence_penalty": -2.5 }), "presence_penalty"),
        (json!({ "frequency_penalty": 1e30 }), "frequency_penalty"),
        (json!({ "seed": 1e30 }), "seed"),
        (json!({ "stop": vec!["x"; 1000] }), "stop"),
        (json!({ "stop": [""] }), "stop"),
        (json!({ "stop": "x".repeat(100_000) }), "stop"),
        (json!({ "logit_bias": { "5": 101 } }), "logit_bias.5"),
        (json!({ "logit_bias": { "4096": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "99999999999": 1 } }), "logit_bias.99999999999"),
        (json!({ "logit_bias": { "7": 1, "07": 1 } }), "logit_bias.07"),
        (json!({ "stop_token_ids": [4096] }), "stop_token_ids"),
        (json!({ "stop_token_ids": vec![1; 200] }), "stop_token_ids"),
        (json!({ "allowed_token_ids": [] }), "allowed_token_ids"),
        (json!({ "allowed_token_ids": [4096] }), "allowed_token_ids"),
        (json!({ "bad_words": [""] }), "bad_words[0]"),
        (json!({ "bad_words": ["x"], "guided_regex": "a+" }), "bad_words"),
        (json!({ "truncate_prompt_tokens": 0 }), "truncate_prompt_tokens"),
        (json!({ "reasoning_effort": "high" }), "reasoning_effort"),
        (json!({ "reasoning_effort": "utmost" }), "reasoning_effort"),
        (json!({ "chat_template_kwargs": { "x": 1 } }), "chat_template_kwargs.x"),
        (json!({ "chat_template_kwargs": { "tools": [] } }), "chat_template_kwargs.tools"),
        (
            json!({ "continue_final_message": true, "add_generation_prompt": true }),
            "continue_final_message",
        ),
        (json!({ "n": 9 }), "n"),
        (json!({ "n": 0 }), "n"),
        (json!({ "tools": [{ "type": "function" }] }), "tools[0].function"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tools": [tool("two words")] }), "tools[0].function.name"),
        (json!({ "tools": [tool("a"), tool("a")] }), "tools[1].function.name"),
        (json!({ "tools": [tool("a")], "tool_choice": "always" }), "tool_choice"),
        (json!({ "tool_choice": "required" }), "tool_choice"),
        (
            json!({ "tools": [tool("a")], "tool_choice": { "type": "function", "function": { "name": "b" } } }),
            "tool_choice.function.name",
        ),
        (json!({ "tools": [tool("a")], "parallel_tool_calls": "no" }), "parallel_tool_calls"),
        (json!({ "tools": [tool("a")], "guided_regex": "a+" }), "tools"),
        (json!({ "functions": [{}] }), "functions"),
        (json!({ "logprobs": 1 }), "logprobs"),
        (json!({ "top_logprobs": 3 }), "top_logprobs"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "min_tokens": 5, "max_tokens": 4 }), "min_tokens"),
        (json!({ "ignore_eos": "yes" }), "ignore_eos"),
        (json!({ "service_tier": "gold" }), "service_tier"),
        (json!({ "response_format": { "type": "xml" } }), "response_format.type"),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema"),
        (json!({ "guided_json": 7 }), "guided_json"),
        (json!({ "guided_choice": [] }), "guided_choice"),
        (json!({ "guided_regex": "x".repeat(70_000) }), "guided_regex"),
        (json!({ "guided_regex": "a", "guided_grammar": "b" }), "guided_grammar"),
        (json!({ "structured_outputs": { "choice": [1] } }), "structured_outputs.choice[0]"),
    ]
}

fn completions() -> Vec<Row> {
    vec![
        (json!({ "prompt": null }), "prompt"),
        (json!({ "prompt": 7 }), "prompt"),
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": ["a", "b"] }), "prompt"),
        (json!({ "prompt": [1, "a"] }), "prompt[1]"),
        (json!({ "prompt": [-1] }), "prompt[0]"),
        (json!({ "prompt": [1.5] }), "prompt[0]"),
        (json!({ "prompt": [4096] }), "prompt"),
        (json!({ "prompt": [[["x"]]] }), "prompt"),
        (json!({ "max_tokens": -1 }), "max_tokens"),
        (json!({ "best_of": 2 }), "best_of"),
        (json!({ "echo": true, "logprobs": 1 }), "echo"),
        (json!({ "echo": "x" }), "echo"),
        (json!({ "reasoning_effort": "low" }), "reasoning_effort"),
        (json!({ "suffix": "x" }), "suffix"),
        (json!({ "logprobs": 21 }), "logprobs"),
        (json!({ "logprobs": true }), "logprobs"),
    ]
}

#[tokio::test]
async fn a_bad_field_is_a_400_that_names_it() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let mut wrong = Vec::new();

    for (change, param) in wrong_types().into_iter().chain(out_of_range()).chain(beyond_us()) {
        let reply = serve.api().chat(&with(who(), &change)).await?;
        wrong.extend(complaint(&change, &reply, 400, param));
    }
    for (change, param) in completions() {
        let good = json!({ "model": MODEL, "prompt": "The", "max_tokens": 3 });
        let reply = serve.api().post("/v1/completions", &with(good, &change)).await?;
        wrong.extend(complaint(&change, &reply, 400, param));
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_happened(&serve).await
}

/// Formats that only a worker finds out to be none.
fn formats() -> Vec<Row> {
    let empty = json!({ "type": "integer", "minimum": 3, "maximum": 2 });
    let schema = |schema: &Value| {
        let schema = json!({ "name": "x", "schema": schema });
        json!({ "response_format": { "type": "json_schema", "json_schema": schema } })
    };
    let mut bad_tool = tool("f");
    bad_tool["function"]["parameters"] =
        json!({ "type": "object", "properties": { "a": { "pattern": "(" } } });
    vec![
        (json!({ "guided_regex": "(a" }), "guided_regex"),
        (json!({ "guided_regex": "a(?=b)" }), "guided_regex"),
        (json!({ "guided_regex": "((((a{1000}){1000}){1000}){1000}){1000}" }), "guided_regex"),
        (json!({ "guided_grammar": "start: missing" }), "guided_grammar"),
        (json!({ "guided_grammar": "start: %json { \"pattern\": 7 }" }), "guided_grammar"),
        (json!({ "guided_json": { "$ref": "https://example.com/other.json" } }), "guided_json"),
        (json!({ "structured_outputs": { "regex": "(a" } }), "structured_outputs.regex"),
        (schema(&empty), "response_format.json_schema.schema"),
        (json!({ "tools": [bad_tool], "tool_choice": "required" }), "tools"),
    ]
}

#[tokio::test]
async fn a_format_that_only_the_worker_refuses_is_a_400_that_names_its_field() -> anyhow::Result<()>
{
    let serve = Serve::start().await?;
    let mut wrong = Vec::new();

    for (change, param) in formats() {
        let whole = serve.api().chat(&with(who(), &change)).await?;
        wrong.extend(complaint(&change, &whole, 400, param));
        let stream = with(with(who(), &change), &json!({ "stream": true }));
        wrong.extend(complaint(&change, &serve.api().chat(&stream).await?, 400, param));
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_the_model_is_told_so() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let api = serve.api();
    let long = "one two three ".repeat(3000);
    let tokens = json!({ "model": MODEL, "prompt": vec![5; 3000] });
    let replies = [
        (api.chat(&with(who(), &json!({ "max_tokens": 2048 }))).await?, "messages"),
        (api.chat(&with(who(), &json!({ "max_tokens": u32::MAX }))).await?, "messages"),
        (api.chat(&with(who(), &user(&long))).await?, "messages"),
        (api.chat(&with(endless(2031), &user(&"a b c ".repeat(400)))).await?, "messages"),
        (api.post("/v1/completions", &tokens).await?, "prompt"),
    ];

    for (reply, param) in &replies {
        let error = reply.error();
        assert_eq!(reply.status, 400, "{error}");
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
        assert_eq!(error["param"], *param, "{error}");
    }
    nothing_happened(&serve).await
}

#[tokio::test]
async fn who_may_not_ask_is_told_so() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let revoked = serve.create_key("revoked", &[]).await?;
    serve.revoke_key(&revoked.id).await?;
    let narrow = serve.create_key("narrow", &["--model", "another-model"]).await?;
    let api = serve.api();
    api.with_key(&revoked.api_key).unknown().await?;
    let nobody = system_tests::http().build()?;
    let url = format!("{}/v1/chat/completions", serve.endpoint());
    let mut refused = vec![Reply::of(nobody.post(&url).json(&who())).await?];
    for header in ["", "Bearer", "Bearer ", "Basic eDp5", "bearer\tx", "sk-tg-123", "Bearer x y"] {
        let request = nobody.post(&url).json(&who()).header("authorization", header);
        refused.push(Reply::of(request).await?);
    }
    for key in [revoked.api_key.as_str(), "nonsense", &"x".repeat(10_000), "sk-tg-", "\u{e9}"] {
        refused.push(api.with_key(key).chat(&who()).await?);
    }

    for reply in refused {
        let error = reply.error();
        assert_eq!((reply.status, &error["code"]), (401, &json!("invalid_api_key")), "{error}");
    }
    let unknown = api.chat(&with(who(), &json!({ "model": "gpt-5" }))).await?;
    let forbidden = api.with_key(&narrow.api_key).chat(&who()).await?;
    for reply in [unknown, forbidden] {
        let error = reply.error();
        assert_eq!((reply.status, &error["code"]), (404, &json!("model_not_found")), "{error}");
        assert_eq!(error["param"], "model", "{error}");
    }
    nothing_happened(&serve).await
}

#[tokio::test]
async fn what_is_not_there_is_told_so() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let api = serve.api();
    for (method, path, status) in [
        (Method::GET, "/v1/chat/completions", 405),
        (Method::DELETE, "/v1/chat/completions", 405),
        (Method::POST, "/v1/models", 405),
        (Method::PUT, "/healthz", 405),
        (Method::GET, "/", 404),
        (Method::POST, "/v1/audio/speech", 404),
        (Method::GET, "/v1/embeddings", 405),
        (Method::GET, "/v1/models/nothing", 404),
        (Method::GET, "/v1/../v1/keys", 404),
        (Method::POST, "/v1/chat/completions/", 404),
        (Method::GET, "/admin/v1/status", 404),
        (Method::GET, "/metrics", 404),
    ] {
        let reply = Reply::of(api.request(method.clone(), path)).await?;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
        assert!(reply.error()["message"].is_string(), "{method} {path}: {}", reply.body);
    }
    nothing_happened(&serve).await
}

/// What is wrong with the refusal of `change`, if anything is.
fn complaint(change: &Value, reply: &Reply, status: u16, param: &str) -> Option<String> {
    let error = reply.error();
    let clear = error["message"].as_str().is_some_and(|message| !message.is_empty());
    let good = reply.status == status && clear && error["param"] == param;
    let shown: String = change.to_string().chars().take(80).collect();
    (!good)
        .then(|| format!("{shown}: {status} {param} expected, not {} {}", reply.status, reply.body))
}

/// The server still answers, holds nothing, and has one row: that of the answer.
async fn nothing_happened(serve: &Serve) -> anyhow::Result<()> {
    let answer = serve.api().chat(&who()).await?.expect(200)?;
    serve.admin().quiet().await?;
    let rows = Ledger::open(serve.data()).await?.settled(1).await?;
    assert_eq!(rows[0].request, answer.request_id());
    Ok(())
}

fn user(content: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": content }] })
}

fn tool(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name } })
}

fn content_part(part: &Value) -> Value {
    json!({ "messages": [{ "role": "user", "content": [part] }] })
}
