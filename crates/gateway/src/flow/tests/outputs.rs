//! What an answer may be beside one text: calls of functions, several choices, what is told of tokens.

use domain::Sampling;
use tokenizers::Tokenizer;

use super::*;

/// A gateway whose worker says one of `lines`, by the seed.
pub(super) async fn saying(
    lines: &[&str],
    budget: Option<i64>,
    how: impl FnOnce(ScriptedWorker) -> ScriptedWorker,
) -> World {
    World::around(how(speaker(files(), lines)), budget).await
}

/// The same of a model with these files.
pub(super) async fn saying_by(files: ModelFiles, lines: &[&str], budget: Option<i64>) -> World {
    World::around(speaker(files, lines), budget).await
}

fn speaker(files: ModelFiles, lines: &[&str]) -> ScriptedWorker {
    let tokenizer = Tokenizer::from_bytes(&files.tokenizer[..]).unwrap();
    let ids = |line: &&str| tokenizer.encode_fast(*line, false).unwrap().get_ids().to_vec();
    let info = ModelInfo { vocabulary: 4096, ..info() };
    ScriptedWorker::new(info, files, 8).saying(lines.iter().map(ids).collect())
}

/// A greedy request with `more` in it.
pub(super) fn asking(more: &Value) -> Value {
    let mut body = ask(200, false);
    body["temperature"] = json!(0);
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

pub(super) fn body(reply: &str) -> Value {
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {head}\n{body}"))
}

/// The chunks of a stream.
pub(super) fn chunks(reply: &str) -> Vec<Value> {
    let events = reply.split("data: ").filter(|event| event.starts_with('{'));
    events.map(|event| serde_json::from_str(event.split("\n\n").next().unwrap()).unwrap()).collect()
}

/// Everything that `choice` has at `path` of its deltas, as one text.
pub(super) fn text_of(chunks: &[Value], choice: u64, path: &str) -> String {
    let choices = chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
    let own = choices.filter(|it| it["index"] == choice);
    own.filter_map(|it| it.pointer(path)?.as_str().map(str::to_owned)).collect()
}

pub(super) fn finish_of(chunks: &[Value], choice: u64) -> Vec<Value> {
    let choices = chunks.iter().filter_map(|chunk| chunk["choices"].get(0));
    let own = choices.filter(|it| it["index"] == choice && !it["finish_reason"].is_null());
    own.map(|it| it["finish_reason"].clone()).collect()
}

pub(super) fn tools() -> Value {
    let function = |name: &str| json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } });
    json!([function("add"), function("weather")])
}

pub(super) const CALLS: &str = "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2]}}\n</tool_call>\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"K\u{f6}ln\"}}\n</tool_call>";

#[tokio::test]
async fn calls_are_told_from_content_whole_and_streamed_and_from_the_cache() {
    let world = saying(&[CALLS], None, |worker| worker).await;

    let first = world.chat(&asking(&json!({ "tools": tools() }))).await;
    let second = world.chat(&asking(&json!({ "tools": tools(), "stream": true }))).await;

    let whole = &body(&first)["choices"][0];
    assert_eq!(whole["finish_reason"], "tool_calls");
    let message = &whole["message"];
    assert_eq!(message["content"], "Let me see.");
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"a\": 1, \"b\": [2]}");
    assert_eq!(message["tool_calls"][1]["function"]["name"], "weather");
    let ids = [&message["tool_calls"][0]["id"], &message["tool_calls"][1]["id"]];
    assert!(ids[0] != ids[1] && ids[0].as_str().unwrap().starts_with("call_"), "{message}");
    assert!(second.contains("x-tollgate-cache: hit"), "{second}");
    let chunks = chunks(&second);
    assert_eq!(text_of(&chunks, 0, "/delta/content"), "Let me see.");
    assert_eq!(finish_of(&chunks, 0), ["tool_calls"]);
    let calls = chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/tool_calls"));
    let calls: Vec<&Value> = calls.flat_map(|calls| calls.as_array().unwrap()).collect();
    let names = calls.iter().filter_map(|call| call["function"]["name"].as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["add", "weather"]);
    assert_eq!(world.rows().await.len(), 2);
}

#[tokio::test]
async fn arguments_stream_in_pieces() {
    let world = saying(&[CALLS], None, |worker| worker).await;

    let reply = world.chat(&asking(&json!({ "tools": tools(), "stream": true }))).await;

    let (mut pieces, mut arguments) = (0, String::new());
    for chunk in chunks(&reply) {
        for call in chunk
            .pointer("/choices/0/delta/tool_calls")
            .into_iter()
            .flat_map(|it| it.as_array().unwrap())
        {
            assert!(call["id"].is_string() == call["function"]["name"].is_string(), "{call}");
            if call["index"] == 1 {
                pieces += 1;
                arguments.push_str(call["function"]["arguments"].as_str().unwrap());
            }
        }
    }
    assert_eq!(arguments, "{\"city\": \"K\u{f6}ln\"}");
    assert!(pieces > 2, "{pieces} pieces");
}

