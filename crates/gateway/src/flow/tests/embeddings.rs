//! Requests for vectors: what comes back, what it costs, and who is refused.

use base64::Engine as _;
use domain::ModelKind;

use super::*;

/// A gateway whose worker makes vectors of four numbers.
async fn embedding(pace: Duration, budget: Option<i64>) -> World {
    let info = ModelInfo { kind: ModelKind::Embedding { dimensions: 4 }, ..info() };
    World::around(ScriptedWorker::new(info, files(), 4).paced(pace), budget).await
}

impl World {
    fn embeddings_request(&self, body: &Value) -> String {
        self.request(body).replace("/v1/chat/completions", "/v1/embeddings")
    }

    /// The head and the body of the reply to a request for vectors.
    async fn embed(&self, body: &Value) -> (String, Value) {
        let mut connection = self.send(&self.embeddings_request(body)).await;
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), serde_json::from_str(body).unwrap_or_else(|_| panic!("{reply}")))
    }
}

fn asking(input: &Value) -> Value {
    json!({ "model": "scripted", "input": input })
}

#[tokio::test]
async fn vectors_come_in_order_with_their_usage_and_leave_one_row() {
    let world = embedding(Duration::ZERO, None).await;

    let (head, body) = world.embed(&asking(&json!([[1, 2, 3], [4], [5, 6]]))).await;

    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!("scripted")));
    for (at, text) in [&[1, 2, 3][..], &[4], &[5, 6]].into_iter().enumerate() {
        let datum = &body["data"][at];
        assert_eq!((&datum["object"], &datum["index"]), (&json!("embedding"), &json!(at)));
        let vector: Vec<f32> = serde_json::from_value(datum["embedding"].clone()).unwrap();
        assert_eq!(vector, world.worker.vector(text));
    }
    assert_eq!(
        (&body["usage"]["prompt_tokens"], &body["usage"]["total_tokens"]),
        (&json!(6), &json!(6))
    );
    assert!(body["usage"].get("completion_tokens").is_none());
    assert_eq!(body["usage"]["cost_details"]["gpu_nanos"], 6_000_000);
    assert!(head.contains("x-tollgate-charge-nano-usd: 600"), "{head}");
    assert_eq!(world.rows().await, [("stop".to_owned(), 0, 600)]);
}

#[tokio::test]
async fn base64_holds_the_numbers_as_little_endian_floats() {
    let world = embedding(Duration::ZERO, None).await;
    let mut body = asking(&json!([7, 8]));
    body["encoding_format"] = json!("base64");

    let (_, body) = world.embed(&body).await;

    let text = body["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let numbers = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap()));
    assert_eq!(numbers.collect::<Vec<_>>(), world.worker.vector(&[7, 8]));
}

#[tokio::test]
async fn texts_are_read_with_the_models_tokenizer() {
    let world = embedding(Duration::ZERO, None).await;
    let ids = tokenizers::Tokenizer::from_bytes(&files().tokenizer[..]).unwrap();
    let ids = ids.encode_fast("hello", true).unwrap().get_ids().to_vec();

    let (_, body) = world.embed(&asking(&json!("hello"))).await;

    let vector: Vec<f32> = serde_json::from_value(body["data"][0]["embedding"].clone()).unwrap();
    assert_eq!(vector, world.worker.vector(&ids));
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_and_nothing_is_held() {
    let world = embedding(Duration::ZERO, None).await;
    let with = |name: &str, value: Value| {
        let mut body = asking(&json!("a"));
        body[name] = value;
        body
    };
    for (body, param, told) in [
        (asking(&json!("")), "input", "must not be empty"),
        (asking(&json!(["a", ""])), "input[1]", "must not be empty"),
        (asking(&json!([[1], vec![1; 2049]])), "input[1]", "maximum context length is 2048"),
        (asking(&json!(vec![1; 2049])), "input", "maximum context length is 2048"),
        (asking(&json!([[1], [4000]])), "input[1]", "below 4000"),
        (with("dimensions", json!(2)), "dimensions", "leave `dimensions` out"),
        (with("encoding_format", json!("hex")), "encoding_format", "float or base64"),
        (with("model", json!("other")), "model", "does not exist"),
        (with("max_cost_usd", json!("0")), "max_cost_usd", "max_cost_usd"),
    ] {
        let (head, body) = world.embed(&body).await;
        let error = &body["error"];
        assert!(head.starts_with("HTTP/1.1 4"), "{head}");
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().unwrap().contains(told), "{error}");
    }
    assert!(world.embed(&with("dimensions", json!(4))).await.0.starts_with("HTTP/1.1 200"));
    assert_eq!(world.rows().await.len(), 1);
}

#[tokio::test]
async fn a_model_of_vectors_is_not_asked_for_text() {
    let world = embedding(Duration::ZERO, None).await;

    let reply = world.chat(&ask(1, false)).await;

    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("/v1/embeddings"), "{reply}");
}

#[tokio::test]
async fn a_model_of_text_is_not_asked_for_vectors() {
    let world = World::new(Duration::ZERO).await;

    let (head, body) = world.embed(&asking(&json!("a"))).await;

    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert!(body["error"]["message"].as_str().unwrap().contains("makes text"), "{body}");
    assert_eq!(body["error"]["param"], "model");
}

#[tokio::test]
async fn a_budget_pays_for_texts_to_its_last_token_and_not_beyond() {
    let world = embedding(Duration::ZERO, Some(1_000)).await;

    let (head, _) = world.embed(&asking(&json!(vec![1; 11]))).await;
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    let (head, _) = world.embed(&asking(&json!(vec![1; 10]))).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let (_, body) = world.embed(&asking(&json!([1]))).await;

    assert_eq!(body["error"]["code"], "insufficient_quota");
    assert_eq!(world.rows().await, [("stop".to_owned(), 0, 1_000)]);
}

#[tokio::test]
async fn vectors_that_never_came_are_not_charged() {
    let world = embedding(Duration::ZERO, None).await;
    (0..8).for_each(|_| world.worker.break_next_after(0));

    let (head, body) = world.embed(&asking(&json!([1]))).await;

    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(!body.to_string().contains("scripted break"), "our failures are not told to strangers");
    assert_eq!(world.rows().await, [("unavailable".to_owned(), 0, 0)]);
}

#[tokio::test]
async fn a_client_that_leaves_pays_for_what_its_texts_took_and_no_more() {
    let world = embedding(Duration::from_secs(1), None).await;
    // Ten lots of 64 texts, of which four are under way at a time.
    let texts = vec![vec![1]; 640];
    let connection = world.send(&world.embeddings_request(&asking(&json!(texts)))).await;
    while world.gateway.router().figures().workers[0].in_flight < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    drop(connection);

    let rows = world.rows().await;
    assert_eq!(rows, [("client_gone".to_owned(), 0, 4 * 64 * 100)]);
    assert_eq!(world.gateway.in_flight(), 0);
}

#[tokio::test]
async fn texts_that_take_too_long_are_given_up_and_nothing_is_charged() {
    let world = embedding(Duration::from_secs(50), None).await;

    // Ten lots, four at a time: in two minutes eight of them come, and that is no answer.
    let (head, _) = world.embed(&asking(&json!(vec![vec![1]; 640]))).await;

    assert!(head.starts_with("HTTP/1.1 504"), "{head}");
    assert_eq!(world.rows().await, [("deadline_exceeded".to_owned(), 0, 0)]);
}
