//! What outlives a process, and that no two share it.

use system_tests::{Serve, attempt};

use crate::ledger::Ledger;
use crate::questions::{ENDLESS_PROMPT, about, dollars, endless, price, who};

#[tokio::test]
async fn keys_and_spending_outlive_the_process() -> anyhow::Result<()> {
    let mut serve = Serve::start().await?;
    let budget = price(ENDLESS_PROMPT, 100) + price(ENDLESS_PROMPT, 50);
    let key = serve.create_key("poor", &["--budget", &format!("usd={}", dollars(budget))]).await?;
    let api = serve.api().with_key(&key.api_key);
    assert_eq!(api.stream(&endless(100)).await?.charge(), Some(price(ENDLESS_PROMPT, 100)));

    serve.restart().await?;

    let told = api.stream(&about("a dragon", 1500)).await?;
    assert_eq!(told.usage()["completion_tokens"], 50, "{told:?}");
    api.chat(&who()).await?.expect(429)?;
    let rows = Ledger::open(serve.data()).await?.settled(2).await?;
    assert_eq!(rows.iter().map(|row| row.charge).sum::<i64>(), budget);
    serve.stop().await.map(|status| assert!(status.success(), "{status}"))
}

#[tokio::test]
async fn a_killed_process_leaves_one_row_for_what_it_had_admitted() -> anyhow::Result<()> {
    let mut serve = Serve::start().await?;
    let done = serve.api().chat(&endless(10)).await?.expect(200)?;
    let mut running = serve.api().open(&endless(1500)).await?;
    running.texts(3).await?;
    let request = running.told().request_id().to_owned();

    serve.kill().await?;
    assert!(running.rest().await.is_err(), "a stream that was cut off does not end well");
    serve.restart().await?;

    let rows = Ledger::open(serve.data()).await?.settled(2).await?;
    assert_eq!((rows[0].request.as_str(), rows[0].charge), (done.request_id(), price(17, 10)));
    assert_eq!((rows[1].request.as_str(), rows[1].outcome.as_str()), (&*request, "interrupted"));
    assert_eq!(rows[1].charge, 0);
    serve.api().chat(&endless(11)).await?.expect(200)?;
    serve.admin().quiet().await
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let data = serve.data().display().to_string();
    let second =
        ["serve", "--data", &data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let output = attempt(&second).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    serve.api().chat(&who()).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() -> anyhow::Result<()> {
    let serve = Serve::start().await?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().display().to_string();
    let taken = serve.endpoint().trim_start_matches("http://");
    for ports in
        [["--listen", taken, "--admin-listen", FREE], ["--listen", FREE, "--admin-listen", taken]]
    {
        let output = attempt(&[&["serve", "--data", &data][..], &ports[..]].concat()).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with(&format!("error: listen on {taken}: ")), "{said}");
    }
    Ok(())
}

const FREE: &str = "127.0.0.1:0";
