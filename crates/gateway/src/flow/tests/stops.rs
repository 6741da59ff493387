//! An answer that a stop string or its only call ends costs what it came to, however workers tell of it.

use futures_util::StreamExt as _;

use super::outputs::{CALLS, asking, body, chunks, finish_of, saying, text_of, tools};
use super::*;

const LINE: &str = "One two three four five six seven eight nine ten eleven twelve.";

/// A gateway whose worker says one of `lines`, and tells `lot` tokens at a time.
async fn in_lots(lot: u32, lines: &[&str]) -> World {
    saying(lines, None, |worker| worker.in_lots(lot)).await
}

fn usage(reply: &str) -> Value {
    let mut usage = match chunks(reply) {
        chunks if chunks.is_empty() => body(reply)["usage"].clone(),
        chunks => chunks.last().unwrap()["usage"].clone(),
    };
    // What it saves to have computed a prompt before is another matter.
    usage.as_object_mut().unwrap().remove("prompt_tokens_details");
    usage
}

/// What is told of the cost of `asked`, whole and streamed, by workers that tell more and less at a time.
async fn costs(lines: &[&str], asked: &Value) -> Vec<Value> {
    let mut costs = Vec::new();
    for lot in [1, 2, 7, 50] {
        for stream in [false, true] {
            let world = in_lots(lot, lines).await;
            let mut asked = asked.clone();
            asked["stream"] = json!(stream);
            costs.push(usage(&world.chat(&asked).await));
            world.rows().await;
            let rows = world.written.rows.lock().unwrap().clone();
            let work: u64 = rows[0].work.iter().map(|work| work.gpu.nanos()).sum();
            assert_eq!(work, rows[0].usage.gpu.nanos());
            let accounts = world.worker.watch().await.unwrap().next().await.unwrap().accounts;
            assert_eq!(accounts.requests.nanos(), work, "every nanosecond has an owner");
            assert_eq!(accounts.requests + accounts.overhead, accounts.wall);
            tokio::time::resume(); // for the next world
        }
    }
    costs
}

fn all_the_same(costs: &[Value]) -> i64 {
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{costs:#?}");
    costs[0]["completion_tokens"].as_i64().unwrap()
}

#[tokio::test]
async fn tokens_after_a_stop_string_are_not_paid() {
    let costs = costs(&[LINE], &asking(&json!({ "stop": [" three"], "logprobs": true }))).await;
    let told = all_the_same(&costs);
    assert!((3..12).contains(&told), "{told}");
    assert_eq!(costs[0]["cost_details"]["gpu_nanos"], told * 1_000_000);
}

#[tokio::test]
async fn every_choice_is_paid_up_to_its_own_end() {
    let lines = [LINE, "three", "This one goes on without it."];
    let asked = asking(&json!({ "stop": "three", "n": 3, "temperature": 1, "seed": 3 }));
    all_the_same(&costs(&lines, &asked).await);
}

#[tokio::test]
async fn tokens_after_the_only_call_are_not_paid() {
    let asked = asking(&json!({ "tools": tools(), "parallel_tool_calls": false }));
    all_the_same(&costs(&[CALLS], &asked).await);
}

#[tokio::test]
async fn a_kept_answer_tells_the_same_tokens() {
    let world = in_lots(20, &[LINE]).await;
    let asked = asking(&json!({ "stop": [" four"] }));
    let (first, second) = (world.chat(&asked).await, world.chat(&asked).await);
    assert!(second.contains("x-tollgate-cache: hit"), "{second}");
    let tokens = |reply: &str| usage(reply)["completion_tokens"].clone();
    assert_eq!(tokens(&first), tokens(&second));
}

#[tokio::test]
async fn a_call_that_a_stop_string_cuts_is_none() {
    let world = in_lots(5, &[CALLS]).await;
    let mut asked = asking(&json!({ "tools": tools(), "stop": ["ln"] }));

    let whole = world.chat(&asked).await;
    let again = world.chat(&asked).await;
    asked["stream"] = json!(true);
    let streamed = world.chat(&asked).await;

    for reply in [&whole, &again] {
        let choice = &body(reply)["choices"][0];
        assert_eq!(choice["finish_reason"], "stop", "{choice}");
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1, "the first one is whole: {choice}");
    }
    let chunks = chunks(&streamed);
    assert_eq!(finish_of(&chunks, 0), ["stop"]);
    assert_eq!(text_of(&chunks, 0, "/delta/content"), "Let me see.");
}

#[tokio::test]
async fn an_answer_without_tokens_tells_that_there_are_none() {
    let world = saying(&["Hello there"], None, |worker| worker).await;
    let asked = asking(&json!({ "stop": ["Hello"], "logprobs": true }));
    let choice = &body(&world.chat(&asked).await)["choices"][0];
    assert_eq!(choice["logprobs"]["content"], json!([]), "{choice}");
}

#[tokio::test]
async fn the_bound_of_a_request_is_named_where_it_ends_the_answer() {
    let world = World::new(Duration::ZERO).await;
    for (bound, stream) in [(json!(0.00004), false), (json!("0.00004"), true)] {
        let mut asked = ask(1000, stream);
        asked["max_cost_usd"] = bound;

        let reply = world.chat(&asked).await;

        let told = if stream { chunks(&reply).last().unwrap().clone() } else { body(&reply) };
        let error = &told["error"];
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("max_cost_usd"), &json!("own_bound_exceeded"))
        );
    }
    let mut asked = ask(1000, false);
    asked["max_cost_usd"] = json!(0.000_000_1);
    let refused = &body(&world.chat(&asked).await)["error"];
    assert_eq!(
        (&refused["param"], &refused["code"]),
        (&json!("max_cost_usd"), &json!("own_bound_exceeded"))
    );
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_by_its_name() {
    let world = World::new(Duration::ZERO).await;
    let tool = |parameters: Value| json!([{ "type": "function", "function": { "name": "f", "parameters": parameters } }]);
    let many: Vec<Value> = (0..100).map(|at| {
        let words = "many words about it ".repeat(10);
        json!({ "type": "function", "function": { "name": format!("f{at}"), "description": words } })
    }).collect();
    for (more, blamed) in [
        (
            json!({ "tools": tool(json!({ "type": "string" })) }),
            "tools[0].function.parameters.type",
        ),
        (json!({ "tools": tool(json!({ "type": "array" })) }), "tools[0].function.parameters.type"),
        (json!({ "tools": tool(json!([])) }), "tools[0].function.parameters"),
        (json!({ "min_tokens": 201 }), "min_tokens"),
        (json!({ "min_tokens": 3000, "max_tokens": null }), "min_tokens"),
        (json!({ "max_tokens": 1.5 }), "max_tokens"),
        (json!({ "tools": many }), "tools"),
    ] {
        let reply = world.chat(&asking(&more)).await;
        assert_eq!(body(&reply)["error"]["param"], blamed, "{reply}");
    }
    let reply = world.chat(&asking(&json!({ "max_tokens": 2.0 }))).await;
    assert_eq!(body(&reply)["usage"]["completion_tokens"], 2);
}
