//! Stop strings: an answer costs what it came to, however it is told and whenever it is asked for.

use serde_json::{Value, json};
use system_tests::{Serve, attempt};

use crate::questions::{about, with};

#[tokio::test]
async fn the_same_request_with_a_stop_string_costs_the_same_every_time() -> anyhow::Result<()> {
    let mut serve = Serve::start().await?;
    let api = serve.api();
    let tokens = |usage: &Value| usage["completion_tokens"].as_i64();
    for more in [json!({ "stop": [" "] }), json!({ "stop": [" the", "."], "n": 2 })] {
        let mut costs = Vec::new();
        // A seed each, so that none is answered from the cache; greedy answers do not depend on it.
        for seed in 0..4 {
            let asked = json!({ "temperature": 0, "logprobs": true, "seed": seed });
            let request = with(with(about("stop strings", 200), &asked), &more);
            let whole = api.chat(&request).await?.expect(200)?;
            costs.push((tokens(&whole.json()["usage"]), whole.charge()));
            let streamed = api.stream(&with(request, &json!({ "seed": seed + 100 }))).await?;
            costs.push((tokens(&streamed.usage()), streamed.charge()));
        }
        assert!(costs[0].0.is_some() && costs[0].1 > Some(0), "{costs:?}");
        assert!(costs.iter().all(|cost| cost.0 == costs[0].0), "{costs:?}");
    }
    serve.admin().quiet().await?;
    serve.stop().await?;

    let data = serve.data().display().to_string();
    let output = attempt(&["ledger", "verify", "--data", &data]).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("clean: ") && said.contains("(1 at rest)"), "{said}");
    Ok(())
}
