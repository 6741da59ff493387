//! The books: every nanosecond of a worker has an owner, and every row adds up.

use std::path::Path;

use anyhow::ensure;
use serde_json::json;
use system_tests::{Serve, attempt};

use crate::questions::{about, endless, with};

#[tokio::test]
async fn after_a_mixed_load_the_books_are_true_to_the_nanosecond() -> anyhow::Result<()> {
    let mut serve = Serve::start().await?;
    let poor = serve.create_key("poor", &["--budget", "usd=0.00002"]).await?;
    let api = serve.api();
    let whole = (0..12).map(|number| {
        let api = api.clone();
        async move { api.chat(&about(&format!("{number} cats"), 20 + number)).await }
    });
    for reply in futures_util::future::join_all(whole).await {
        reply?.expect(200)?;
    }
    let sampled = with(endless(30), &json!({ "temperature": 1.0, "seed": 7 }));
    api.stream(&sampled).await?;
    api.stream(&sampled).await?; // from the cache
    api.with_key(&poor.api_key).stream(&endless(500)).await?; // cut by its budget
    let mut left = api.open(&about("who leaves", 1500)).await?;
    left.texts(3).await?;
    drop(left);
    serve.admin().quiet().await?;
    serve.stop().await?;

    let said = verify(serve.data()).await?;

    ensure!(said.starts_with("clean: ") && said.contains("(1 at rest)"), "{said}");
    ensure!(said.contains("16 ledger rows"), "{said}");
    Ok(())
}

async fn verify(data: &Path) -> anyhow::Result<String> {
    let data = data.display().to_string();
    let output = attempt(&["ledger", "verify", "--data", &data]).await?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}