#[tokio::test]
async fn one_call_ends_an_answer_that_may_have_no_more() {
    let world = saying(&[CALLS], None, |worker| worker).await;

    let one = json!({ "tools": tools(), "parallel_tool_calls": false });
    let reply = body(&world.chat(&asking(&one)).await);
    let both = body(&world.chat(&asking(&json!({ "tools": tools() }))).await);

    assert_eq!(reply["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(reply["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(both["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn without_tools_what_looks_like_a_call_is_text() {
    let world = saying(&[CALLS], None, |worker| worker).await;

    for more in [json!({}), json!({ "tools": tools(), "tool_choice": "none" })] {
        let reply = body(&world.chat(&asking(&more)).await);
        assert_eq!(reply["choices"][0]["message"]["content"], CALLS);
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    }
}

const LINES: [&str; 3] = ["The first of three.", "Another one, the second.", "Third."];

fn line(seed: u64, choice: u32) -> &'static str {
    let sampling = Sampling { seed, ..Sampling::greedy() };
    LINES[(sampling.of_choice(choice).seed % 3) as usize]
}

#[tokio::test]
async fn several_choices_are_drawn_by_themselves_and_paid_with_one_prompt() {
    let world = saying(&LINES, None, |worker| worker).await;
    let one = body(&world.chat(&asking(&json!({ "seed": 5, "temperature": 1 }))).await);

    let reply = body(&world.chat(&asking(&json!({ "seed": 5, "temperature": 1, "n": 4 }))).await);

    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 4);
    for (index, choice) in (0_u32..).zip(choices) {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["message"]["content"], line(5, index));
        assert_eq!(choice["finish_reason"], "stop");
    }
    assert_eq!(choices[0]["message"], one["choices"][0]["message"], "the first is what one is");
    assert_eq!(reply["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
    let rows = world.rows().await;
    let tokens = reply["usage"]["completion_tokens"].as_i64().unwrap();
    assert_eq!((rows[1].0.as_str(), rows[1].1), ("stop", tokens));
    let prompt = one["usage"]["prompt_tokens"].as_i64().unwrap();
    assert_eq!(rows[1].2, prompt * 100 + tokens * 400);
}

#[tokio::test]
async fn streamed_choices_come_side_by_side_and_each_ends_once() {
    let world = saying(&LINES, None, |worker| worker).await;
    let asked = json!({ "seed": 9, "temperature": 1, "n": 3, "stream": true, "stream_options": { "include_usage": true } });

    let reply = world.chat(&asking(&asked)).await;

    let chunks = chunks(&reply);
    for index in 0..3_u32 {
        let own = u64::from(index);
        assert_eq!(text_of(&chunks, own, "/delta/content"), line(9, index));
        assert_eq!(finish_of(&chunks, own), ["stop"], "choice {index}");
    }
    let last = chunks.last().unwrap();
    assert!(last["usage"]["completion_tokens"].as_i64().unwrap() > 10, "{last}");
    assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"].is_null()));
    assert!(reply.contains("[DONE]"));
}

#[tokio::test]
async fn a_budget_ends_all_choices_at_the_last_token_it_pays_for() {
    for choices in [2_u32, 3, 8] {
        let worker = ScriptedWorker::new(info(), files(), 8);
        let world = World::around(worker, Some(100_000)).await;
        let mut asked = ask(1000, true);
        asked["n"] = json!(choices);

        let reply = world.chat(&asked).await;

        let chunks = chunks(&reply);
        for index in 0..u64::from(choices) {
            assert_eq!(finish_of(&chunks, index), ["length"]);
        }
        assert!(chunks.last().unwrap()["error"]["code"] == "insufficient_quota", "{reply}");
        let rows = world.rows().await;
        assert_eq!(rows[0].0, "budget");
        assert!(rows[0].2 <= 100_000 && rows[0].2 > 100_000 - 400, "charged {}", rows[0].2);
        tokio::time::resume(); // for the next world
    }
}

#[tokio::test]
async fn a_client_that_leaves_stops_all_choices() {
    let worker = ScriptedWorker::new(info(), files(), 4).paced(Duration::from_secs(1));
    let world = World::around(worker, None).await;
    let mut asked = ask(1000, true);
    asked["n"] = json!(4);
    let mut connection = world.send(&world.request(&asked)).await;

    until_events(&mut connection, 10).await;
    drop(connection);

    let rows = world.rows().await;
    assert_eq!(rows[0].0, "client_gone");
    assert!((4..=40).contains(&rows[0].1), "{} tokens were produced", rows[0].1);
    // All four places are free again.
    asked["max_tokens"] = json!(1);
    asked["stream"] = json!(false);
    assert!(world.chat(&asked).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_choice_that_fails_for_good_fails_the_request() {
    let world = World::new(Duration::ZERO).await;
    for _ in 0..8 {
        world.worker.break_next_after(1);
    }
    let mut asked = ask(50, false);
    asked["n"] = json!(2);

    let reply = world.chat(&asked).await;

    assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
    assert_eq!(world.rows().await[0].2, 0, "nothing was delivered");
}

#[tokio::test]
async fn choices_go_on_elsewhere_as_one_does() {
    let world = saying(&LINES, None, |worker| worker).await;
    let asked = asking(&json!({ "seed": 3, "temperature": 1, "n": 3 }));
    let undisturbed = body(&world.chat(&asked).await);
    for tokens in [2, 1, 3] {
        world.worker.break_next_after(tokens);
    }

    let disturbed = body(&world.chat(&asked).await);

    assert_eq!(disturbed["choices"], undisturbed["choices"]);
    let counted = |reply: &Value| reply["usage"]["completion_tokens"].clone();
    assert_eq!(counted(&disturbed), counted(&undisturbed));
}

#[tokio::test]
async fn tokens_are_told_of_as_far_as_their_text_is_shown() {
    let spoken = "Hello K\u{f6}ln \u{1f642}, this is the END of it.";
    for stop in [json!([]), json!(["END"]), json!(["ln"]), json!(["is the END of"])] {
        let world = saying(&[spoken], None, |worker| worker).await;
        let asked = json!({ "logprobs": true, "top_logprobs": 2, "stop": stop });
        let mut streamed = asking(&asked);
        streamed["stream"] = json!(true);

        let whole = &body(&world.chat(&asking(&asked)).await)["choices"][0];
        let chunks = chunks(&world.chat(&streamed).await);

        let content = whole["message"]["content"].as_str().unwrap();
        let told = whole["logprobs"]["content"].as_array().unwrap();
        let bytes = told.iter().flat_map(|it| it["bytes"].as_array().unwrap());
        let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().unwrap() as u8).collect();
        let spelled = String::from_utf8_lossy(&bytes).into_owned();
        assert!(spelled.starts_with(content) && spoken.starts_with(&spelled), "{spelled}");
        let last = told.last().unwrap()["bytes"].as_array().unwrap().len();
        assert!(bytes.len() - last < content.len(), "no token of the stop string: {spelled}");
        for (at, token) in told.iter().enumerate() {
            assert_eq!(token["logprob"], -(at as f64 + 1.0) / 8.0);
            let top = token["top_logprobs"].as_array().unwrap();
            assert_eq!((top.len(), &top[0]["bytes"]), (2, &token["bytes"]));
        }
        let parts = chunks.iter().filter_map(|it| it.pointer("/choices/0/logprobs/content"));
        let parts: Vec<Value> = parts.flat_map(|it| it.as_array().unwrap().clone()).collect();
        assert_eq!(&parts, told, "a stream tells the same");
        assert_eq!(text_of(&chunks, 0, "/delta/content"), content);
        tokio::time::resume(); // for the next world
    }
}

#[tokio::test]
async fn text_completions_tell_of_tokens_in_their_own_words() {
    let world = saying(&["A K\u{f6}ln \u{1f642} b"], None, |worker| worker).await;
    let asked = json!({ "model": "scripted", "prompt": "x", "logprobs": 1, "temperature": 0 });
    let request = world.request(&asked).replace("/chat/completions", "/completions");
    let mut connection = world.send(&request).await;
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await.unwrap();

    let choice = &body(&reply)["choices"][0];

    let told = &choice["logprobs"];
    let tokens = told["tokens"].as_array().unwrap();
    let offsets = told["text_offset"].as_array().unwrap();
    let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
    assert_eq!(tokens.len(), offsets.len());
    for (token, offset) in tokens.iter().zip(offsets) {
        let (token, offset) = (token.as_str().unwrap(), offset.as_u64().unwrap() as usize);
        let there: String = text[offset..].iter().collect();
        assert!(token.starts_with("bytes:") || there.starts_with(token), "{token} at {offset}");
    }
    assert_eq!(told["token_logprobs"][0], -0.125);
    assert_eq!(told["top_logprobs"][0].as_object().unwrap().len(), 1);
}
